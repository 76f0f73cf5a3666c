"""What the prediction of the whole model must not depend on."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equivariance import equivariance_error
from molecules import KNOWN, graph_of, moved, permuted
from small import BUDGET, EXACT, SMALL, compiled, network, parameters, predict

from hdgnn_jax.graphs import batching

REAL = np.arange(len(KNOWN))
VARIANTS = [
    {},
    {"heads": ("dipole",), "tensor_product": "fully_connected"},
    {"heads": ("extent",), "attention": "softmax"},
]


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    """To 1e-4 relative."""
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).mean())


@pytest.mark.parametrize("options", VARIANTS)
def test_translation_changes_nothing(options):
    """Each molecule by a vector of its own."""
    shift = np.random.default_rng(0).normal(size=(len(KNOWN), 3), scale=3)
    apart = moved(KNOWN, np.repeat(shift, KNOWN.n_atoms, 0))
    assert_close(predict(apart, **options), predict(KNOWN, **options))


@pytest.mark.parametrize("options", VARIANTS)
def test_order_of_atoms_changes_nothing(options):
    """Nor does the order of the edges that follows from it."""
    for seed in range(3):
        assert_close(predict(permuted(KNOWN, seed), **options), predict(KNOWN, **options))


@pytest.mark.parametrize("options", VARIANTS)
def test_company_changes_nothing(options):
    """A molecule alone, the rest being padding, has the number it has among the others."""
    together = predict(KNOWN, **options)
    for k in REAL:
        alone = graph_of(KNOWN, budget=BUDGET, order=REAL[k : k + 1])
        prediction = compiled(**options)(parameters(**options), alone)
        assert np.isfinite(prediction).all()
        assert_close(prediction[:1, 0], together[k : k + 1])


def test_padding_changes_no_value_and_no_gradient():
    """Two budgets, one loss, one gradient to parameters and positions, and no NaN."""
    model, params = network(**{**SMALL, "layers": 1}), parameters(layers=1)

    def loss(params, positions, graph):
        graph = graph._replace(nodes=graph.nodes._replace(positions=positions))
        predictions = model.apply(params, graph)
        return jnp.sum(jnp.where(batching.graph_mask(graph)[:, None], predictions, 0) ** 2)

    results = []
    for budget in (BUDGET, batching.Budget(301, 77, 19)):
        graph = graph_of(KNOWN, budget=budget)
        run = jax.jit(jax.value_and_grad(loss, (0, 1)))
        value, (weights, positions) = run(params, graph.nodes.positions, graph)
        assert np.all(positions[len(KNOWN.positions) :] == 0)
        results.append((value, weights, positions[: len(KNOWN.positions)]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max()),
        *results,
    )


def rotation_error(**options) -> float:
    return equivariance_error(functools.partial(predict, **options), KNOWN)


def test_rotation_is_exact_without_learned_pathways_on_an_exact_sphere():
    """Attention (0, 0, 0, 1); on the default sphere the aliasing can be seen."""
    assert rotation_error(**EXACT) < 1e-4
    assert rotation_error(**{**EXACT, "sphere_order": None}) > 10 * rotation_error(**EXACT)


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_product": "fully_connected"},
        {"product_degree": 1, "heads": ("dipole",)},
        {"attention": "sigmoid", "pathway": "none", "tensor_product": "fully_connected"},
        {"attention": "sigmoid", "pathway": "linear"},
        {"attention": "softmax", "pathway": "so2"},
        {"attention": "sigmoid", "pathway": "so2", "m_max": 2, "extra_linear": True},
    ],
)
def test_rotation_is_exact_for_every_equivariant_variant(options):
    """On an exact sphere."""
    assert rotation_error(**{**EXACT, **options}) < 1e-4


def test_rotation_is_exact_for_the_invariant_branch():
    """With the sphere cut off from the output, f alone speaks."""
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if "sphere_out" in str(path) else leaf, parameters()
    )

    def box(structures):
        return compiled()(params, graph_of(structures, budget=BUDGET))[REAL]

    assert equivariance_error(box, KNOWN) < 1e-4
    assert np.std(box(KNOWN)) > 0.1
