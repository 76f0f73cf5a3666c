"""Structures out of ASE: its `Atoms`, and every file format it reads."""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hdgnn_jax.data import sdf
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.oc20_lmdb import Record
from hdgnn_jax.data.qm9_files import published
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

if TYPE_CHECKING:
    from ase import Atoms

NEUTRAL = {
    "charge": (0,), "total_charge": (0,), "net_charge": (0,), "spin": (0, 1), "multiplicity": (1,),
}  # fmt: skip
"""Fields of a structure in a file, in any letter case, and their values for a neutral singlet. Some
programs write 2 S + 1 as `spin`, some the number of unpaired electrons."""
SMALLEST = 0.1
"""Charges of atoms that sum to less than this are those of a neutral structure, rounded."""


def structure_of(atoms: Any, name: str = "structure") -> Structure:
    """An `ase.Atoms` as a structure: elements, positions, cell, tags, and `FixAtoms` as fixed.

    A charge or a spin, in its `info` or of its atoms, becomes its `unseen`: no model takes them
    into account.
    """
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
        unseen=_unseen(atoms),
    )


def atoms_of(record: Record) -> Atoms:
    """An OC20 record as an `ase.Atoms`, which keeps the names of energies and relaxed positions."""
    from ase import Atoms
    from ase.constraints import FixAtoms

    numbers = {name: getattr(record, name) for name in ("sid", "y_init", "y_relaxed")}
    atoms = Atoms(
        record.atomic_numbers,
        record.positions,
        cell=record.cell,
        pbc=True,
        tags=record.tags,
        constraint=FixAtoms(mask=record.fixed),
        info={name: value for name, value in numbers.items() if value is not None},
    )
    if record.positions_relaxed is not None:
        atoms.set_array("positions_relaxed", record.positions_relaxed)
    return atoms


def _unseen(atoms: Any) -> str:
    """The charge and spin of an `ase.Atoms`, which no model sees; empty where there are none."""
    words = []
    info = {str(name).lower(): value for name, value in atoms.info.items()}
    for name, usual in NEUTRAL.items():
        value = info.get(name)
        # ASE's value of a bare word, as in the comment "charge 1".
        if value is True:
            words.append(f"{name} named in its comment")
            continue
        try:
            known = value is None or float(value) in usual
        except (TypeError, ValueError):
            known = False
        if not known:
            words.append(f"{name} {value!s:.20}")
    for what, of_atoms in (
        ("charges", atoms.get_initial_charges()),
        ("magnetic moments", atoms.get_initial_magnetic_moments()),
    ):
        if abs(total := float(np.sum(of_atoms))) >= SMALLEST:
            words.append(f"{what} of its atoms with the sum {total:+.3g}")
    return ", ".join(words)


def read_structures(path: str | os.PathLike[str]) -> Iterator[Structure | StructureError]:
    """The structures of a file (xyz, extxyz, cif, an ASE database, ...), in its order.

    If the file cannot be read to its end, the last item is the error that says why.
    """
    path = pathlib.Path(path)
    for k, (found, comment) in enumerate(_read(path), start=1):
        if isinstance(found, StructureError):
            yield found
        else:
            structure = structure_of(found, f"{path.name}, structure {k}")
            yield dataclasses.replace(structure, comment=comment)


def _comments(path: pathlib.Path) -> Iterator[str]:
    """The second lines of structures in an xyz file, without cell and columns, which ASE reads."""
    if path.suffix not in (".xyz", ".extxyz") or not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for count in filter(str.strip, lines):
            comment = next(lines, "")
            yield re.sub(r'\b(Lattice|Properties|pbc)=("[^"]*"|\S*)\s*', "", comment).strip()
            if not count.strip().isdecimal():
                return
            collections.deque(itertools.islice(lines, int(count)), maxlen=0)


def _by_ase(path: pathlib.Path) -> Iterator[Any]:
    """The `Atoms` of a file, those of a database with its key-value pairs and data as `info`."""
    if path.suffix == ".db":
        import ase.db

        with ase.db.connect(path, serial=True) as rows:
            for row in rows.select():
                atoms = row.toatoms()
                atoms.info = {**row.data, **row.key_value_pairs}
                yield atoms
        return
    import ase.io

    # At an "@" ASE would cut the name off, and read another file.
    yield from ase.io.iread(path, index=":", do_not_split_by_at_sign=True)


