"""How a network starts: alive in every layer, each weight with a gradient, able to learn."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from molecules import graph_of, random_molecules
from small import SMALL, loss_of, network, rms

from experiments.configs import ablations
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure
from hdgnn_jax.models.gates import STATES
from hdgnn_jax.models.hdgnn import HDGNN, Layer
from hdgnn_jax.types import PyTree

ALIVE = {
    **{name: fields for name, fields in ablations.VARIANTS.items() if fields.get("rescale", True)},
    "depthwise": {"pathway": "none", "tensor_product": "depthwise", "squeeze_excite": False},
    "scalars_and_vectors": {
        "pathway": "none", "tensor_product": "depthwise", "degree": 1, "product_degree": 1,
        "sphere_order": 3,
    },
    "degree_4": {"degree": 4, "tensor_product": "fully_connected"},
    "no_residual": {"layers": 1, "residual": False},
}  # fmt: skip


def at_start(
    model: HDGNN, graph: batching.MolecularGraph
) -> tuple[np.ndarray, np.ndarray, PyTree]:
    """States after each layer [K, N, S, C], predictions [G, F], and the slopes of their squares."""

    def keep(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, Layer) and context.method_name == "__call__":
            context.module.sow(STATES, "after", result[0][0])
        return result

    def loss(params):
        with nn.intercept_methods(keep):
            out, variables = model.apply({"params": params}, graph, train=True, mutable=[STATES])
        real = batching.graph_mask(graph)[:, None]
        return jnp.sum(jnp.where(real, out, 0) ** 2), (variables[STATES]["stack"]["after"][0], out)

    params = jax.jit(model.init)(jax.random.key(0), graph)["params"]
    slopes, (states, predictions) = jax.jit(jax.grad(loss, has_aux=True))(params)
    return jax.device_get((states, predictions, slopes))


@pytest.mark.parametrize("variant", ALIVE)
def test_a_network_starts_alive(variant):
    """In every layer each degree is of order one, atoms of one element differ by l = 0, and each
    weight has a gradient; the output is below one."""
    options = {**SMALL, "channels": 32, "layers": 3, "edge_channels": 32, **ALIVE[variant]}
    structures = random_molecules(24, 0)
    graph = jax.tree.map(jnp.asarray, graph_of(structures, budget=batching.Budget(1600, 240, 25)))
    usual = float(np.mean(graph.n_edge[:-1] / graph.n_node[:-1]))
    model = network(**{**options, "neighbors": usual, "frame": "canonical"})
    states, predictions, slopes = at_start(model, graph)
    real = np.asarray(graph.nodes.atomic_numbers) > 0
    species = np.asarray(graph.nodes.atomic_numbers)[real]
    for layer, state in enumerate(states[:, real]):
        assert all(0.2 < rms(state, l) < 2.5 for l in range(model.hyper.degree + 1)), layer
        apart = [
            state[species == z, 0] - state[species == z, 0].mean(0) for z in np.unique(species)
        ]
        differ = np.sqrt(np.mean(np.concatenate(apart) ** 2)) / rms(state, 0)
        assert differ > (0.1 if layer == 0 else 0.25), (layer, differ)
    assert 0.01 < np.sqrt(np.mean(predictions[: len(structures)] ** 2)) < 1
    # More than rounding.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes))
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(path)
        # The first layer sees l = 0 alone: weights of other degrees do nothing there.
        for part in (leaf, *(leaf[1:] if "stack" in name else ())):
            assert np.abs(part).max() > 1e-6 * largest, name


@pytest.mark.parametrize(
    ("tensor_product", "attention", "head"),
    [
        ("metp", "sigmoid", "invariant"),
        ("metp", "softmax", "dipole"),
        ("fully_connected", "sigmoid", "extent"),
    ],
)
def test_every_parameter_receives_a_gradient(tensor_product, attention, head):
    """From the start, in every layer, whatever the molecules."""
    options = {"tensor_product": tensor_product, "attention": attention, "heads": (head,)}
    gradient = loss_of(**options)
    init = jax.jit(network(**{**SMALL, **options}).init)
    for seed in range(3):
        graph = graph_of(random_molecules(8, seed), budget=batching.Budget(480, 72, 9))
        params = init(jax.random.key(seed), graph)
        slopes = gradient(params, graph)[1]
        # More than rounding.
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes))
        for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
            name = jax.tree_util.keystr(path)
            for layer, part in enumerate(leaf if "stack" in name else leaf[None]):
                assert np.abs(part).max() > 1e-6 * largest, (name, layer)


def test_fits_16_molecules():
    """A smooth function of the pairs, to under 2 % of its spread."""
    molecules = random_molecules(16, seed=5, atoms=(3, 5))
    targets = np.array([pair_sum(molecule) for molecule in molecules])
    targets = (targets - targets.mean()) / targets.std()
    graph = graph_of(molecules, targets=targets)
    model = network(**{**SMALL, "layers": 1, "channels": 8, "hidden": 32, "frame": "canonical"})
    steps = 100
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def loss(params):
        return jnp.mean((model.apply(params, graph, train=True)[:16, 0] - targets) ** 2)

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        return jnp.abs(model.apply(params, graph)[:16, 0] - targets).mean()

    assert fit(jax.jit(model.init)(jax.random.key(0), graph)) < 0.02


def pair_sum(molecule: Structure) -> float:
    z, x = np.sqrt(molecule.atomic_numbers), molecule.positions
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    return float(np.sum(z[:, None] * z * np.exp(-distance) * (distance > 0)))
