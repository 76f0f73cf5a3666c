"""Runs a model on a whole set of structures, batch by batch; results are in its order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
import numpy.typing as npt

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighborhoods
from hdgnn_jax.models.forces import Derivatives
from hdgnn_jax.types import Params, PyTree


def nobody(structures: int) -> None:
    """Takes the place of a progress bar where there is none."""


def in_precision(dtype: npt.DTypeLike) -> contextlib.AbstractContextManager[object]:
    """A context in which JAX has float64, if `dtype` is float64."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class Batches:
    """Structures in padded batches of one shape, a batch for each device at a time.

    Attributes:
      graphs: the structures with their neighbours.
      budget: shape of each device's batch.
      sharding: the sharding of a stacked batch.
      advance: told the number of structures after each batch (a progress bar).
      dtype: type of the weights and of all computation; float64 is switched on for these batches
        alone.
    """

    graphs: Neighborhoods
    budget: batching.Budget
    sharding: jax.sharding.NamedSharding
    advance: Callable[[int], object] = nobody
    dtype: npt.DTypeLike = np.float32

    def answers(
        self, step: Callable[[Params, batching.MolecularGraph], PyTree], params: Params
    ) -> Iterator[tuple[np.ndarray, PyTree]]:
        """Yields, for each device's batch, the indices of its structures and the step's result.

        Raises:
          StructureError: for a structure larger than the budget.
        """
        # Structures of similar size, side by side, fill a batch better.
        order = np.argsort(self.graphs.neighbors.n_edges, kind="stable")
        ordered = self.graphs.take(order)
        structures, neighbors = ordered.structures, ordered.neighbors
        packs = batching.pack(structures, neighbors, self.budget)
        nothing = np.zeros(len(structures))
        shards, own = self.sharding.mesh.size, batching.own_shards(self.sharding)
        for start in range(0, len(packs), shards):
            group = packs[start : start + shards]
            group += [np.zeros(0, int)] * (shards - len(group))
            stacked = batching.stack([
                batching.collate(
                    structures, neighbors, nothing, group[k], self.budget, dtype=self.dtype
                )
                for k in own
            ])  # fmt: skip
            with in_precision(self.dtype):
                found = jax.device_get(step(params, batching.place(stacked, self.sharding)))
            for shard, pack in enumerate(group):
                yield order[pack], jax.tree.map(lambda leaf, shard=shard: leaf[shard], found)
            self.advance(sum(map(len, group)))


def predict(
    predict_step: Callable[[Params, batching.MolecularGraph], jax.Array],
    params: Params,
    batches: Batches,
) -> np.ndarray:
    """Standardised outputs [n, ...] float64 of every structure, [F] or [rolls, F] each.

    Args:
      predict_step: (params, stacked batch) -> [devices, G, ...], whole on every device.
      params: weights.
      batches: the structures.

    Raises:
      StructureError: for a structure larger than the budget.
    """
    answers = batches.answers(predict_step, params)
    return _in_order((at, out[: len(at)]) for at, out in answers)


def differentiate(
    derivatives_step: Callable[[Params, batching.MolecularGraph], Derivatives],
    params: Params,
    batches: Batches,
) -> Derivatives:
    """Outputs [n, F], forces [atoms, 3] and virial [n, 3, 3], float64 and in standardised units.

    Arguments and errors are those of `predict`.
    """
    structures = batches.graphs.structures
    n = len(structures)
    virial, forces = np.zeros((n, 3, 3)), np.zeros_like(structures.positions)
    values = []
    for at, found in batches.answers(derivatives_step, params):
        values.append((at, found.value[: len(at)]))
        virial[at] = found.virial[: len(at)]
        atoms = structures.atoms_of(at)
        forces[atoms] = found.forces[: len(atoms)]
    return Derivatives(_in_order(values), forces, virial)


def _in_order(answers: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[n, ...] float64 values of the whole set, from indices and the values at these."""
    places, values = zip(*answers, strict=True)
    whole: np.ndarray = np.concatenate(values)[np.argsort(np.concatenate(places))]
    return whole.astype(np.float64)
