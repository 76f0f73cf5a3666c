"""Training batches. Batch k is a function of (seed, k), independent of earlier batches."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch
from hdgnn_jax.graphs.structure import Structures

WORTH = 0.02
"""Share of the padded edges that may be given up for fewer shapes: to compile one takes as long as
hundreds of steps of a small network."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """Shuffled batches of a fixed number of molecules, padded to one of a few budgets.

    The molecules form an endless sequence of epochs, each in its own order, drawn from
    (seed, epoch). Batch k is the k-th piece of this sequence. Budgets are computed from the very
    batches that the run will draw, so every batch fits one.

    Attributes:
      structures, neighbors: the training set.
      targets: [n, F] standardised; NaN where unknown.
      batch_size: molecules in a batch, over all shards.
      seed: seed of the order.
      steps: number of batches in the run.
      shards: number of devices that share a batch.
      n_budgets: largest number of padded shapes; each is compiled once.
      forces: [atoms, 3] standardised; None: forces are not trained on.
      virials: [n, 3, 3] standardised, NaN where unknown; None: they are not trained on.
      own: the shards that this process builds; None: all.
    """

    structures: Structures
    neighbors: Neighbors | NeighborSearch
    targets: np.ndarray
    batch_size: int
    seed: int
    steps: int
    shards: int = 1
    n_budgets: int = 3
    forces: np.ndarray | None = None
    virials: np.ndarray | None = None
    own: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if len(self.structures) == 0:
            raise InputError("the training set is empty")

    def molecules(self, k: int) -> np.ndarray:
        """[shards, B / shards] indices of batch k's molecules in the training set."""
        places = self._stream(k * self.batch_size, (k + 1) * self.batch_size)
        order = batching.deal(self.neighbors.n_edges[places][None], self.shards)[0]
        dealt: np.ndarray = places[order]
        return dealt

    def batch(self, k: int) -> batching.MolecularGraph:
        """Batch k; every array has a leading axis of this process's shards."""
        shards = self.molecules(k)
        nodes, edges = self._sizes(shards[None])
        budget = next(b for b in self.budgets if b.fits(nodes[0], edges[0], shards.shape[1]))
        return batching.stack(
            [
                batching.collate(
                    self.structures, self.neighbors, self.targets, places, budget, self.forces,
                    self.virials,
                )
                for places in (shards if self.own is None else shards[list(self.own)])
            ]
        )

    @functools.cached_property
    def budgets(self) -> list[batching.Budget]:
        """The padded shapes of the run, ascending: as few as come within `WORTH` of the best."""
        nodes, edges, _ = self._all_sizes
        choices = [
            batching.choose_budgets(nodes, edges, self.batch_size // self.shards, count)
            for count in range(1, self.n_budgets + 1)
        ]
        padded = [self._padded(budgets) for budgets in choices]
        return choices[np.argmax(np.array(padded) <= (1 + WORTH) * padded[-1])]

    @functools.cached_property
    def padding_efficiency(self) -> float:
        """Real edges over padded edges, over all batches of the run."""
        return float(self._all_sizes[2].sum() / (self._padded(self.budgets) * self.shards))

    def _padded(self, budgets: list[batching.Budget]) -> int:
        """Padded edges of a shard, over all batches of the run."""
        nodes, edges, _ = self._all_sizes
        fits = [(nodes < b.n_node) & (edges <= b.n_edge) for b in budgets]
        return int(np.array([b.n_edge for b in budgets])[np.argmax(fits, axis=0)].sum())

    @functools.cached_property
    def _all_sizes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[steps] nodes and edges of the fullest shard of every batch, and edges of all shards."""
        sizes = []
        # About a thousand batches at a time, so that long runs need no more memory than short ones.
        for start in range(0, self.steps, 1024):
            stop = min(start + 1024, self.steps)
            places = self._stream(start * self.batch_size, stop * self.batch_size)
            places = places.reshape(stop - start, self.batch_size)
            n_edges = self.neighbors.n_edges[places]
            hands = batching.deal(n_edges, self.shards)
            dealt = np.take_along_axis(places[:, None], hands.reshape(len(places), 1, -1), 2)
            sizes.append((*self._sizes(dealt.reshape(hands.shape)), n_edges.sum(1)))
        nodes, edges, real = (np.concatenate(column) for column in zip(*sizes, strict=True))
        return nodes, edges, real

    def _sizes(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[batches] nodes and edges of the fullest shard, of molecules `[batches, shards, k]`."""
        counts = self.structures.n_atoms, self.neighbors.n_edges
        nodes, edges = (count[places].sum(-1).max(-1) for count in counts)
        return nodes, edges

    def _stream(self, start: int, stop: int) -> np.ndarray:
        n = len(self.structures)
        first, last = start // n, (stop - 1) // n
        epochs = np.concatenate([self._order(epoch) for epoch in range(first, last + 1)])
        return epochs[start - first * n : stop - first * n]

    def _order(self, epoch: int) -> np.ndarray:
        return _permutation(self.seed, epoch, len(self.structures))


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def prefetch(
    make: Callable[[int], batching.MolecularGraph],
    start: int,
    stop: int,
    sharding: jax.sharding.NamedSharding,
    ahead: int = 2,
) -> Iterator[batching.MolecularGraph]:
    """Yields make(start), ..., make(stop - 1) on the devices, built in a thread meanwhile."""

    def load(k: int) -> batching.MolecularGraph:
        return batching.place(make(k), sharding)

    with concurrent.futures.ThreadPoolExecutor(1, "loader") as pool:
        coming = collections.deque(
            pool.submit(load, k) for k in range(start, min(start + ahead, stop))
        )
        for k in range(start, stop):
            graph = coming.popleft().result()
            if k + ahead < stop:
                coming.append(pool.submit(load, k + ahead))
            yield graph
