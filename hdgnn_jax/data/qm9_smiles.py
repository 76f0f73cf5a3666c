"""QM9's molecules in the positions that RDKit makes from their SMILES.

A network that learns from them has the same kind of input as one that predicts from SMILES: the
labels are those of the molecules as relaxed with B3LYP.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from hdgnn_jax.data import qm9pack
from hdgnn_jax.data.cache import cache_folder, is_complete, write_with_digest
from hdgnn_jax.data.processes import make_files
from hdgnn_jax.data.qm9pack import QM9Error
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.types import Json

PACKED = "smiles.1.npz"
"""The number is the version of the layout and of the way positions are made."""
PART = 5_000
"""Number of molecules in a file of their own, until all are made."""


def load(cache: str | os.PathLike[str] | None = None) -> Structures:
    """The molecules for which RDKit has positions, in order of QM9's index, which is their id.

    Args:
      cache: folder; see `cache_folder`.

    Raises:
      QM9Error: where `build` has not made them, or the file is damaged.
    """
    path, made = cache_folder(cache) / "qm9" / PACKED, "`python -m experiments.prepare smiles`"
    if not is_complete(path):
        raise QM9Error(f"there is no file {path}: {made} makes the positions")
    return qm9pack.structures_of(qm9pack.read_arrays(path, then=f"run {made}"))


def build(
    molecules: Structures, smiles: Mapping[int, str], cache: pathlib.Path, processes: int
) -> Structures:
    """Makes the positions once, some 20 ms a molecule and core; goes on where it was interrupted.

    A molecule is left out where RDKit has no positions for its SMILES or the atoms are not its own.

    Args:
      molecules: QM9's, whose ids are their index.
      smiles: by index.
      cache: folder, with QM9's in it.
      processes: number of processes.
    """
    folder = cache / "qm9"
    if is_complete(folder / PACKED):
        return load(cache)
    rows = [
        (index, smiles.get(index, ""), sorted(molecules[k].atomic_numbers.tolist()))
        for k, index in enumerate(molecules.ids.tolist())
    ]
    files = {
        folder / f"{PACKED}.part{start:06}.npz": rows[start : start + PART]
        for start in range(0, len(rows), PART)
    }
    title = "QM9: positions from SMILES"
    make_files(files, _lowest, _write, processes, title, "molecules", is_complete)
    parts = [qm9pack.structures_of(qm9pack.read_arrays(file)) for file in files]
    found = ((index, of[k]) for of in parts for k, index in enumerate(of.ids.tolist()))
    _write(folder / PACKED, found)
    for file in folder.glob(f"{PACKED}.part*"):
        file.unlink()
    return load(cache)


def _lowest(index: int, smiles: str, elements: list[int]) -> tuple[int, Structure] | None:
    """The first conformer, after its index; None where there is none, or its atoms are others.

    `elements` are the atomic numbers of the molecule's atoms, ascending.
    """
    try:
        found = conformers(smiles)[0][0]
    except StructureError:
        return None
    return (index, found) if sorted(found.atomic_numbers.tolist()) == elements else None


def _write(path: pathlib.Path, made: Iterable[tuple[int, Structure] | None]) -> None:
    """Packs structures, each after its index; None is left out."""
    pairs = list(filter(None, made))
    numbers = [found.atomic_numbers for _, found in pairs]
    arrays: Json = {
        "offsets": np.cumsum([0, *map(len, numbers)]),
        "atomic_numbers": np.concatenate([np.empty(0, np.int32), *numbers]),
        "positions": np.concatenate([np.empty((0, 3)), *(found.positions for _, found in pairs)]),
        "ids": np.array([index for index, _ in pairs], int),
    }
    write_with_digest(path, lambda path: np.savez(path, **arrays))
