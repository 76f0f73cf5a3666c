"""Divides a file's structures into parts: which stay together, and which are held out."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.covalent import bonded
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

SPLITS = {
    "blocks": "in blocks of neighbouring frames",
    "random": "frame by frame at random (of a trajectory, nearly the frames trained on)",
}
"""How held-out structures of a file without groups are drawn."""
DECIMALS = 4
"""Decimals of positions in Å that count when structures of two parts are compared."""


def blocks(structures: Structures, size: float) -> np.ndarray:
    """[n] the number of each structure's block.

    Consecutive structures of the same atoms count as one trajectory, and so do those after others
    that begin with the same bonds. It is one block, or is cut into blocks of equal length where it
    is longer than `size`.
    """
    atoms = [
        structures.atomic_numbers[first:last].tobytes()
        for first, last in itertools.pairwise(structures.offsets)
    ]
    runs = [(of, list(k)) for of, k in itertools.groupby(range(len(atoms)), atoms.__getitem__)]
    times = collections.Counter(of for of, _ in runs)
    trajectories: dict[tuple[bytes, bytes], list[int]] = {}
    for of, rows in runs:
        # Atoms that do not come again need no comparison.
        bonds = _bonds(structures[rows[0]]) if times[of] > 1 else b""
        trajectories.setdefault((of, bonds), []).extend(rows)
    found, number = np.empty(len(structures), int), 0
    for rows in trajectories.values():
        for piece in np.array_split(rows, math.ceil(len(rows) / max(size, 1))):
            found[piece], number = number, number + 1
    return found


def _bonds(structure: Structure) -> bytes:
    """Which atoms are bonded, without images of the cell."""
    z, x = structure.atomic_numbers, structure.positions
    distances = np.linalg.norm(x[:, None] - x, axis=-1)
    return np.packbits(bonded(z[:, None], z, distances)).tobytes()


def hold_out(groups: np.ndarray, share: float, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws whole groups for each part at random, and returns the rows of each part.

    A group more than twice as large as a part should be is drawn only where no other is left; of
    the others the share is then held out, at least a group.

    Args:
      groups: [n] numbers without gaps.
      share: share of all structures in each held-out part, as nearly as groups allow.
      names: names of the held-out parts; the rest is `train`.

    Raises:
      InputError: where the rest is empty.
    """
    order = np.random.default_rng(0).permutation(groups.max(initial=-1) + 1)
    if len(order) <= len(names):
        raise InputError(f"has {len(order)} groups of structures: none is left to train on")
    sizes, wanted = np.bincount(groups), share * len(groups)
    large = np.where(sizes > 2 * wanted, sizes, 0)
    if large.any():
        wanted = share * sizes[large == 0].sum()
    order = order[np.argsort(large[order], kind="stable")]
    counts, found = sizes[order], {}
    for k, name in enumerate(names):
        excess = np.abs(np.cumsum(counts) - wanted)
        # One group at least is left for each part that follows, and for training.
        n = min(int(np.argmin(excess)) + 1, len(order) - len(names) + k)
        found[name], order, counts = order[:n], order[n:], counts[n:]
    found["train"] = order
    return {name: np.flatnonzero(np.isin(groups, drawn)) for name, drawn in found.items()}


def without_copies(rows: Mapping[str, np.ndarray], structures: Structures) -> dict[str, np.ndarray]:
    """Leaves structures out of a part that occur again in one before it.

    Args:
      rows: rows of each part, in the order in which they matter: training is the last one.
      structures: all structures.
    """
    keys, seen = fingerprints(structures), set[bytes]()
    found = {}
    for part, of in rows.items():
        found[part] = np.array([k for k in of if keys[k] not in seen], int)
        seen |= {keys[k] for k in of}
    return found


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
