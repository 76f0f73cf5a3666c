"""Structures out of ASE: its `Atoms`, and every file format it reads."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hdgnn_jax.data.cache import cache_folder, sha256
from hdgnn_jax.data.dataset import Dataset, check_part, first_rows
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.partition import SPLITS, blocks, hold_out, refuse_shared
from hdgnn_jax.data.targets import CALCULATED, HARTREE_IN_MEV, ReferenceKind, Target
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": HARTREE_IN_MEV / 1000,
    "Ry": HARTREE_IN_MEV / 2000,
    "kcal/mol": 0.0433641153087705,
    "kJ/mol": 0.010364269656262175,
}
"""In eV (CODATA 2018): what a file may give energies in, and forces, per Å."""


@dataclasses.dataclass(frozen=True)
class ASEFile(Dataset):
    """Structures of a file that ASE reads, with energies and forces, or with dipole moments.

    Attributes:
      path: of the file; None: molecules made here, by `experiments.prepare molecules`.
      validation_path, test_path: files of these parts, read as that of `path`; None: held out of
        it.
      held_out: share of the structures in each part that is held out. Those of one group, as the
        file's `group` says, stay together.
      split: how a file without groups is divided, one of `SPLITS`: `blocks` of neighbouring frames,
        or at `random`.
      train_size: so many of the others; None: all.
      reference: `none`, `fitted` or `linear`; None: the usual one of the target.
      energy_unit: of the file's energies, and of its forces, per Å; one of `ENERGY_UNITS`.
      energy_key, forces_key: where they stand in the file, such as `REF_energy` and `REF_forces`;
        None: where ASE's calculators put them.
      cache: folder; None: see `cache_folder`.
    """

    path: str | None = None
    validation_path: str | None = None
    test_path: str | None = None
    held_out: float = 0.1
    split: str = "blocks"
    train_size: int | None = None
    reference: ReferenceKind | None = None
    energy_unit: str = "eV"
    energy_key: str | None = None
    forces_key: str | None = None
    cache: str | None = None

    family: ClassVar[str] = "a file of ASE"
    targets: ClassVar[Mapping[str, Target]] = CALCULATED

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 0.5:
            raise InputError(f"data.held_out must lie between 0 and 0.5, not {self.held_out}")
        if self.split not in SPLITS:
            raise InputError(f"data.split must be one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.energy_unit not in ENERGY_UNITS:
            raise InputError(
                f"data.energy_unit must be one of {', '.join(ENERGY_UNITS)}, not "
                f"{self.energy_unit!r}"
            )

    @property
    def title(self) -> str:
        """What the structures are, in a few words."""
        return self._file.name if self.path else "molecules in motion (GFN2-xTB, made here)"

    @property
    def note(self) -> str:
        """What has to be known to compare with others."""
        return "" if self.path else "Made here: no published number can be held against these."

    def digest(self) -> str:
        """Of the files, and of what decides which structures are in which part."""
        content = [sha256(self._file), self.held_out, self.train_size, self.split]
        content += [path and sha256(path) for path in self._given.values()]
        how = [self.energy_unit, self.energy_key, self.forces_key]
        # What is read as it always was keeps its digest.
        if how != ["eV", None, None]:
            content += how
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def part(self, name: str, target: str) -> LabelledStructures:
        """A part, in eV, eV/Å and e Å.

        Raises:
          InputError: for a part or a training size that is none.
          StructureError: naming what a file lacks, or a structure that two parts have.
        """
        check_part(name, ("train", *self.reported))
        return self._parts(target)[name]

    def how_divided(self, target: str) -> str:
        """Number of structures in validation and test, and where they are from."""
        grouped = self._labelled(target).groups is not None
        how = "in the groups that it names" if grouped else SPLITS[self.split]
        sources: dict[str, list[str]] = {}
        for part, path in self._given.items():
            source = path.name if path else f"{self._file.name}, held out {how}"
            n = len(self._parts(target)[part])
            sources.setdefault(source, []).append(f"{part} ({n:,})")
        return "; ".join(f"{' and '.join(parts)}: {source}" for source, parts in sources.items())

    @functools.cached_property
    def _parts(self) -> Callable[[str], dict[str, LabelledStructures]]:
        def divide(target: str) -> dict[str, LabelledStructures]:
            data, given = self._labelled(target), self._given
            groups = data.groups
            if groups is None:
                n = len(data)
                in_blocks = self.split == "blocks"
                groups = blocks(data.structures, self.held_out * n) if in_blocks else np.arange(n)
            held_out = [part for part, path in given.items() if path is None]
            try:
                rows = hold_out(groups, self.held_out, held_out)
            except InputError as error:
                raise InputError(f"{self._file} {error}") from error
            mixed = np.random.default_rng(0).permutation(rows["train"])
            rows["train"] = first_rows(mixed, self.train_size)
            parts = {part: data.take(of) for part, of in rows.items()}
            parts |= {part: self.labelled(path, target) for part, path in given.items() if path}
            if any(given.values()):
                refuse_shared({part: of.structures for part, of in parts.items()})
            return parts

        return functools.cache(divide)

    @functools.cached_property
    def _labelled(self) -> Callable[[str], LabelledStructures]:
        return functools.cache(lambda target: self.labelled(self._file, target))

    def labelled(
        self,
        path: str | os.PathLike[str],
        target: str,
        left_out: list[StructureError] | None = None,
    ) -> LabelledStructures:
        """A file, read as that of `path` is: in eV, eV/Å and e Å.

        Args and errors: of `read_labelled`.
        """
        if target != "energy":
            return read_labelled(path, target, left_out=left_out)
        found = read_labelled(path, target, self.energy_key, self.forces_key, left_out)
        unit = ENERGY_UNITS[self.energy_unit]
        forces = None if found.forces is None else found.forces * unit
        return dataclasses.replace(
            found, labels={target: found.labels[target] * unit}, forces=forces
        )

    @property
    def _given(self) -> dict[str, pathlib.Path | None]:
        """The files of the parts that are held out where they have none."""
        given = {"validation": self.validation_path, "test": self.test_path}
        for part, path in given.items():
            if path and not pathlib.Path(path).is_file():
                raise StructureError(f"there is no file {path}: set config.data.{part}_path")
        return {part: pathlib.Path(path) if path else None for part, path in given.items()}

    @property
    def _file(self) -> pathlib.Path:
        if self.path:
            file, how = pathlib.Path(self.path), "set config.data.path"
        else:
            file = cache_folder(self.cache) / "ase" / "molecules" / "molecules.extxyz"
            how = "run python -m experiments.prepare molecules"
        if not file.exists():
            raise StructureError(f"there is no file {file}: {how}")
        return file


NEUTRAL = {"charge": (0,), "spin": (0, 1), "multiplicity": (1,)}
"""What a file may say of a structure, and what it then says of a neutral singlet. Some programs
write 2 S + 1 as `spin`, some the number of unpaired electrons."""


def structure_of(atoms: Any, name: str = "structure") -> Structure:
    """An `ase.Atoms` as a structure: elements, positions, cell, tags, and `FixAtoms` as fixed.

    A charge or a spin in its `info` is what no model sees.
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
        unseen=_unseen(atoms.info),
    )


