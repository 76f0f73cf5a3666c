"""Divides a file's structures into parts: which stay together, and which are held out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import StructureError, Structures

SPLITS = {
    "blocks": "in blocks of neighbouring frames",
    "random": "frame by frame at random (of a trajectory, nearly the frames trained on)",
}
"""How held-out structures of a file without groups are drawn."""
DECIMALS = 4
"""Decimals of positions in Å that count when structures of two parts are compared."""


def blocks(structures: Structures, size: float) -> np.ndarray:
    """[n] the number of each structure's block.

    Consecutive structures of the same atoms count as one trajectory. It is one block, or is cut
    into blocks of equal length where it is longer than `size`.
    """
    atoms = [
        structures.atomic_numbers[first:last].tobytes()
        for first, last in itertools.pairwise(structures.offsets)
    ]
    sizes: list[int] = []
    for _, run in itertools.groupby(atoms):
        length = len(list(run))
        pieces = np.array_split(np.arange(length), math.ceil(length / max(size, 1)))
        sizes += map(len, pieces)
    return np.repeat(np.arange(len(sizes)), sizes)


def hold_out(groups: np.ndarray, share: float, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws whole groups for each part at random, and returns the rows of each part.

    Args:
      groups: [n] numbers without gaps.
      share: share of all structures in each held-out part, as nearly as groups allow.
      names: names of the held-out parts; the rest is `train`.

    Raises:
      InputError: where the rest is empty.
    """
    order = np.random.default_rng(0).permutation(groups.max(initial=-1) + 1)
    counts, found = np.bincount(groups)[order], {}
    for name in names:
        excess = np.abs(np.cumsum(counts) - share * len(groups))
        n = int(np.argmin(excess)) + 1 if len(counts) else 0
        found[name], order, counts = order[:n], order[n:], counts[n:]
    if not len(order):
        raise InputError(
            f"has {groups.max(initial=-1) + 1} groups of structures: none is left to train on"
        )
    found["train"] = order
    return {name: np.flatnonzero(np.isin(groups, drawn)) for name, drawn in found.items()}


def fingerprints(structures: Structures) -> list[bytes]:
    """[n] atoms, positions and cell of each structure as bytes, equal for equal structures."""
    found = []
    for k in range(len(structures)):
        s = structures[k]
        # Adding 0 makes -0 and 0 the same.
        where = np.round([*s.positions, *structures.cells[k]], DECIMALS) + 0.0
        found.append(s.atomic_numbers.tobytes() + where.tobytes())
    return found


def refuse_shared(parts: Mapping[str, Structures]) -> None:
    """Checks that no structure is in two parts.

    Raises:
      StructureError: naming the structure and both parts.
    """
    seen: dict[bytes, str] = {}
    for part, structures in parts.items():
        own: dict[bytes, str] = {}
        for k, key in enumerate(fingerprints(structures)):
            name = structures.name(k)
            if key in seen:
                raise StructureError(
                    f"is in {part} and in {seen[key]}: take it out of one of them", name
                )
            own[key] = f"{part} ({name})"
        seen |= own
