"""The options of the whole model do what its docstring says, and bad ones say what they broke."""

from __future__ import annotations

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shortened
import xla_flags
from molecules import CUTOFF, KNOWN, graph_of
from small import (
    BUDGET,
    EXACT,
    SMALL,
    compiled,
    loss_of,
    network,
    parameters,
    predict,
    rms,
    stirred,
)  # fmt: skip

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models import hdgnn
from hdgnn_jax.models.hdgnn import HDGNN, edge_rolls
from hdgnn_jax.models.heads import MoleculeHead
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.so3 import sphere

GRAPH = jax.tree.map(jnp.asarray, graph_of(KNOWN, budget=BUDGET))
ATOMS = len(KNOWN.positions)
REAL = np.arange(len(KNOWN))


def state_and_prediction(
    model: HDGNN, params: dict, graph: batching.MolecularGraph
) -> tuple[np.ndarray, np.ndarray]:
    """[atoms, S, C] as it reaches the head, and what the head makes of it."""

    @jax.jit
    def run(params, graph):
        seen = []

        def look(call, args, kwargs, context):
            if isinstance(context.module, MoleculeHead):
                seen.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(look):
            roll = jnp.zeros(graph.senders.shape)
            prediction = model.apply(params, graph, roll, method="predict")
        return seen[0][: int(n_atoms)], prediction[: len(graph.n_node) - 1, 0]

    n_atoms = np.sum(graph.n_node[:-1])
    return run(params, jax.tree.map(jnp.asarray, graph))


SHELLS = {"max_neighbors": 10, "near_neighbors": 4, "far_degree": 1, "far_hidden": 4}
BAD = [
    ({"tensor_product": "outer"}, "tensor_product must be one of metp, fully_connected"),
    ({"heads": ("forces",)}, "heads must be one of invariant, mean, extent, dipole"),
    ({"heads": ()}, "heads must not be empty"),
    ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
    ({"attention": "tanh"}, "attention must be one of sigmoid, softmax"),
    ({"attention": (1.0, 2.0)}, "attention needs four weights"),
    ({"frame": "fixed"}, "frame must be one of random, canonical, or a whole"),
    ({"frame": 0}, "frame must be one of random, canonical"),
    ({"frame": True}, "frame must be one of random, canonical.*not True"),
    ({"evaluation_frame": -2}, "evaluation_frame must be one of"),
    ({"evaluation_frame": "random"}, "evaluation is deterministic"),
    ({"m_max": 3}, "m_max must lie between 0 and degree = 2"),
    ({"product_degree": -1}, "product_degree must lie between 0 and degree = 2"),
    ({"degree": 0, "m_max": 0, "product_degree": 0, "heads": ("dipole",)}, "dipole head needs"),
    ({"cutoff": 0.0}, "cutoff must be positive"),
    ({"neighbors": -1.0}, "neighbors must be positive"),
    ({"layers": 0}, "layers must be positive"),
    ({"n_gaussians": 1}, "n_gaussians"),
    ({"channels": 0}, "channels"),
    ({"elements": ()}, "elements"),
    ({"update_channels": 0}, "update_channels must be positive"),
    ({"near_neighbors": 4}, "near_neighbors must lie between 1 and max_neighbors = None"),
    ({"near_neighbors": 12, "max_neighbors": 12}, "between 1 and max_neighbors = 12, not 12"),
    ({"max_neighbors": 0}, "max_neighbors must be positive, not 0"),
    ({**SHELLS, "far_degree": 3}, "far_degree must not exceed degree"),
    ({**SHELLS, "product_degree": 2}, "product_degree must lie between 0 and far_degree = 1"),
]


@pytest.mark.parametrize(("options", "rule"), BAD)
def test_a_bad_hyper_parameter_names_the_rule(options, rule):
    """In the constructor, before anything is computed."""
    with pytest.raises(ValueError, match=rule):
        network(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"sphere_rule": "spiral"}, "must be 'lebedev' or 'product'"),
        ({"sphere_order": 3}, "order 4 or more"),
        ({"sphere_rule": "product", "sphere_order": 9}, "has no order"),
    ],
)
def test_a_bad_sphere_names_the_rule(options, rule):
    """At the latest when the model is first used."""
    with pytest.raises(ValueError, match=rule):
        network(**{**SMALL, **options}).init(jax.random.key(0), GRAPH)


def test_neighbours_of_another_cutoff_are_refused():
    """They would be too few, or more than the model was trained on."""
    graph = graph_of(KNOWN, budget=BUDGET)
    model = network(**{**SMALL, "cutoff": CUTOFF + 1})
    with pytest.raises(ValueError, match=f"found with cutoff = {CUTOFF}, the model has"):
        jax.eval_shape(model.apply, parameters(), graph)


def test_evaluation_is_deterministic():
    """The same bits twice, and no random numbers asked for."""
    np.testing.assert_array_equal(predict(KNOWN), predict(KNOWN))


