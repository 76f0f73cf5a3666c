"""Predictions of a whole set, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch
from hdgnn_jax.graphs.structure import Structures


def predict(
    predict_step: Callable[[Any, batching.MolecularGraph], jax.Array],
    params: Any,
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    budget: batching.Budget,
    sharding: jax.sharding.NamedSharding,
    advance: Callable[[int], object] = lambda molecules: None,
) -> np.ndarray:
    """Standardised outputs [n] float64 of every structure.

    Args:
      predict_step: (params, stacked batch) -> [devices, G].
      params: weights.
      structures, neighbors: the set.
      budget: shape of each device's batch.
      sharding: of a stacked batch.
      advance: told the number of molecules after each batch (a progress bar).

    Raises:
      StructureError: for a molecule larger than the budget.
    """
    # Molecules of like size side by side fill a batch better.
    order = np.argsort(neighbors.n_edges, kind="stable")
    structures, inverse = structures.take(order), np.argsort(order)
    neighbors = neighbors.take(order)
    packs = batching.pack(structures, neighbors, budget)
    shards = sharding.mesh.size
    outputs = []
    nothing = np.zeros(len(structures))
    for start in range(0, len(packs), shards):
        group = packs[start : start + shards]
        group += [np.zeros(0, int)] * (shards - len(group))
        graphs = [batching.collate(structures, neighbors, nothing, p, budget) for p in group]
        out = np.asarray(predict_step(params, jax.device_put(batching.stack(graphs), sharding)))
        outputs += [row[: len(pack)] for row, pack in zip(out, group, strict=True)]
        advance(sum(map(len, group)))
    return np.concatenate(outputs).astype(np.float64)[inverse]
