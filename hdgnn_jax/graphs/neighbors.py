"""Neighbour search: pairs of atoms within a cutoff, all or some, with periodic images."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import vesin

from hdgnn_jax.graphs.covalent import bonded
from hdgnn_jax.graphs.structure import (
    CLOSEST_ATOMS,
    Structures,
    concatenated_ranges,
)

Neighborhood = Literal["cutoff", "bonds", "surface"]
"""Which atoms within the cutoff an atom sees: all; those that it is bonded to; or, on the surface
and in the adsorbate, all, and in the bulk (tag 0) none."""
NO_FORCES: dict[Neighborhood, str] = {
    "bonds": "where a bond breaks, energies jump",
    "surface": "forces between atoms of the bulk would be missing",
}
"""Why the slope of an energy is no force with these neighbourhoods."""
DENSE = 60
"""In molecules of up to this many atoms all pairs are compared; vesin searches all others."""


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Directed edges of many structures end to end, sorted by receiver inside each structure.

    Attributes:
      offsets: [n + 1] int64; edges `offsets[k]` to `offsets[k + 1]` belong to structure k.
      senders: [edges] int32, j: the atom's index in its structure.
      receivers: [edges] int32, i, likewise.
      images: [edges, 3] int32; the sender is that many lattice vectors away from x_j. None where no
        structure has a cell.
      cutoff, max_neighbors, neighborhood: as in `find_neighbors`.
    """

    offsets: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    images: np.ndarray | None
    cutoff: float
    max_neighbors: int | None
    neighborhood: Neighborhood = "cutoff"

    @property
    def n_edges(self) -> np.ndarray:
        """[n] edges of each structure."""
        return np.diff(self.offsets)

    def take(self, indices: np.ndarray) -> Neighbors:
        """The edges of the structures at `indices`, in that order."""
        counts = self.n_edges[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        edges = concatenated_ranges(self.offsets[indices], counts)
        images = None if self.images is None else self.images[edges]
        return dataclasses.replace(
            self,
            offsets=offsets,
            senders=self.senders[edges],
            receivers=self.receivers[edges],
            images=images,
        )

    def none(self) -> Neighbors:
        """The same structures without any edge."""
        nothing = np.zeros(0, np.int32)
        images = None if self.images is None else self.images[:0]
        offsets = np.zeros_like(self.offsets)
        return dataclasses.replace(
            self, offsets=offsets, senders=nothing, receivers=nothing, images=images
        )

    def found(self) -> Neighbors:
        """The edges themselves; `NeighborSearch.found` searches for them."""
        return self


@dataclasses.dataclass(frozen=True)
class NeighborSearch:
    """Neighbours that are searched on demand, for a set whose edges would not fit in memory.

    Attributes:
      structures: the set.
      cutoff, max_neighbors, neighborhood: see `find_neighbors`.
    """

    structures: Structures
    cutoff: float
    max_neighbors: int
    neighborhood: Neighborhood = "cutoff"

    @functools.cached_property
    def n_edges(self) -> np.ndarray:
        """[n] upper bound of the edges of each structure."""
        receivers = self.structures.n_atoms
        if self.neighborhood == "surface":
            receivers = self.structures.counts(self.structures.tags > 0)
        return receivers * (self.max_neighbors + 1)

    def take(self, indices: np.ndarray) -> NeighborSearch:
        """The search for the structures at `indices`, in that order."""
        return dataclasses.replace(self, structures=self.structures.take(indices))

    def found(self) -> Neighbors:
        """The edges of all its structures."""
        return find_neighbors(self.structures, self.cutoff, self.max_neighbors, self.neighborhood)


@dataclasses.dataclass(frozen=True)
class Neighborhoods:
    """Structures and their edges, in the same order."""

    structures: Structures
    neighbors: Neighbors | NeighborSearch

    def __len__(self) -> int:
        return len(self.structures)

    def take(self, rows: np.ndarray) -> Neighborhoods:
        """The structures at `rows` and their edges, in that order."""
        return Neighborhoods(self.structures.take(rows), self.neighbors.take(rows))


def find_neighbors(
    structures: Structures,
    cutoff: float,
    max_neighbors: int | None = None,
    neighborhood: Neighborhood = "cutoff",
    chunk: int = 4096,
) -> Neighbors:
    """All ordered pairs (j, i) with |x_j + shift - x_i| <= cutoff (models/README.md, section 1).

    Each periodic image of a sender gives an edge of its own; an atom sees its own images. With
    `max_neighbors` = k a receiver keeps its k nearest neighbours and one more, in ascending order
    of distance. The distance of the last is the atom's reach: the model gives edges of that length
    the weight 0. So the result depends neither on which of several neighbours at that distance is
    kept nor on the order of the atoms.

    With `bonds` only bonded pairs are edges: those in `Structure.bonds`, without images, if the
    structure has them, else pairs, with images, that are nearer than `covalent.BOND` times the sum
    of their covalent radii. An atom may then have no edge.

    With `surface` an edge ends at each atom of the surface (tag 1) and the adsorbate (2), and may
    begin at any.

    Args:
      structures: structures of any size, with or without cells.
      cutoff: Å.
      max_neighbors: k; None keeps all neighbours, in no particular order.
      neighborhood: `cutoff`, `bonds` or `surface`.
      chunk: number of molecules compared at once.

    Raises:
      StructureError: naming a structure that has two atoms at one place, or, with `surface`, no
        atom to see neighbours.
    """
    found, reasons = search_neighbors(structures, cutoff, max_neighbors, neighborhood, chunk)
    structures.refuse(reasons)
    return found


def search_neighbors(
    structures: Structures,
    cutoff: float,
    max_neighbors: int | None = None,
    neighborhood: Neighborhood = "cutoff",
    chunk: int = 4096,
) -> tuple[Neighbors, dict[int, str]]:
    """As `find_neighbors`, but returns what it would refuse, as index to reason."""
    counts = np.zeros(len(structures), np.int64)
    found: list[_Pairs] = []
    reasons = _without_surface(structures, neighborhood)
    for pairs in itertools.chain(
        _compared(structures, cutoff, chunk), _searched(structures, cutoff)
    ):
        close = np.flatnonzero(pairs.square < CLOSEST_ATOMS**2)
        owners, first = np.unique(pairs.owner[close], return_index=True)
        for place, e in zip(owners.tolist(), close[first], strict=True):
            reasons[place] = (
                f"has atoms {pairs.receivers[e]} and {pairs.senders[e]} at one place (nearer than "
                f"{CLOSEST_ATOMS} Å)"
            )
        kept = _seen(structures, pairs, neighborhood)
        kept = kept if max_neighbors is None else _nearest(kept, max_neighbors + 1)
        places, n_edges = np.unique(kept.owner, return_counts=True)
        counts[places] = n_edges
        found.append(kept)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    senders, receivers = (np.empty(offsets[-1], np.int32) for _ in range(2))
    images = np.zeros((offsets[-1], 3), np.int32) if structures.periodic.any() else None
    for pairs in found:
        at = offsets[pairs.owner] + _rank(pairs.owner)
        senders[at], receivers[at] = pairs.senders, pairs.receivers
        if images is not None:
            images[at] = pairs.images
    edges = Neighbors(offsets, senders, receivers, images, cutoff, max_neighbors, neighborhood)
    return edges, reasons


def neighbors_of(
    structures: Structures,
    cutoff: float,
    max_neighbors: int | None,
    neighborhood: Neighborhood = "cutoff",
) -> Neighbors | NeighborSearch:
    """The neighbours of a set: found at once, or, with `max_neighbors`, searched on demand.

    Raises:
      StructureError: as `find_neighbors`; where neighbours are searched on demand, atoms at one
        place are found only then.
    """
    if max_neighbors is None:
        return find_neighbors(structures, cutoff, None, neighborhood)
    structures.refuse(_without_surface(structures, neighborhood))
    return NeighborSearch(structures, cutoff, max_neighbors, neighborhood)


def within_cutoff(
    structures: Structures, neighbors: Neighbors | NeighborSearch
) -> Neighbors | NeighborSearch:
    """The given neighbours, or, where these are not all within the cutoff, all of them.

    Linear models and the applicability domain need pairs that such a network does not see.
    """
    if neighbors.neighborhood == "cutoff":
        return neighbors
    return neighbors_of(structures, neighbors.cutoff, neighbors.max_neighbors)


class _Pairs(NamedTuple):
    """Edges of some structures, each structure's consecutive; `square` is the squared distance."""

    owner: np.ndarray
    receivers: np.ndarray
    senders: np.ndarray
    images: np.ndarray
    square: np.ndarray


def _compared(structures: Structures, cutoff: float, chunk: int) -> Iterator[_Pairs]:
    """Pairs in small molecules, found for many molecules of one size at once."""
    n_atoms = structures.n_atoms
    small = (n_atoms <= DENSE) & ~structures.periodic.any(-1)
    for size in np.unique(n_atoms[small]):
        same = np.flatnonzero(small & (n_atoms == size))
        for part in np.split(same, range(chunk, len(same), chunk)):
            x = structures.positions[structures.offsets[part][:, None] + np.arange(size)]
            square = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
            square[:, np.arange(size), np.arange(size)] = np.inf
            k, i, j = np.nonzero(square <= cutoff**2)
            yield _Pairs(part[k], i, j, np.broadcast_to(0, (len(k), 3)), square[k, i, j])


def _searched(structures: Structures, cutoff: float) -> Iterator[_Pairs]:
    """Pairs in structures with cells and in large ones, found one structure at a time."""
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    periodic = structures.periodic
    for k in np.flatnonzero((structures.n_atoms > DENSE) | periodic.any(-1)):
        x = structures.positions[structures.offsets[k] : structures.offsets[k + 1]]
        i, j, images, distance = search.compute(x, structures.cells[k], periodic[k], "ijSd")
        order = np.argsort(i, kind="stable")
        i, j = i[order].astype(np.int32), j[order].astype(np.int32)
        yield _Pairs(np.full(len(i), k), i, j, images[order], distance[order] ** 2)


def _without_surface(structures: Structures, neighborhood: Neighborhood) -> dict[int, str]:
    """Why structures have no `surface`, by index."""
    return structures.untagged() if neighborhood == "surface" else {}


def _seen(structures: Structures, pairs: _Pairs, neighborhood: Neighborhood) -> _Pairs:
    """The pairs that belong to a neighbourhood."""
    match neighborhood:
        case "cutoff":
            return pairs
        case "bonds":
            return _bonded(structures, pairs)
        case "surface":
            tags = structures.tags[structures.offsets[pairs.owner] + pairs.receivers]
            return _Pairs(*(column[tags > 0] for column in pairs))


def _bonded(structures: Structures, pairs: _Pairs) -> _Pairs:
    """The pairs that are bonded."""
    z, before = structures.atomic_numbers, structures.offsets[pairs.owner]
    kept = bonded(z[before + pairs.receivers], z[before + pairs.senders], np.sqrt(pairs.square))
    if structures.bonds is not None:
        places, first, count = np.unique(pairs.owner, return_index=True, return_counts=True)
        for k, start, end in zip(places, first, first + count, strict=True):
            if (own := structures.bonds[k]) is not None:
                n, rows = int(structures.n_atoms[k]), slice(start, end)
                numbers = pairs.receivers[rows] * n + pairs.senders[rows]
                there = np.isin(numbers, own @ np.array([[n, 1], [1, n]]))
                kept[rows] = there & ~pairs.images[rows].any(1)
    return _Pairs(*(column[kept] for column in pairs))


def _nearest(pairs: _Pairs, k: int) -> _Pairs:
    """The k shortest edges of each receiver, in ascending order of distance."""
    order = np.lexsort((pairs.square, pairs.receivers, pairs.owner))
    ordered = _Pairs(*(column[order] for column in pairs))
    new = np.diff(ordered.receivers, prepend=-1) != 0
    new |= np.diff(ordered.owner, prepend=-1) != 0
    kept = _rank(np.cumsum(new)) < k
    return _Pairs(*(column[kept] for column in ordered))


def _rank(group: np.ndarray) -> np.ndarray:
    """The position of each element within its run of equal values."""
    place = np.arange(len(group))
    first = np.diff(group, prepend=-1) != 0
    return place - np.maximum.accumulate(np.where(first, place, 0))