def test_random_rolls_belong_to_the_edge_not_to_its_place():
    """They differ between keys and edges; order, batch and padding change no bit."""
    order = np.random.default_rng(0).permutation(len(KNOWN))
    wide = batching.Budget(200, 60, 12)

    def rolls(key: int, graph: batching.MolecularGraph) -> list[np.ndarray]:
        ends = np.cumsum(graph.n_edge)[: len(KNOWN)]
        return np.split(np.asarray(edge_rolls(jax.random.key(key), graph)), ends)[:-1]

    here = rolls(0, GRAPH)
    there = rolls(0, graph_of(KNOWN, budget=wide, order=order))
    for place, k in enumerate(order):
        np.testing.assert_array_equal(there[place], here[k])
    every = np.concatenate([*here, *rolls(1, GRAPH)])
    assert len(np.unique(every)) == len(every)
    assert 0 <= every.min() < 0.5 < 5.7 < every.max() < 2 * np.pi


def test_random_frames_follow_the_key_and_the_molecule():
    """Training draws from the stream `frame`: needed, and the same wherever the molecule is."""
    model, params = network(**SMALL), parameters()
    with pytest.raises(flax.errors.InvalidRngError, match="frame"):
        jax.eval_shape(lambda: model.apply(params, GRAPH, train=True))

    @jax.jit
    def train(params, graph, key):
        return model.apply(params, graph, train=True, rngs={"frame": key})[REAL]

    order = REAL[::-1]
    one = train(params, GRAPH, jax.random.key(0))
    again = train(params, graph_of(KNOWN, budget=BUDGET, order=order), jax.random.key(0))
    np.testing.assert_allclose(again, one[order], rtol=1e-5, atol=1e-5)
    assert np.abs(train(params, GRAPH, jax.random.key(1)) - one).max() > 1e-4


def test_frames_can_be_fixed_or_averaged():
    """n is the mean over the rolls 2 pi k / n; canonical is n = 1, in training too."""
    model, params = network(**SMALL), parameters()
    full = jax.jit(functools.partial(model.apply, method="predict"))
    angles = 2 * np.pi * np.arange(3) / 3
    rolls = [np.full(GRAPH.senders.shape, a, np.float32) for a in angles]
    each = [full(params, GRAPH, roll)[REAL] for roll in rolls]
    assert np.std(each, 0).max() > 1e-4
    np.testing.assert_allclose(
        compiled(evaluation_frame=3)(params, GRAPH)[REAL], np.mean(each, 0), rtol=1e-5, atol=1e-5
    )
    canonical = predict(KNOWN)[:, None]
    np.testing.assert_allclose(each[0], canonical, rtol=1e-5, atol=1e-5)
    fixed = jax.jit(functools.partial(network(**SMALL, frame="canonical").apply, train=True))
    np.testing.assert_allclose(fixed(params, GRAPH)[REAL], canonical, rtol=1e-5, atol=1e-5)


def test_residual_adds_the_shortcut():
    """After one layer the two states differ by x^0 = (embedding, 0, ..), the sum being rescaled."""
    params = parameters(layers=1)
    with_, without = (
        state_and_prediction(network(**{**SMALL, "layers": 1, "residual": r}), params, GRAPH)[0]
        for r in (True, False)
    )
    species = np.searchsorted(HyperParameters.elements, GRAPH.nodes.atomic_numbers[:ATOMS])
    start = np.zeros_like(with_)
    start[:, 0] = params["params"]["embedding"]["table"][species]
    np.testing.assert_allclose(with_ * 2**0.5 - without, start, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["product", "lebedev"])
def test_every_rule_approximates_the_same_sphere(rule):
    """The default of either is near the exact one."""
    exact = predict(KNOWN, **EXACT)
    options = {**EXACT, "sphere_rule": rule, "sphere_order": None}
    near = np.asarray(compiled(**options)(parameters(**EXACT), GRAPH)[REAL, 0])
    assert 0 < np.abs(near - exact).max() < 1e-2 * np.abs(exact).max()


def test_product_degree_limits_what_the_product_makes():
    """With L' = 0 and only the product, no higher degree ever appears; with 1 it does."""
    for degree, appears in ((0, False), (1, True)):
        options = {**EXACT, "layers": 1, "product_degree": degree}
        model = network(**{**SMALL, **options})
        state, _ = state_and_prediction(model, parameters(**options), GRAPH)
        assert (rms(state, 1) > 1e-2 * rms(state, 0)) == appears
        assert appears or rms(state, 1) + rms(state, 2) < 1e-5 * rms(state, 0)


@pytest.mark.parametrize(("attention", "weight"), [("softmax", 0.25), ("sigmoid", 0.5)])
def test_attention_is_a_softmax_over_the_terms_or_a_sigmoid_of_each(attention, weight):
    """Logits of one value are four weights of 1/4; logits of 0 are sigmoids of 1/2."""
    options = {} if attention == HyperParameters.attention else {"attention": attention}
    params = parameters(**options)

    def flat(path: tuple, leaf: np.ndarray) -> np.ndarray:
        last = [str(key.key) for key in path][-2:]
        value = {"softmax": 0.7, "sigmoid": 0.0}[attention] * (last[1] == "bias")
        return np.full_like(leaf, value) if last[0] == "attention" else leaf

    params = jax.tree_util.tree_map_with_path(flat, params)
    fixed = compiled(attention=(weight,) * 4)(params, GRAPH)
    learned = compiled(**options)(params, GRAPH)
    np.testing.assert_allclose(learned[REAL], fixed[REAL], rtol=1e-5, atol=1e-5)