def _read(path: pathlib.Path) -> Iterator[tuple[Any, str]]:
    """The `Atoms` of a file, each with its comment in an xyz file, or its title in an sdf file.

    If the file cannot be read to its end, the last item is the error.
    """
    number, comments = 0, _comments(path)
    try:
        if path.suffix == ".xyz" and (of_qm9 := published(path)):
            import ase.io

            yield ase.io.read(io.StringIO(of_qm9.molecule), format="xyz"), of_qm9.comment
            return
        if sdf.is_sdf(path):
            for found in sdf.read(path):
                yield found
                number += 1
            return
        for atoms in _by_ase(path):
            yield atoms, next(comments, "")
            number += 1
        if next(comments, None) is not None:
            raise ValueError("ASE stops at the empty line before it; delete empty lines")
    except ModuleNotFoundError as error:
        extra = "rdkit" if error.name == "rdkit" else "ase"
        reason = f'{error.name} is not installed: pip install "hdgnn_jax[{extra}]"'
        yield StructureError(f"cannot be read ({reason})", f"{path.name}, structure 1"), ""
    # ASE's readers raise anything, from ValueError to their own.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError) and reason.strip("'").isalnum():
            reason = f"no element or field is called {reason}"
        if r"\ufeff" in reason:
            reason = "it begins with a byte-order mark; save it as UTF-8 without one"
        if type(error).__name__ == "UnknownFileTypeError" and " " not in reason:
            reason = f"ASE knows no format {reason}"
        at = f"{path.name}, structure {number + 1}"
        yield StructureError(f"cannot be read ({reason})", at), ""


UNREAD = ("virial", "virials")
"""Names of virials in a file. They are not read, because programs differ in their sign."""


class _Record(NamedTuple):
    """A structure of a file: its place, from 1, value, forces, virial, the name of its group, and
    the names of all its fields in the file."""

    number: int
    structure: Structure
    value: np.ndarray | None
    forces: np.ndarray | None
    virial: np.ndarray | None
    group: str | None
    names: frozenset[str]


