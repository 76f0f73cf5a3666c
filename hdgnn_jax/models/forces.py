"""Forces and stress: derivatives of the predicted energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching


class Derivatives(NamedTuple):
    """A prediction E and its derivatives, in the units of E.

    Attributes:
      value: [G] E, or [G, F] where it is one of several numbers.
      forces: [N, 3] -dE/dx, per Å; 0 on padding.
      virial: [G, 3, 3] dE/d epsilon, symmetric, for a strain that multiplies positions and cell by
        1 + epsilon. The stress is the virial divided by the volume.
    """

    value: jax.Array | np.ndarray
    forces: jax.Array | np.ndarray
    virial: jax.Array | np.ndarray


def with_derivatives(
    predict: Callable[[batching.MolecularGraph], jax.Array],
    graph: batching.MolecularGraph,
    column: int = 0,
) -> Derivatives:
    """The predictions and the derivatives of one of them, computed in one backward pass.

    Args:
      predict: maps a graph to [G, F].
      graph: padded.
      column: the column of the energy.
    """
    graph = jax.tree.map(jnp.asarray, graph)
    real = batching.graph_mask(graph)
    of_node = batching.graph_of_node(graph)
    # An energy depends on its own graph's atoms only, so the gradient of the sum has all gradients.
    positions = graph.nodes.positions

    def total(positions: jax.Array, strain: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Antisymmetric strain is a rotation; stress is symmetric by definition.
        strain = (strain + jnp.swapaxes(strain, 1, 2)) / 2

        def strained(vectors: jax.Array, of: jax.Array) -> jax.Array:
            return vectors + jnp.einsum("ni,nij->nj", vectors, strain[of], precision="highest")

        nodes = graph.nodes._replace(positions=strained(positions, of_node))
        edges = jax.tree.map(
            lambda shift: strained(shift, of_node[graph.receivers]), graph.edges
        )
        value = predict(graph._replace(nodes=nodes, edges=edges))
        return jnp.sum(jnp.where(real, value[:, column], 0)), value

    strain = jnp.zeros((real.shape[0], 3, 3), positions.dtype)
    (slope, virial), value = jax.grad(total, argnums=(0, 1), has_aux=True)(positions, strain)
    return Derivatives(value, -slope, virial)
