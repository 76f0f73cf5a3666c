"""A data set in a file that ASE reads."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from hdgnn_jax.data import plausible
from hdgnn_jax.data.ase_files import read_labelled
from hdgnn_jax.data.cache import cache_folder, sha256
from hdgnn_jax.data.dataset import Dataset, check_part, first_rows
from hdgnn_jax.data.labelled import LabelledStructures, labelled_rows
from hdgnn_jax.data.partition import SPLITS, blocks, hold_out, refuse_shared, without_copies
from hdgnn_jax.data.targets import CALCULATED, ReferenceKind, Target
from hdgnn_jax.data.units import ENERGIES, LENGTHS, check_unit
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.neighbors import neighbors_of
from hdgnn_jax.graphs.structure import ATOMIC_NUMBERS, SYMBOLS, StructureError, Structures

ALONE = 6.0
"""Å. A single atom without a periodic image within this distance is isolated."""
SAME = 1e-3
"""eV. Two energies of the same isolated atom may differ by this much."""
DIVISION = 2
"""Number of the rule that divides a file. A run of another rule is not resumed."""


@dataclasses.dataclass(frozen=True)
class ASEFile(Dataset):
    """Structures of a file that ASE reads, with energies and forces, or with dipole moments.

    Isolated atoms in the file are not examples; references start from their energies.

    Attributes:
      path: the file; None: the molecules that `experiments.prepare molecules` makes.
      validation_path, test_path: files of these parts, read like `path`; None: the part is held out
        of `path`.
      held_out: share of the structures in each held-out part. Structures with the same `group` in
        the file stay together. Copies of held-out structures are left out of training.
      split: how a file without groups is divided, one of `SPLITS`: `blocks` of neighbouring frames,
        or at `random`.
      train_size: number of other structures that are trained on; None: all.
      reference: `none`, `fitted` or `linear`; None: the default of the target.
      energy_unit, length_unit: units of the file, from `ENERGIES` and `LENGTHS`. Forces are in
        energy_unit / length_unit, dipole moments in e length_unit.
      energy_key, forces_key, stress_key, dipole_key: names in the file, such as `REF_energy` and
        `REF_forces`; None: the names that ASE's calculators use.
      atom_energies: energies of isolated atoms in `energy_unit`, such as "H=-13.6,C=-1029.8";
        isolated atoms in the file add theirs.
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
    length_unit: str = "Å"
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    dipole_key: str | None = None
    atom_energies: str | None = None
    cache: str | None = None

    family: ClassVar[str] = "a file of ASE"
    targets: ClassVar[Mapping[str, Target]] = CALCULATED

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 0.5:
            raise InputError(f"data.held_out must lie between 0 and 0.5, not {self.held_out}")
        if self.split not in SPLITS:
            raise InputError(f"data.split must be one of {', '.join(SPLITS)}, not {self.split!r}")
        check_unit("data.energy_unit", self.energy_unit, ENERGIES)
        check_unit("data.length_unit", self.length_unit, LENGTHS)
        if self.atom_energies is not None:
            atom_table(self.atom_energies)
            if self.reference == "none":
                raise InputError("data.atom_energies is not used where data.reference is none")

    @property
    def title(self) -> str:
        """A few words that describe the structures."""
        return self._file.name if self.path else "molecules in motion (GFN2-xTB, made here)"

    @property
    def note(self) -> str:
        """Caveats of a comparison with errors of others; empty without any."""
        return "" if self.path else "Made here: no published number can be compared with these."

    def chosen(self, names: Sequence[str]) -> list[Target]:
        """The targets of one run.

        Raises:
          InputError: where one is none of the data set, or a field is set for another.
        """
        targets = super().chosen(names)
        of_energies = ("energy_key", "forces_key", "stress_key", "atom_energies")
        for name, fields in {"energy": of_energies, "dipole": ("dipole_key",)}.items():
            for field in fields if name not in names else ():
                if getattr(self, field) is not None:
                    raise InputError(
                        f"data.{field} is for {name}, but config.target is {','.join(names)}"
                    )
        return targets

    def digest(self) -> str:
        """A SHA-256 of the files, and of all that decides which part a structure is in."""
        content = [sha256(self._file), self.held_out, self.train_size, self.split]
        content += [path and sha256(path) for path in self._given.values()]
        if None in self._given.values():
            content.append(DIVISION)
        how = [self.energy_unit, self.length_unit, self.energy_key, self.forces_key]
        # Defaults add nothing, so that digests of older runs stay valid.
        if how != ["eV", "Å", None, None]:
            content += how
        if self.stress_key is not None:
            content.append(self.stress_key)
        if self.dipole_key is not None:
            content.append(f"dipole {self.dipole_key}")
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def part(self, name: str, target: str) -> LabelledStructures:
        """The structures of a part whose label is known, in eV, eV/Å and e Å.

        Raises:
          InputError: where the part does not exist or is empty, or `train_size` is out of range.
          StructureError: naming what a file lacks, or a structure that two parts have.
        """
        check_part(name, ("train", *self.reported))
        part = self._parts(target)[name]
        if not len(part):
            raise InputError(f"no structure of the part {name} has a {target}")
        return part

    def how_divided(self, target: str) -> str:
        """Number of structures in validation and test, and where they are from."""
        grouped = self._examples(target).groups is not None
        how = "in the groups that it names" if grouped else SPLITS[self.split]
        sources: dict[str, list[str]] = {}
        for part, path in self._given.items():
            source = path.name if path else f"{self._file.name}, held out {how}"
            n = len(self._parts(target)[part])
            sources.setdefault(source, []).append(f"{part} ({n:,})")
        lines = [f"{' and '.join(parts)}: {source}" for source, parts in sources.items()]
        drawn = sum(map(len, self._rows(target).values()))
        if copies := len(self._examples(target)) - drawn:
            lines.append(f"left out, since another part has the same structure: {copies:,}")
        return "; ".join(lines)

    @functools.cached_property
    def _rows(self) -> Callable[[str], dict[str, np.ndarray]]:
        """Rows of the parts that are held out of `path`, and of the rest, `train`."""

        def draw(target: str) -> dict[str, np.ndarray]:
            data = self._examples(target)
            groups, n = data.groups, len(data)
            held_out = [part for part, path in self._given.items() if path is None]
            if groups is None:
                in_blocks = held_out and self.split == "blocks"
                groups = blocks(data.structures, self.held_out * n) if in_blocks else np.arange(n)
            try:
                rows = hold_out(groups, self.held_out, held_out)
            except InputError as error:
                raise InputError(f"{self._file} {error}") from error
            if not held_out:
                return rows
            rows = without_copies(rows, data.structures)
            if empty := [part for part, of in rows.items() if not len(of)]:
                raise InputError(
                    f"{self._file}: all structures drawn for {empty[0]} are in another part, too: "
                    "leave copies out of the file"
                )
            return rows

        return functools.cache(draw)

    @functools.cached_property
    def _parts(self) -> Callable[[str], dict[str, LabelledStructures]]:
        def divide(target: str) -> dict[str, LabelledStructures]:
            data, given, rows = self._examples(target), self._given, self._rows(target)
            mixed = np.random.default_rng(0).permutation(rows["train"])
            rows = {**rows, "train": first_rows(mixed, self.train_size)}
            parts = {part: data.take(of) for part, of in rows.items()}
            for part, path in given.items():
                if path:
                    parts[part] = without_atoms(self.labelled(path, target))
            if any(given.values()):
                refuse_shared({part: of.structures for part, of in parts.items()})
            # Divided before: a structure is in the same part for each target.
            return {part: with_label(of, target) for part, of in parts.items()}

        return functools.cache(divide)

    def atoms(self, target: str) -> Mapping[int, float]:
        """Energies of isolated atoms in eV by atomic number: of the file and the config.

        Raises:
          InputError: where two energies of one element differ.
        """
        if target != "energy" or self.reference == "none":
            return {}
        unit, found, said = ENERGIES[self.energy_unit], {}, {}
        for z, energy in atom_table(self.atom_energies or "").items():
            found[z], said[z] = energy * unit, "data.atom_energies"
        whole = self._whole(target)
        for k in np.flatnonzero(isolated(whole.structures)).tolist():
            z, energy = int(whole.structures[k].atomic_numbers[0]), float(whole.labels[target][k])
            if z in found and abs(found[z] - energy) > SAME:
                raise InputError(
                    f"{whole.structures.name(k)} gives an isolated {SYMBOLS[z]} {energy:.6g} eV, "
                    f"{said[z]} {found[z]:.6g} eV: leave one of them out"
                )
            found[z], said[z] = energy, whole.structures.name(k)
        return found

    def summary(self, target: str) -> list[str]:
        """Lines on the files: their structures and values, what was left out, and doubts."""
        data, atoms = self._examples(target), self.atoms(target)
        lone = lines_on_atoms(self._whole(target), data)
        data = with_label(data, target)
        names = self._names(target)
        lines = [f"{self.title}: {plausible.described(data, target, names)}", *lone]
        if atoms:
            values = ", ".join(f"{SYMBOLS[z]} {atoms[z]:.3f}" for z in sorted(atoms))
            lines.append(f"the reference starts from isolated atoms, eV: {values}")
        doubts = plausible.doubts(data, target, atoms, self.energy_unit)
        lines += [*data.notes, *(f"warning: {doubt}" for doubt in doubts)]
        lines += self._small_parts(target)
        for part, path in self._given.items():
            if path:
                other = self._parts(target)[part]
                lines.append(f"{path.name}: {plausible.described(other, target, names)}")
                if data.forces is not None and other.forces is None:
                    lines.append(f"{path.name} has no forces: {part} compares none")
                # That an isolated atom is missing has been said.
                all_known = {*other.structures.atomic_numbers.tolist()} <= atoms.keys()
                of_file = (other, target, atoms if all_known else {}, self.energy_unit)
                lines += [f"warning: {path.name}: {d}" for d in plausible.doubts(*of_file)]
        return lines

    def _small_parts(self, target: str) -> list[str]:
        """A warning for each held-out part that large groups leave small."""
        n = len(self._examples(target))
        return [
            f"warning: {part} has {len(rows):,} of {n:,} structures, since groups are large: set "
            f"config.data.{part}_path, or make groups smaller"
            for part, rows in self._rows(target).items()
            if part != "train" and len(rows) < self.held_out * n / 4
        ]

    def _names(self, target: str) -> tuple[str, str]:
        """The names of the values and of the forces in the file."""
        key = self.energy_key if target == "energy" else self.dipole_key
        return key or target, self.forces_key or "forces"

    @functools.cached_property
    def _examples(self) -> Callable[[str], LabelledStructures]:
        return functools.cache(lambda target: without_atoms(self._whole(target)))

    @functools.cached_property
    def _whole(self) -> Callable[[str], LabelledStructures]:
        return functools.cache(lambda target: self.labelled(self._file, target))

    def labelled(
        self,
        path: str | os.PathLike[str],
        target: str,
        left_out: list[StructureError] | None = None,
    ) -> LabelledStructures:
        """A file, read like `path`, in eV, eV/Å and e Å.

        Arguments and errors are those of `read_labelled`.
        """
        length = LENGTHS[self.length_unit]
        if target == "energy":
            keys = (self.energy_key, self.forces_key, self.stress_key)
            unit, names = ENERGIES[self.energy_unit], keys
        else:
            unit, names = length, (self.dipole_key, None, None)
        found = read_labelled(path, target, *names, left_out)
        structures = dataclasses.replace(
            found.structures,
            positions=found.structures.positions * length,
            cells=found.structures.cells * length,
        )
        return dataclasses.replace(
            found,
            structures=structures,
            labels={target: found.labels[target] * unit},
            forces=None if found.forces is None else found.forces * (unit / length),
            virials=None if found.virials is None else found.virials * unit,
        )

    @property
    def _given(self) -> dict[str, pathlib.Path | None]:
        """The files of validation and test; None where the part is held out of `path`."""
        given = {"validation": self.validation_path, "test": self.test_path}
        for part, path in given.items():
            if path and not pathlib.Path(path).is_file():
                raise StructureError(
                    f"there is no file {path}: set config.data.{part}_path, or put it there"
                )
        return {part: pathlib.Path(path) if path else None for part, path in given.items()}

    @property
    def _file(self) -> pathlib.Path:
        if self.path:
            file, how = pathlib.Path(self.path), "set config.data.path, or put it there"
        else:
            file = cache_folder(self.cache) / "ase" / "molecules" / "molecules.extxyz"
            how = "run python -m experiments.prepare molecules"
        if not file.is_file():
            found = f"{file} is a folder" if file.is_dir() else f"there is no file {file}"
            raise StructureError(f"{found}: {how}")
        return file


