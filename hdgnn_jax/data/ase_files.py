"""Structures out of ASE: its `Atoms`, and every file format it reads."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import Structure, StructureError


def structure_of(atoms: Any, name: str = "structure") -> Structure:
    """An `ase.Atoms` as a structure: elements, positions, cell, tags, and `FixAtoms` as fixed."""
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    a, b, c = map(bool, atoms.pbc)
    return Structure(
        atoms.numbers.astype(np.int32),
        atoms.positions.astype(np.float64),
        name,
        atoms.cell.array if a or b or c else None,
        (a, b, c),
        atoms.get_tags(),
        fixed,
    )


def read_structures(path: str | os.PathLike[str]) -> Iterator[Structure | StructureError]:
    """The structures of a file (xyz, extxyz, cif, an ASE database, ...), in its order.

    Where it cannot be read on, the last is the error that says why.
    """
    import ase.io

    path = pathlib.Path(path)
    number = 0
    try:
        for number, atoms in enumerate(ase.io.iread(path, index=":"), start=1):
            yield structure_of(atoms, f"{path.name}, structure {number}")
    # ASE's readers raise anything, from ValueError to their own.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield StructureError(f"{path.name}, structure {number + 1}: cannot be read ({reason})")
