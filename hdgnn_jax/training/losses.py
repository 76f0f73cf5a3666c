"""Losses over the real graphs and atoms of a padded batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.types import PyTree


class Weights(NamedTuple):
    """Weights of errors in the loss.

    Attributes:
      outputs: [F] weights of the network's outputs; see `heads.shares`.
      forces: weight of forces, Å; 0: they are not trained on.
      stress: weight of virials, the stress times the volume, per atom; 0: they are not trained on.
    """

    outputs: np.ndarray
    forces: float = 0.0
    stress: float = 0.0

    @property
    def of_slopes(self) -> bool:
        """Whether derivatives are trained on."""
        return bool(self.forces or self.stress)


class Counts(NamedTuple):
    """Numbers of real labels, [F], atoms and virials in a batch, the denominators of its means."""

    labels: jax.Array
    atoms: jax.Array
    virials: jax.Array


def count(graph: batching.MolecularGraph) -> Counts:
    """Counts the labels, atoms and virials of one padded graph."""
    real = batching.graph_mask(graph)
    return Counts(
        jnp.sum(_labelled(graph), 0),
        jnp.sum(jnp.where(real, graph.n_node, 0)),
        jnp.sum(_with_virial(graph)),
    )


def l1(
    outputs: PyTree,
    graph: batching.MolecularGraph,
    counts: Counts,
    weights: Weights,
) -> jax.Array:
    """Mean absolute errors of the targets, of forces and of virials per atom, weighted.

    Errors of forces and virials are means over components. Padding and labels that are not known
    (NaN) add 0 to the loss and to gradients.

    Args:
      outputs: [G, F], or their `Derivatives` where derivatives are trained on.
      graph: has the targets [G, F], and forces and virials where their weight is not 0.
      counts: counts of the whole batch, of which the graph may be a part.
      weights: weights of the errors.
    """
    value = outputs.value if weights.of_slopes else outputs
    error = jnp.abs(jnp.where(_labelled(graph), value - graph.globals.target, 0))
    loss = jnp.sum(jnp.sum(error, 0) / jnp.maximum(counts.labels, 1) * weights.outputs)
    if weights.forces:
        owner = batching.graph_of_node(graph)
        real = batching.graph_mask(graph)[owner, None]
        error = jnp.abs(jnp.where(real, outputs.forces - graph.nodes.forces, 0))
        loss += weights.forces * jnp.sum(error) / (3 * counts.atoms)
    if weights.stress:
        known = _with_virial(graph)[:, None, None]
        error = jnp.abs(jnp.where(known, outputs.virial - graph.globals.virial, 0))
        each = jnp.sum(error, (1, 2)) / jnp.maximum(graph.n_node, 1)
        loss += weights.stress * jnp.sum(each) / (9 * jnp.maximum(counts.virials, 1))
    return loss


def not_finite(outputs: PyTree, graph: batching.MolecularGraph, weights: Weights) -> jax.Array:
    """Largest id of a real graph whose outputs or labels are not finite; -1 where all are."""
    real, owner = batching.graph_mask(graph), batching.graph_of_node(graph)
    bad = ~jnp.isfinite(outputs.value if weights.of_slopes else outputs).all(1)
    # NaN is a label that is not known.
    bad |= jnp.isinf(graph.globals.target).any(1)
    if weights.forces:
        of_atoms = ~jnp.isfinite(outputs.forces - graph.nodes.forces).all(1)
        bad |= jax.ops.segment_max(of_atoms.astype(jnp.int32), owner, len(real)) > 0
    if weights.stress:
        bad |= ~jnp.isfinite(outputs.virial).all((1, 2))
        bad |= jnp.isinf(graph.globals.virial).any((1, 2))
    return jnp.max(jnp.where(bad & real, graph.globals.id, -1))


def _labelled(graph: batching.MolecularGraph) -> jax.Array:
    """[G, F] bool: known labels of real graphs."""
    return ~jnp.isnan(graph.globals.target) & batching.graph_mask(graph)[:, None]


def _with_virial(graph: batching.MolecularGraph) -> jax.Array:
    """[G] bool: real graphs whose virial is known."""
    real, virial = batching.graph_mask(graph), graph.globals.virial
    return jnp.zeros_like(real) if virial is None else real & ~jnp.isnan(virial).any((1, 2))
