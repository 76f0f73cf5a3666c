"""QM9's molecules in the positions that RDKit makes from their SMILES.

A network that learns from them has the same kind of input as one that predicts from SMILES: the
labels are those of the molecules as relaxed with B3LYP.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from hdgnn_jax.data import qm9pack
from hdgnn_jax.data.cache import cache_folder, is_complete, write_with_digest
from hdgnn_jax.data.processes import map_in_processes
from hdgnn_jax.data.qm9pack import QM9Error
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.progress import progress_bar

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
    starts = range(0, len(molecules), PART)
    parts = {start: folder / f"{PACKED}.part{start:06}.npz" for start in starts}
    missing = [start for start, file in parts.items() if not is_complete(file)]
    rows = [range(start, min(start + PART, len(molecules))) for start in missing]
    with progress_bar("molecules") as progress:
        task = progress.add_task("QM9: positions from SMILES", total=len(molecules))
        progress.advance(task, len(molecules) - sum(map(len, rows)))
        texts = (smiles.get(int(molecules.ids[k]), "") for k in itertools.chain(*rows))
        made = map_in_processes(_lowest, texts, processes=processes)
        with contextlib.closing(made) as found:
            for start, row in zip(missing, rows, strict=True):
                kept = []
                for k in row:
                    structure = next(found)
                    progress.advance(task)
                    if structure is not None and _same_atoms(structure, molecules[k]):
                        kept.append((int(molecules.ids[k]), structure))
                _write(
                    parts[start],
                    np.array([len(structure.atomic_numbers) for _, structure in kept], int),
                    np.concatenate([np.empty(0, np.int32), *(s.atomic_numbers for _, s in kept)]),
                    np.concatenate([np.empty((0, 3)), *(s.positions for _, s in kept)]),
                    np.array([index for index, _ in kept], int),
                )
    contents = [qm9pack.read_arrays(file) for file in parts.values()]
    counts = np.concatenate([np.diff(content["offsets"]) for content in contents])
    numbers, positions, ids = (
        np.concatenate([content[name] for content in contents])
        for name in ("atomic_numbers", "positions", "ids")
    )
    _write(folder / PACKED, counts, numbers, positions, ids)
    for file in folder.glob(f"{PACKED}.part*"):
        file.unlink()
    return load(cache)


def _lowest(smiles: str) -> Structure | None:
    """The first conformer; None where there is none."""
    try:
        return conformers(smiles)[0][0]
    except StructureError:
        return None


def _same_atoms(one: Structure, other: Structure) -> bool:
    return sorted(one.atomic_numbers) == sorted(other.atomic_numbers)


def _write(
    path: pathlib.Path,
    counts: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    ids: np.ndarray,
) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    write_with_digest(path, lambda path: np.savez(
        path, offsets=offsets, atomic_numbers=numbers, positions=positions, ids=ids))  # fmt: skip
