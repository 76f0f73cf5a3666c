"""Losses over the real graphs and atoms of a padded batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching
from hdgnn_jax.types import PyTree


class Counts(NamedTuple):
    """Numbers of real graphs and atoms in a batch, the denominators of its means."""

    graphs: jax.Array
    atoms: jax.Array


def count(graph: batching.MolecularGraph) -> Counts:
    """Counts the real graphs and atoms of one padded graph."""
    real = batching.graph_mask(graph)
    return Counts(jnp.sum(real), jnp.sum(jnp.where(real, graph.n_node, 0)))


def l1(
    outputs: PyTree, graph: batching.MolecularGraph, counts: Counts, forces_weight: float = 0.0
) -> jax.Array:
    """Mean absolute error of the targets, plus `forces_weight` times that of the forces.

    Errors of vectors, tensors and forces are means over components. Padding adds 0 to the loss and
    to gradients.

    Args:
      outputs: [G, ...], or their `Derivatives` if `forces_weight` is not 0.
      graph: has the targets, and the forces if `forces_weight` is not 0.
      counts: counts of the whole batch, of which the graph may be a part.
      forces_weight: Å, since forces are per Å.
    """
    value = outputs.value if forces_weight else outputs
    loss = _sum(value - graph.globals.target, batching.graph_mask(graph)) / counts.graphs
    if forces_weight:
        owner = batching.graph_of_node(graph)
        error = _sum(outputs.forces - graph.nodes.forces, batching.graph_mask(graph)[owner])
        loss += forces_weight * error / counts.atoms
    return loss


def not_finite(outputs: PyTree, graph: batching.MolecularGraph, forces_weight: float) -> jax.Array:
    """Largest id of a real graph whose outputs or targets are not finite; -1 where all are."""
    real, owner = batching.graph_mask(graph), batching.graph_of_node(graph)
    value = outputs.value if forces_weight else outputs
    error = value - graph.globals.target
    bad = ~jnp.isfinite(error).reshape(len(real), -1).all(1)
    if forces_weight:
        of_atoms = ~jnp.isfinite(outputs.forces - graph.nodes.forces).all(1)
        bad |= jax.ops.segment_max(of_atoms.astype(jnp.int32), owner, len(real)) > 0
    return jnp.max(jnp.where(bad & real, graph.globals.id, -1))


def _sum(error: jax.Array, mask: jax.Array) -> jax.Array:
    """The sum over real rows of the mean absolute component."""
    size = jnp.abs(jnp.where(mask.reshape(-1, *[1] * (error.ndim - 1)), error, 0))
    return jnp.sum(size) / (error.size // error.shape[0])
