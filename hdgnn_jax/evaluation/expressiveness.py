"""Tests of expressive power: pairs of structures to tell apart (Joshi et al. 2023)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.spatial.transform import Rotation

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.so3 import degrees
from hdgnn_jax.types import Params, PyTree

RADIUS = 1.0
CUTOFF = 1.1 * RADIUS
STEPS = 200
LEARNING_RATE = 1e-2
EPSILON = 1e-4
"""Adam divides gradients by their size plus this. Without it, Adam would learn from the rounding
errors (1e-7) by which a strictly equivariant model's states of the two structures differ."""


def n_fold(n: int, seed: int) -> list[Structure]:
    """A centre with n neighbours on a circle, and the same structure turned within its plane.

    The plane is random. The angle is far from every symmetry: between a quarter and three quarters
    of 2 pi / n. Both structures have the same moments of degrees l < n.
    """
    rng = np.random.default_rng([n, seed])
    turn = 2 * np.pi / n * rng.uniform(0.25, 0.75)
    plane = Rotation.random(rng=rng).as_matrix()
    structures = []
    for start in (0.0, turn):
        angle = start + 2 * np.pi * np.arange(n) / n
        circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], 1) * RADIUS
        positions = np.concatenate([np.zeros((1, 3)), circle]) @ plane.T
        structures.append(Structure(np.array([6] + [1] * n), positions, f"{n}-fold"))
    return structures


def k_chain(k: int) -> list[Structure]:
    """Two chains of k atoms between end atoms on the same side, and on opposite sides.

    An equivariant network needs k // 2 + 1 layers to tell them apart: only then the directions of
    both ends meet at one atom. With frames that do not turn with the molecule fewer may suffice.
    """
    line = np.stack([np.arange(k), np.zeros(k), np.zeros(k)], 1) * RADIUS
    tilt = RADIUS * np.array([0.6, 0.8])
    structures = []
    for side in (1, -1):
        ends = [[-tilt[0], tilt[1], 0], [(k - 1) * RADIUS + tilt[0], side * tilt[1], 0]]
        positions = np.concatenate([line, ends])
        structures.append(Structure(np.full(k + 2, 6), positions, f"{k}-chain"))
    return structures


def told_apart(
    model: HDGNN, pairs: Sequence[Sequence[Structure]], seed: int, *, invariant: bool = False
) -> np.ndarray:
    """Whether a model, trained on each pair alone, tells its two structures apart.

    The model and a linear classifier of the sum of the atoms' states are trained by `STEPS` steps
    of Adam. Frames are canonical, so that each training has two fixed inputs.

    Args:
      model: any; its head is not used.
      pairs: pairs of structures; the model is trained anew for each.
      seed: seed of all weights.
      invariant: whether the classifier sees degree 0 alone.

    Returns:
      [pairs] True where both structures get more than 90 % probability for the right class.
    """
    packed = [Structures.pack(pair) for pair in pairs]
    neighbors = [find_neighbors(structures, CUTOFF) for structures in packed]
    budget = batching.Budget(
        n_edge=max(len(n.senders) for n in neighbors),
        n_node=max(len(s.positions) for s in packed) + 1,
        n_graph=3,
    )
    both, nothing = np.arange(2), np.zeros(2)
    graphs = batching.stack(
        [
            batching.collate(s, n, nothing, both, budget)
            for s, n in zip(packed, neighbors, strict=True)
        ]
    )
    keys = jax.random.split(jax.random.key(seed), len(pairs))
    train = functools.partial(_train, model, 1 if invariant else degrees.size(model.hyper.degree))
    return np.asarray(jax.jit(jax.vmap(train))(graphs, keys)) > 0.9


def _train(
    model: HDGNN, size: int, graph: batching.MolecularGraph, key: jax.Array
) -> jax.Array:
    """The smaller probability of a right class, after training on the first `size` coefficients."""
    graph = jax.tree.map(jnp.asarray, graph)
    roll = jnp.zeros(graph.senders.shape)
    optimizer, labels = optax.adam(LEARNING_RATE, eps=EPSILON), jnp.array([1.0, -1.0])

    def margins(params: Params) -> jax.Array:
        x, _ = model.apply({"params": params["model"]}, graph, roll, method="states")
        owner = batching.graph_of_node(graph)
        total = jax.ops.segment_sum(x[:, :size], owner, graph.n_node.shape[0])[:2]
        right: jax.Array = labels * (total.reshape(2, -1) @ params["weight"] + params["bias"])
        return right

    def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
        params, state = carry
        grads = jax.grad(lambda p: jnp.sum(jax.nn.softplus(-margins(p))))(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    inner, outer = jax.random.split(key)
    width = size * model.hyper.channels
    params = {
        "model": model.init(inner, graph, roll, method="states")["params"],
        "weight": jax.random.normal(outer, (width,)) * width**-0.5,
        "bias": jnp.zeros(()),
    }
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
    return jax.nn.sigmoid(margins(params)).min()