def test_sum_is_extensive():
    """Two copies out of each other's reach have twice the sum."""
    far = np.array([[40.0, 0, 0]])
    twice = [
        Structure(np.tile(m.atomic_numbers, 2), np.concatenate([m.positions, m.positions + far]))
        for m in KNOWN
    ]
    # One by one they fit the usual shape.
    double = np.concatenate([predict(Structures.pack([one])) for one in twice])
    np.testing.assert_allclose(double, 2 * predict(KNOWN), rtol=1e-4, atol=1e-5)


def test_bfloat16_products_stay_close():
    """The result is float32 and differs by a few of the factors' roundings."""
    rough = compiled(precision="bfloat16")(parameters(), GRAPH)
    exact = compiled()(parameters(), GRAPH)
    assert rough.dtype == jnp.float32
    error = np.abs(rough - exact)[REAL].max() / np.abs(exact)[REAL].max()
    assert 1e-5 < error < 0.05


FIRST_DEGREE = {"degree": 1, "product_degree": 1}


@functools.cache
def value_and_gradient(**options) -> tuple[jax.Array, dict]:
    """In training, with layers in a loop, as `conftest.py` has them."""
    return loss_of(**FIRST_DEGREE, **options)(parameters(**FIRST_DEGREE), GRAPH)


def test_what_users_compile_is_the_same_function(monkeypatch):
    """Layers one after another, sums written out, and fusions by way of MLIR."""
    ours = value_and_gradient()
    monkeypatch.setattr(hdgnn, "UNROLLED", shortened.UNROLLED)
    monkeypatch.setattr(sphere, "WRITTEN_OUT", shortened.WRITTEN_OUT)
    arguments = parameters(**FIRST_DEGREE), GRAPH
    has_both = xla_flags.known_to_xla([xla_flags.OLDER_FUSIONS])
    options = {"xla_cpu_use_fusion_emitters": True} if has_both else None
    of_users = loss_of(**FIRST_DEGREE).lower(*arguments).compile(options)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()),
        ours,
        of_users(*arguments),
    )


def test_rematerialised_layers_are_the_same_function():
    """Value and gradient."""
    assert hdgnn.UNROLLED == 0
    kept, again = value_and_gradient(), value_and_gradient(remat=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()),
        kept,
        again,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("envelope", [True, False])
def test_envelope_lets_atoms_cross_the_cutoff(envelope):
    """Energy and forces are continuous there with it, and the energy jumps without."""
    model = network(**{**SMALL, **FIRST_DEGREE, "layers": 1, "envelope": envelope})
    z = np.array([8, 1, 6])

    def energy(x, graph):
        there = graph._replace(nodes=graph.nodes._replace(positions=x))
        return model.apply(params, there)[0, 0]

    run = jax.jit(jax.value_and_grad(energy) if envelope else lambda *given: (energy(*given), 0))
    results, budget = [], batching.Budget(8, 5, 2)
    for gap in (-1e-5, 1e-5):
        x = np.array([[0, 0, 0], [0.6, 0.7, 0.2], [0, 0, CUTOFF + gap]])
        graph = graph_of(Structures.pack([Structure(z, x)]), budget=budget)
        params = stirred(model.init, graph)
        padded = np.concatenate([x, np.zeros((2, 3))])
        results.append((int(graph.n_edge[0]), *run(padded, graph)))
    (n_in, e_in, g_in), (n_out, e_out, g_out) = results
    assert n_in == n_out + 2
    if envelope:
        assert abs(e_in - e_out) < 1e-4 * abs(e_in)
        np.testing.assert_allclose(g_in, g_out, atol=1e-3 * np.abs(g_in).max())
    else:
        assert abs(e_in - e_out) > 1e-3 * abs(e_in)


@pytest.mark.usefixtures("x64")
def test_forces_are_the_finite_differences_of_the_energy_at_poles():
    """In float64, of an equivariant model: bonds along +y and -y. `test_forces.py` has the rest."""
    graph = graph_of(KNOWN, budget=BUDGET)
    model = network(**{**SMALL, **EXACT, **FIRST_DEGREE, "layers": 1})
    params = stirred(model.init, graph)

    @jax.jit
    @jax.value_and_grad
    def energy(x):
        there = graph._replace(nodes=graph.nodes._replace(positions=x))
        return jnp.sum(model.apply(params, there)[REAL])

    x = np.asarray(graph.nodes.positions, np.float64)
    gradient = np.asarray(energy(x)[1])
    assert np.isfinite(gradient).all()
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(4):
        way = rng.normal(size=x.shape) * (np.arange(len(x)) < ATOMS)[:, None]
        slope = (energy(x + step * way)[0] - energy(x - step * way)[0]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * way), slope, rtol=1e-5, atol=1e-6)