def _unseen(info: Mapping[str, Any]) -> str:
    """What is said of a structure that no model sees."""
    words = []
    for name, usual in NEUTRAL.items():
        value = info.get(name)
        try:
            known = value is None or float(value) in usual
        except (TypeError, ValueError):
            known = False
        if not known:
            words.append(f"{name} {value!s:.20}")
    return ", ".join(words)


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


class _Record(NamedTuple):
    """A structure of a file with its place, from 1, value, forces and the name of its group."""

    number: int
    structure: Structure
    value: np.ndarray
    forces: np.ndarray | None
    group: str | None


def read_labelled(
    path: str | os.PathLike[str],
    name: str,
    key: str | None = None,
    forces_key: str | None = None,
    left_out: list[StructureError] | None = None,
) -> LabelledStructures:
    """All structures of a file and their `energy` or `dipole`, as ASE's calculators store them.

    With `key` and `forces_key` they are what the file has under these names, in its units. Ids are
    places in the file, from 1. Energies come with forces where all structures have them;
    structures with the same `group` in the file's info are a group.

    Args:
      path: of the file.
      name: `energy` or `dipole`.
      key, forces_key: names in the file; None: as ASE's calculators store them.
      left_out: receives why a structure cannot be had, which is then left out; None: it is an
        error.

    Raises:
      StructureError: naming the file and the structure that cannot be read, or has no such value.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise StructureError(f"there is no file {path}")

    def refuse(error: StructureError) -> None:
        if left_out is None:
            raise error
        left_out.append(error)

    records = []
    for k, found in enumerate(_read(path), start=1):
        try:
            records.append(_record(found, name, key, forces_key, k, f"{path.name}, structure {k}"))
        except StructureError as error:
            refuse(error)
    with_forces = [r for r in records if r.forces is not None]
    if with_forces:
        for r in records:
            if r.forces is None:
                words = "has no forces that are numbers, and others have"
                refuse(StructureError(words, f"{path.name}, structure {r.number}"))
        records = with_forces
    packed = Structures.pack((r.structure for r in records), f"{path.name}, structure")
    # A structure that the file names no group for is one of its own.
    groups = [r.group or f"structure {r.number}" for r in records]
    return LabelledStructures(
        dataclasses.replace(packed, ids=np.array([r.number for r in records])),
        {name: np.stack([r.value for r in records])},
        np.concatenate([r.forces for r in with_forces]) if with_forces else None,
        np.unique(groups, return_inverse=True)[1] if any(r.group for r in records) else None,
    )


def _record(
    found: Any, name: str, key: str | None, forces_key: str | None, number: int, at: str
) -> _Record:
    if isinstance(found, StructureError):
        raise found
    results = {} if found.calc is None else found.calc.results
    known = {**found.info, **found.arrays, **results}
    value = _numbers(known.get(key or name), (3,) if name == "dipole" else ())
    if value is None:
        kind = "three numbers" if name == "dipole" else "a number"
        there = ", ".join(sorted(known.keys() - {"numbers", "positions"})) or "nothing"
        option = ": set config.data.energy_key (evaluate: --energy_key)" * (name == "energy")
        raise StructureError(
            f"has no {key or name} that is {kind}; beside positions it has {there}{option}", at
        )
    forces = known.get(forces_key or "forces") if name == "energy" else None
    if forces is None and forces_key:
        raise StructureError(f"has no {forces_key}", at)
    if forces is not None:
        forces = _numbers(forces, (len(found), 3))
        if forces is None:
            raise StructureError("has forces that are not three numbers an atom", at)
    group = found.info.get("group")
    named = None if group is None else str(group)
    return _Record(number, structure_of(found, at), value, forces, named)


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Finite float64 of that shape; None where the value is something else."""
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)
