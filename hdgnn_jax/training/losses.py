"""Losses over the real graphs of a padded batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching


def l1_sum(outputs: jax.Array, graph: batching.MolecularGraph) -> jax.Array:
    """Sum over real graphs of |output - target|; padding adds 0, to gradients too."""
    mask = batching.graph_mask(graph)
    error = jnp.where(mask, outputs - graph.globals.target, 0)
    return jnp.sum(jnp.abs(error))


def count(graph: batching.MolecularGraph) -> jax.Array:
    """Number of real graphs."""
    return jnp.sum(batching.graph_mask(graph))
