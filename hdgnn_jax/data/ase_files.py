"""Structures out of ASE: its `Atoms`, and every file format it reads."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import Structure, StructureError, Structures


@dataclasses.dataclass(frozen=True)
class Calculated:
    """Structures with what was calculated of them.

    Attributes:
      structures: ids are places in the file, from 1.
      values: [n] energies, eV, or [n, 3] dipole moments, e Å.
      forces: [atoms, 3] eV/Å; None where some structure has none, or the values are no energies.
      groups: [n] integers; structures of one group (`group` in the file's info, such as one
        molecule in several shapes) belong in one part of a split.
    """

    structures: Structures
    values: np.ndarray
    forces: np.ndarray | None
    groups: np.ndarray


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
    path = pathlib.Path(path)
    for k, found in enumerate(_read(path), start=1):
        known = isinstance(found, StructureError)
        yield found if known else structure_of(found, f"{path.name}, structure {k}")


def _read(path: pathlib.Path) -> Iterator[Any]:
    """The `Atoms` of a file; where it cannot be read on, the last is the error that says why."""
    number = 0
    try:
        import ase.io

        for atoms in ase.io.iread(path, index=":"):
            yield atoms
            number += 1
    except ModuleNotFoundError as error:
        yield StructureError(
            f"cannot be read ({error.name} is not installed: "
            'pip install "hdgnn_jax[ase]")',
            f"{path.name}, structure 1",
        )
    # ASE's readers raise anything, from ValueError to their own.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield StructureError(f"cannot be read ({reason})", f"{path.name}, structure {number + 1}")


def read_calculated(path: str | os.PathLike[str], name: str) -> Calculated:
    """All structures of a file and their `energy` or `dipole`, as ASE's calculators store them.

    Raises:
      StructureError: naming the file and the structure that cannot be read, or has no such value.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise StructureError(f"there is no file {path}")
    structures, values, groups = [], [], []
    forces: list[Any] = []
    for k, found in enumerate(_read(path), start=1):
        if isinstance(found, StructureError):
            raise found
        results = {} if found.calc is None else found.calc.results
        value = _numbers(results.get(name), (3,) if name == "dipole" else ())
        if value is None:
            kind = "three numbers" if name == "dipole" else "a number"
            raise StructureError(f"has no {name} that is {kind}", f"{path.name}, structure {k}")
        structures.append(structure_of(found, f"{path.name}, structure {k}"))
        values.append(value)
        of_atoms = results.get("forces") if name == "energy" else None
        if of_atoms is not None:
            of_atoms = _numbers(of_atoms, (len(found), 3))
            if of_atoms is None:
                raise StructureError(
                    "has forces that are not three numbers an atom", f"{path.name}, structure {k}"
                )
        forces.append(of_atoms)
        groups.append(str(found.info.get("group", f"structure {k}")))
    packed = Structures.pack(structures, f"{path.name}, structure")
    complete = all(of is not None for of in forces)
    if not complete and any(of is not None for of in forces):
        k = next(k for k, of in enumerate(forces, 1) if of is None)
        raise StructureError(
            "has no forces that are numbers, and others have", f"{path.name}, structure {k}"
        )
    return Calculated(
        dataclasses.replace(packed, ids=packed.ids + 1),
        np.stack(values),
        np.concatenate(forces) if complete else None,
        np.unique(groups, return_inverse=True)[1],
    )


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Finite float64 of that shape; None where the value is something else."""
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)