def isolated(structures: Structures) -> np.ndarray:
    """[n] bool: one atom, with no image of itself within `ALONE`."""
    found: np.ndarray = structures.n_atoms == 1
    rows = np.flatnonzero(found)
    found[rows] = neighbors_of(structures.take(rows), ALONE, None).n_edges == 0
    return found


def without_atoms(data: LabelledStructures) -> LabelledStructures:
    """The structures without isolated atoms."""
    lone, groups = isolated(data.structures), data.groups
    if not lone.any():
        return data
    if groups is not None:
        # Numbers of groups have no gaps.
        groups = np.unique(groups[~lone], return_inverse=True)[1]
    return dataclasses.replace(data.take(np.flatnonzero(~lone)), groups=groups)


def lines_on_atoms(whole: LabelledStructures, examples: LabelledStructures) -> list[str]:
    """A line on the isolated atoms that `without_atoms` left out, if there were any."""
    lone = len(whole) - len(examples)
    return [f"isolated atoms, which are no examples: {lone:,}"] if lone else []


def with_label(data: LabelledStructures, target: str) -> LabelledStructures:
    """The structures whose label of this target is known."""
    return data.take(labelled_rows(data.labels[target]))


def atom_table(text: str) -> dict[int, float]:
    """Energies by atomic number, from text such as "H=-13.6,C=-1029.8".

    Raises:
      InputError: naming a word that is not an element with a number.
    """
    table: dict[int, float] = {}
    for word in filter(None, re.split(r"[,\s]+", text)):
        symbol, _, number = word.partition("=")
        try:
            energy = float(number)
        except ValueError:
            energy = math.nan
        z = ATOMIC_NUMBERS.get(symbol)
        if z is None or z in table or not math.isfinite(energy):
            raise InputError(
                "data.atom_energies must name each element once with its energy, such as "
                f"H=-13.6,C=-1029.8, not {word!r}"
            )
        table[z] = energy
    return table
