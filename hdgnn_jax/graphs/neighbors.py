"""Which atoms see each other: all pairs of a molecule within a cutoff."""

from __future__ import annotations

import dataclasses

import numpy as np

from hdgnn_jax.graphs.structure import (
    CLOSEST_ATOMS,
    StructureError,
    Structures,
    concatenated_ranges,
)


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Directed edges of many molecules end to end, sorted by receiver inside each molecule.

    Attributes:
      offsets: [n + 1] int64; edge `offsets[k]` to `offsets[k + 1]` belong to molecule k.
      senders: [edges] int32, j: the atom's place in its molecule.
      receivers: [edges] int32, i.
      cutoff: Å.
    """

    offsets: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    cutoff: float

    @property
    def n_edges(self) -> np.ndarray:
        """[n] edges of each molecule."""
        return np.diff(self.offsets)

    def take(self, indices: np.ndarray) -> Neighbors:
        """Those of the molecules at `indices`, in that order."""
        counts = self.n_edges[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        edges = concatenated_ranges(self.offsets[indices], counts)
        return Neighbors(offsets, self.senders[edges], self.receivers[edges], self.cutoff)


def find_neighbors(structures: Structures, cutoff: float, chunk: int = 4096) -> Neighbors:
    """All ordered pairs (j, i), j != i, with |x_j - x_i| <= cutoff (model.md, section 1).

    Molecules of one size are compared at once, `chunk` at a time.

    Raises:
      StructureError: naming a molecule with two atoms at one place.
    """
    n_atoms = structures.n_atoms
    counts = np.zeros(len(structures), np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for size in np.unique(n_atoms):
        same = np.flatnonzero(n_atoms == size)
        for part in np.split(same, range(chunk, len(same), chunk)):
            rows = structures.offsets[part][:, None] + np.arange(size)
            x = structures.positions[rows]
            square = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
            square[:, np.arange(size), np.arange(size)] = np.inf
            close = square < CLOSEST_ATOMS**2
            if close.any():
                k, i, j = np.argwhere(close)[0]
                raise StructureError(
                    f"{structures.name(int(part[k]))} has atoms {i} and {j} at one place "
                    f"(nearer than {CLOSEST_ATOMS} Å)"
                )
            k, i, j = np.nonzero(square <= cutoff**2)
            counts[part] = np.bincount(k, minlength=len(part))
            found.append((part[k], i.astype(np.int32), j.astype(np.int32)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    senders = np.empty(offsets[-1], np.int32)
    receivers = np.empty(offsets[-1], np.int32)
    for owner, i, j in found:
        # Edges of one molecule are consecutive in `owner`, so their rank is a running count.
        first = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else owner == 0
        place = np.arange(len(owner))
        rank = place - np.maximum.accumulate(np.where(first, place, 0))
        at = offsets[owner] + rank
        senders[at], receivers[at] = j, i
    return Neighbors(offsets, senders, receivers, cutoff)
