"""How a network starts: alive in every layer, each weight with a gradient, able to learn."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from molecules import graph_of, random_molecules
from small import SMALL, network, quick_key, rms

from experiments.configs import ablations
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure
from hdgnn_jax.models.gates import STATES
from hdgnn_jax.models.hdgnn import HDGNN, Layer
from hdgnn_jax.types import PyTree

ALIVE = {
    **{
        name: fields for name, fields in ablations.VARIANTS.items()
        # Other weights than `learned_weights` has, by the same code.
        if fields.get("rescale", True) and name != "equal_weights"
    },
    "scalars_and_vectors": {
        "pathway": "none", "tensor_product": "depthwise", "degree": 1, "product_degree": 1,
        "sphere_order": 3, "squeeze_excite": False,
    },
    "degree_4": {"degree": 4, "tensor_product": "fully_connected"},
    "no_residual": {"layers": 1, "residual": False},
}  # fmt: skip


HEADS = {
    "baseline": ("invariant",), "softmax": ("invariant", "dipole"),
    "degree_4": ("invariant", "extent"),
}  # fmt: skip
"""Variants in which every weight counts in each layer, with heads that give one number each."""


def compiled_start(model: HDGNN) -> Callable[..., tuple[np.ndarray, np.ndarray, PyTree]]:
    """`(params, graph)` -> states after each layer [K, N, S, C], predictions [G, F], and for each
    head the slopes of its predictions' squares, [F, ..]."""

    def keep(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, Layer) and context.method_name == "__call__":
            context.module.sow(STATES, "after", result[0][0])
        return result

    @jax.jit
    def run(params, graph):
        def predicted(params):
            with nn.intercept_methods(keep):
                out, variables = model.apply(
                    {"params": params}, graph, train=True, mutable=[STATES]
                )
            return out, variables[STATES]["stack"]["after"][0]

        out, back, states = jax.vjp(predicted, params, has_aux=True)
        ways = 2 * jnp.where(batching.graph_mask(graph)[:, None], out, 0)
        of_heads = jnp.eye(out.shape[1])[:, None] * ways
        return states, out, jax.lax.map(lambda way: back(way)[0], of_heads)

    return lambda *arguments: jax.device_get(run(*arguments))


@pytest.mark.parametrize("variant", ALIVE)
def test_a_network_starts_alive(variant):
    """In every layer each degree is of order one, atoms of one element differ by l = 0, and each
    weight has a gradient from each head, whatever the molecules; the output is below one."""
    heads = HEADS.get(variant, ("invariant",))
    options = {**SMALL, "channels": 32, "layers": 3, "edge_channels": 32, **ALIVE[variant]}
    budget = batching.Budget(1600, 240, 25)
    for seed in range(3 if variant in HEADS else 1):
        structures = random_molecules(24, seed)
        graph = jax.tree.map(jnp.asarray, graph_of(structures, budget=budget))
        if seed == 0:
            usual = float(np.mean(graph.n_edge[:-1] / graph.n_node[:-1]))
            fields = {**options, "heads": heads, "neighbors": usual, "frame": "canonical"}
            model = network(**fields)
            init, run = jax.jit(model.init), compiled_start(model)
        params = init(quick_key(seed), graph)["params"]
        states, predictions, slopes = run(params, graph)
        real = np.asarray(graph.nodes.atomic_numbers) > 0
        species = np.asarray(graph.nodes.atomic_numbers)[real]
        for layer, state in enumerate(states[:, real]):
            assert all(0.2 < rms(state, l) < 2.5 for l in range(model.hyper.degree + 1)), layer
            apart = [
                state[species == z, 0] - state[species == z, 0].mean(0) for z in np.unique(species)
            ]
            differ = np.sqrt(np.mean(np.concatenate(apart) ** 2)) / rms(state, 0)
            assert differ > (0.1 if layer == 0 else 0.25), (layer, differ)
        assert 0.01 < np.sqrt(np.mean(predictions[: len(structures), 0] ** 2)) < 1
        for k, head in enumerate(heads):
            of_head = jax.tree.map(lambda leaf, k=k: leaf[k], slopes)
            # More than rounding.
            largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_head))
            for path, leaf in jax.tree_util.tree_leaves_with_path(of_head):
                name = jax.tree_util.keystr(path)
                if "vector" in name and head != "dipole":
                    continue
                # The first layer sees l = 0 alone: weights of other degrees do nothing there.
                later = 0 if variant in HEADS else 1
                for part in (leaf, *(leaf[later:] if "stack" in name else ())):
                    assert np.abs(part).max() > 1e-6 * largest, (head, name)


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

    assert fit(jax.jit(model.init)(quick_key(0), graph)) < 0.02


def pair_sum(molecule: Structure) -> float:
    z, x = np.sqrt(molecule.atomic_numbers), molecule.positions
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    return float(np.sum(z[:, None] * z * np.exp(-distance) * (distance > 0)))
