"""Losses over the real graphs and atoms of a padded batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.types import PyTree


class Counts(NamedTuple):
    """Numbers of real labels, [F], and atoms in a batch, the denominators of its means."""

    labels: jax.Array
    atoms: jax.Array


def count(graph: batching.MolecularGraph) -> Counts:
    """Counts the labels and atoms of one padded graph."""
    real = batching.graph_mask(graph)
    return Counts(jnp.sum(_labelled(graph), 0), jnp.sum(jnp.where(real, graph.n_node, 0)))


def l1(
    outputs: PyTree,
    graph: batching.MolecularGraph,
    counts: Counts,
    weights: np.ndarray,
    forces_weight: float = 0.0,
) -> jax.Array:
    """Mean absolute errors of the targets, weighted, plus `forces_weight` times that of the forces.

    Errors of forces are means over components. Padding and labels that are not known (NaN) add 0
    to the loss and to gradients.

    Args:
      outputs: [G, F], or their `Derivatives` if `forces_weight` is not 0.
      graph: has the targets [G, F], and the forces if `forces_weight` is not 0.
      counts: counts of the whole batch, of which the graph may be a part.
      weights: [F]; see `heads.shares`.
      forces_weight: Å, since forces are per Å.
    """
    value = outputs.value if forces_weight else outputs
    error = jnp.abs(jnp.where(_labelled(graph), value - graph.globals.target, 0))
    loss = jnp.sum(jnp.sum(error, 0) / jnp.maximum(counts.labels, 1) * weights)
    if forces_weight:
        owner = batching.graph_of_node(graph)
        real = batching.graph_mask(graph)[owner, None]
        error = jnp.abs(jnp.where(real, outputs.forces - graph.nodes.forces, 0))
        loss += forces_weight * jnp.sum(error) / (3 * counts.atoms)
    return loss


def not_finite(outputs: PyTree, graph: batching.MolecularGraph, forces_weight: float) -> jax.Array:
    """Largest id of a real graph whose outputs or labels are not finite; -1 where all are."""
    real, owner = batching.graph_mask(graph), batching.graph_of_node(graph)
    bad = ~jnp.isfinite(outputs.value if forces_weight else outputs).all(1)
    # NaN is a label that is not known.
    bad |= jnp.isinf(graph.globals.target).any(1)
    if forces_weight:
        of_atoms = ~jnp.isfinite(outputs.forces - graph.nodes.forces).all(1)
        bad |= jax.ops.segment_max(of_atoms.astype(jnp.int32), owner, len(real)) > 0
    return jnp.max(jnp.where(bad & real, graph.globals.id, -1))


def _labelled(graph: batching.MolecularGraph) -> jax.Array:
    """[G, F] bool: known labels of real graphs."""
    return ~jnp.isnan(graph.globals.target) & batching.graph_mask(graph)[:, None]
