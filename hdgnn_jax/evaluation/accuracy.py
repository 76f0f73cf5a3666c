"""What a model says of a whole set, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch
from hdgnn_jax.graphs.structure import Structures, concatenated_ranges
from hdgnn_jax.models.forces import Derivatives


def predict(
    predict_step: Callable[[Any, batching.MolecularGraph], jax.Array],
    params: Any,
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    budget: batching.Budget,
    sharding: jax.sharding.NamedSharding,
    advance: Callable[[int], object] = lambda structures: None,
) -> np.ndarray:
    """Standardised outputs [n, ...] float64 of every structure.

    Args:
      predict_step: (params, stacked batch) -> [devices, G, ...], whole on every device.
      params: weights.
      structures, neighbors: the set.
      budget: shape of each device's batch.
      sharding: of a stacked batch.
      advance: told the number of structures after each batch (a progress bar).

    Raises:
      StructureError: for a structure larger than the budget.
    """
    answers = _answers(predict_step, params, structures, neighbors, budget, sharding, advance)
    places, outputs = zip(*((at, out[: len(at)]) for at, out in answers), strict=True)
    return np.concatenate(outputs)[np.argsort(np.concatenate(places))].astype(np.float64)


def differentiate(
    derivatives_step: Callable[[Any, batching.MolecularGraph], Derivatives],
    params: Any,
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    budget: batching.Budget,
    sharding: jax.sharding.NamedSharding,
    advance: Callable[[int], object] = lambda structures: None,
) -> Derivatives:
    """Value [n], forces [atoms, 3] and virial [n, 3, 3], float64 and in standardised units.

    Args and errors: of `predict`.
    """
    n = len(structures)
    value, virial = np.zeros(n), np.zeros((n, 3, 3))
    forces = np.zeros_like(structures.positions)
    for at, found in _answers(
        derivatives_step, params, structures, neighbors, budget, sharding, advance
    ):
        value[at], virial[at] = found.value[: len(at)], found.virial[: len(at)]
        atoms = concatenated_ranges(structures.offsets[at], structures.n_atoms[at])
        forces[atoms] = found.forces[: len(atoms)]
    return Derivatives(value, forces, virial)


def _answers(
    step: Callable[[Any, batching.MolecularGraph], Any],
    params: Any,
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    budget: batching.Budget,
    sharding: jax.sharding.NamedSharding,
    advance: Callable[[int], object],
) -> Iterator[tuple[np.ndarray, Any]]:
    """Of each device's batch, its structures' places in the set and what the step gives for it."""
    # Structures of like size side by side fill a batch better.
    order = np.argsort(neighbors.n_edges, kind="stable")
    structures, neighbors = structures.take(order), neighbors.take(order)
    packs = batching.pack(structures, neighbors, budget)
    nothing = np.zeros(len(structures))
    shards, own = sharding.mesh.size, batching.own_shards(sharding)
    for start in range(0, len(packs), shards):
        group = packs[start : start + shards]
        group += [np.zeros(0, int)] * (shards - len(group))
        graphs = [
            batching.collate(structures, neighbors, nothing, group[k], budget) for k in own
        ]
        found = jax.device_get(step(params, batching.place(batching.stack(graphs), sharding)))
        for shard, pack in enumerate(group):
            yield order[pack], jax.tree.map(lambda leaf, shard=shard: leaf[shard], found)
        advance(sum(map(len, group)))