def read_labelled(
    path: str | os.PathLike[str],
    name: str,
    key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    left_out: list[StructureError] | None = None,
) -> LabelledStructures:
    """All structures of a file and their `energy` or `dipole`, as ASE's calculators store them.

    With keys, the values are those that the file has under these names. All are in the file's
    units. Ids are places in the file, from 1. Energies come with forces where all structures have
    forces, and with the stress of structures that have one. Structures with the same `group` in
    their info are a group.

    Args:
      path: the file.
      name: `energy` or `dipole`.
      key, forces_key, stress_key: names in the file; None: as ASE's calculators store them. If
        another key is given but no `stress_key`, the stress is not read.
      left_out: gets the error of each structure without such values, which is then left out.
        None: the first such error is raised, but for a dipole moment that other structures have,
        which is NaN.

    Raises:
      StructureError: naming the file and the structure that cannot be read or lacks the value.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise StructureError(f"there is no file {path}")

    def refuse(error: StructureError) -> None:
        if left_out is None:
            raise error
        left_out.append(error)

    records = []
    for k, (found, _) in enumerate(_read(path), start=1):
        try:
            at = f"{path.name}, structure {k}"
            records.append(_record(found, name, key, forces_key, stress_key, k, at))
        except StructureError as error:
            refuse(error)
    if not records and not left_out:
        raise StructureError(f"ASE finds no structure in {path}")
    # That of an atom alone is known without the file.
    given = any(r.value is not None and len(r.structure.positions) > 1 for r in records)
    masked = name == "dipole" and left_out is None and given
    labelled = records if masked else _with_label(records, name, key, refuse)
    return _packed(_all_or_none_with_forces(labelled, refuse), name, stress_key, path.name)


def _with_label(
    records: list[_Record], name: str, key: str | None, refuse: Callable[[StructureError], None]
) -> list[_Record]:
    """The records with a value; the others are refused."""
    known = [r for r in records if r.value is not None]
    for r in records:
        if r.value is None:
            there = ", ".join(sorted(r.names - {"numbers", "positions"}))
            how = f": set config.data.{name}_key (evaluate: --{name}_key)" * bool(there)
            if known:
                n = f"{len(known):,} of {len(records):,} structures"
                how = f": {n} have it: leave the others out"
            reason = f"has no {key or name}; beside positions it has {there or 'nothing'}{how}"
            refuse(StructureError(reason, r.structure.name))
    return known


def _all_or_none_with_forces(
    records: list[_Record], refuse: Callable[[StructureError], None]
) -> list[_Record]:
    """The records; where some have forces, those without are refused and left out."""
    if all(r.forces is None for r in records):
        return records
    kept = []
    for r in records:
        if r.forces is not None:
            kept.append(r)
        elif len(r.structure.positions) == 1:
            # The force on a single atom is 0.
            kept.append(r._replace(forces=np.zeros((1, 3))))
        else:
            words = "has no forces that are numbers; other structures of the file have"
            refuse(StructureError(words, r.structure.name))
    return kept


def _packed(
    records: list[_Record], name: str, stress_key: str | None, file: str
) -> LabelledStructures:
    """The records of a file with the label of this name; all have forces, or none has."""
    packed = Structures.pack((r.structure for r in records), f"{file}, structure")
    forces = [r.forces for r in records if r.forces is not None]
    # A structure without a group is a group of its own.
    groups = [r.group or f"structure {r.number}" for r in records]
    unknown = np.full((3, 3), np.nan)
    virials = [unknown if r.virial is None else r.virial for r in records]
    return LabelledStructures(
        dataclasses.replace(packed, ids=np.array([r.number for r in records])),
        {name: np.stack([np.full(3, np.nan) if r.value is None else r.value for r in records])},
        np.concatenate(forces) if forces else None,
        np.stack(virials) if any(r.virial is not None for r in records) else None,
        np.unique(groups, return_inverse=True)[1] if any(r.group for r in records) else None,
        _notes(records, name, stress_key or "stress"),
    )


def _notes(records: list[_Record], label: str, stress: str) -> tuple[str, ...]:
    """Lines for the user on missing labels, virials, stress, charges and spins in a file."""
    names = {name for r in records for name in r.names}
    missing = [r.number for r in records if r.value is None]
    words = f"{len(missing):,} structures have no {label}, the first is structure "
    notes = [f"{words}{k}" for k in missing[:1]]
    notes += [f"{word} of the file: nothing is trained on it" for word in UNREAD if word in names]
    n_virials = sum(r.virial is not None for r in records)
    if n_virials:
        words = "trained on where training.stress_weight is not 0"
        notes.append(f"stress of {n_virials:,} structures: {words}")
    elif stress in names and not any(all(r.structure.periodic) for r in records):
        notes.append("stress of the file: no structure is periodic in all three directions")
    elif "stress" in names:
        notes.append("stress of the file: nothing is trained on it (data.stress_key names it)")
    unseen = sum(bool(r.structure.unseen) and len(r.structure.positions) > 1 for r in records)
    if unseen:
        notes.append(f"{unseen:,} structures have a charge or a spin, which no model sees")
    return tuple(notes)


def _record(
    found: Any,
    name: str,
    key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    number: int,
    at: str,
) -> _Record:
    if isinstance(found, StructureError):
        raise found
    results = {} if found.calc is None else found.calc.results
    known = {**found.info, **found.arrays, **results}
    shape, kind = ((3,), "three numbers") if name == "dipole" else ((), "a number")
    value = _numbers(known.get(key or name), shape)
    if value is None and (key or name) in known:
        raise StructureError(f"has a value of {key or name} that is not {kind}", at)
    if value is None and name == "dipole" and len(found) == 1:
        # An atom alone has none, and dipole moments of crystals are refused.
        value = np.zeros(3)
    forces = known.get(forces_key or "forces") if name == "energy" else None
    if forces is None and forces_key and len(found) > 1:
        raise StructureError(f"has no {forces_key}", at)
    if forces is not None:
        forces = _numbers(forces, (len(found), 3))
        if forces is None:
            raise StructureError("has forces that are not three numbers an atom", at)
    # If energies have another name, "stress" may come from another method.
    usual = None if key or forces_key else "stress"
    virial = _virial(found, known.get(stress_key or usual)) if name == "energy" else None
    group = found.info.get("group")
    named = None if group is None else str(group)
    structure = structure_of(found, at)
    if len(found) == 1 and "charge" in structure.unseen:
        raise StructureError("is an atom with a charge, which no model sees: take it out", at)
    return _Record(number, structure, value, forces, virial, named, frozenset(known))


def _virial(atoms: Any, stress: object) -> np.ndarray | None:
    """[3, 3] the stress, of ASE's sign, times the volume; None without finite numbers or a cell."""
    if stress is None or not atoms.pbc.all():
        return None
    for shape in ((6,), (9,), (3, 3)):
        values = _numbers(stress, shape)
        if values is not None:
            whole = values[[0, 5, 4, 5, 1, 3, 4, 3, 2]] if shape == (6,) else values
            matrix = whole.reshape(3, 3) * float(atoms.get_volume())
            virial: np.ndarray = (matrix + matrix.T) / 2
            return virial
    return None


def _numbers(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Finite float64 of that shape; None where the value is something else."""
    array = np.asarray(value)
    if shape == () and array.shape == (1,):
        # As SchNetPack's databases have energies.
        array = array[0]
    if array.shape != shape or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)
