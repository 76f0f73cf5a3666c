"""What a model was trained on, in a few numbers: whoever leaves it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hdgnn_jax.graphs.neighbors import Neighbors
from hdgnn_jax.graphs.structure import SYMBOLS, Structures

SAMPLE = 10_000
"""Structures that distances are taken from; elements and sizes are those of all."""
MARGIN = 0.05
"""By which a distance may leave the range without a warning: a bond's swing is not news."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Ranges over the training structures.

    Attributes:
      atoms: fewest and most atoms of a structure.
      periodic: whether any, and whether all, have a cell.
      nearest: by element, the smallest and the largest distance, Å, from an atom to the one nearest
        to it; infinite where none is within the model's cutoff.
    """

    atoms: tuple[int, int]
    periodic: tuple[bool, bool]
    nearest: Mapping[int, tuple[float, float]]

    @classmethod
    def of(cls, structures: Structures, neighbors: Neighbors) -> Domain:
        """Of a training set and the neighbours of its first structures."""
        n_atoms = structures.n_atoms
        few = structures.take(np.arange(len(neighbors.n_edges)))
        distance = _nearest(few, neighbors)
        ranges = {
            z: (float(distance[few.atomic_numbers == z].min(initial=np.inf)),
                float(distance[few.atomic_numbers == z].max(initial=0.0)))
            for z in np.unique(structures.atomic_numbers).tolist()
        }  # fmt: skip
        with_cell = structures.periodic.any(1)
        periodic = bool(with_cell.any()), bool(with_cell.all())
        return cls((int(n_atoms.min()), int(n_atoms.max())), periodic, ranges)

    def warnings(self, structures: Structures, neighbors: Neighbors) -> list[str]:
        """[n] the `doubts` of each structure as one text; empty where there are none."""
        return ["; ".join(doubts) for doubts in self.doubts(structures, neighbors)]

    def doubts(self, structures: Structures, neighbors: Neighbors) -> list[list[str]]:
        """[n] the ways in which each structure leaves the domain, in words."""
        distance = _nearest(structures, neighbors)
        words: list[list[str]] = [[] for _ in range(len(structures))]
        fewest, most = self.atoms
        for k in np.flatnonzero((structures.n_atoms < fewest) | (structures.n_atoms > most)):
            n = int(structures.n_atoms[k])
            words[k].append(f"{n} atom{'s' * (n != 1)} (trained on {fewest} to {most})")
        for text, of_structure in zip(words, structures.periodic, strict=True):
            cell = bool(of_structure.any())
            if cell and not self.periodic[0]:
                text.append("periodic (trained on molecules)")
            if not cell and self.periodic[1]:
                text.append("not periodic (trained on structures with cells)")
        owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
        for z in np.unique(structures.atomic_numbers).tolist():
            mine = structures.atomic_numbers == z
            if z not in self.nearest:
                for k in np.unique(owner[mine]):
                    words[k].append(f"{SYMBOLS[z]}, of which no training structure has any")
                continue
            low, high = self.nearest[z]
            if low > high:
                # None was in the sample.
                continue
            out = mine & ((distance < low * (1 - MARGIN)) | (distance > high * (1 + MARGIN)))
            for k in np.unique(owner[out]):
                worst = distance[out & (owner == k)]
                shown = worst.max() if worst.max() > high else worst.min()
                words[k].append(
                    f"{SYMBOLS[z]} {shown:.2f} Å from the next atom (trained on {low:.2f} to "
                    f"{high:.2f})"
                    if np.isfinite(shown)
                    else f"{SYMBOLS[z]} with no other atom in reach (trained on {low:.2f} to "
                    f"{high:.2f} Å)"
                )
        return words

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Domain:
        """The inverse of `to_dict`, after JSON too."""
        (low, high), (some, every) = content["atoms"], content["periodic"]
        nearest = {int(z): (a, b) for z, (a, b) in content["nearest"].items()}
        return cls((low, high), (some, every), nearest)


def _nearest(structures: Structures, neighbors: Neighbors) -> np.ndarray:
    """[atoms] Å to the nearest other atom; infinite where there is none within the cutoff."""
    before = np.repeat(structures.offsets[:-1], neighbors.n_edges)
    x, receivers = structures.positions, neighbors.receivers + before
    vectors = x[neighbors.senders + before] - x[receivers]
    if neighbors.images is not None:
        cells = np.repeat(structures.cells, neighbors.n_edges, 0)
        vectors += np.einsum("ea,eab->eb", neighbors.images, cells)
    nearest = np.full(len(x), np.inf)
    np.minimum.at(nearest, receivers, np.linalg.norm(vectors, axis=1))
    return nearest
