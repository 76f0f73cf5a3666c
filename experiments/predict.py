"""Predicts what one or more runs were trained on, for structures in files or by name.

    python -m experiments.predict --workdir=runs/quick smiles:CCO qm9:1-100 --output=out.csv

Inputs, any number and mixed:
  FILE          all structures of a file that ASE reads: xyz, extxyz, cif, db, traj, ...
  FILE.lmdb     OC20's records.
  FILE.smi      a SMILES on each line; what follows it on the line is its name.
  smiles:CCO    a SMILES. Positions are made by RDKit and said so in the output. With
                --conformers=10 the one of lowest MMFF94 energy is predicted, and how much the
                prediction differs over the others is a column more.
  qm9:1-100     QM9's molecules by index, from the package qm9pack.

The output is .csv, .json or .extxyz, with one row for each structure in the order of the inputs and
a unit with each quantity. What cannot be used is a row with the reason (an .extxyz has none for
what cannot be read); the others are predicted, and the exit code is 1. A warning says where a
structure is unlike all that the model was trained on.

  Several models: --workdir=runs/U0,runs/gap predicts both properties. Runs of the same property
  are an ensemble: mean and spread (standard deviation).
  A cheap measure of how sure it is: --rolls=8 gives mean and spread over the arbitrary roll of the
  edges' frames.
  --forces adds forces (eV/Å) to .json and .extxyz, where one run predicts an energy. --relax moves
  the atoms that are not fixed to a minimum of that energy first, all structures at once.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import program
from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import read_structures
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, StructureError, Structures
from hdgnn_jax.predict import Predictor, PredictorError, predict_all
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.relaxation import relax
from hdgnn_jax.training.metrics import write_atomically
from hdgnn_jax.training.report import component_names

FORCES = flags.DEFINE_bool("forces", False, "add forces, eV/Å")
ROLLS = flags.DEFINE_integer("rolls", 1, "N, rolls of the frames to take mean and spread over")
CONFORMERS = flags.DEFINE_integer("conformers", 1, "N, of a SMILES, to choose the lowest from")
RELAX = flags.DEFINE_bool("relax", False, "relax first, with the run that predicts an energy")
FMAX = flags.DEFINE_float("fmax", 0.05, "F, eV/Å, largest force on an atom of a relaxed structure")
STEPS_OF_RELAX = flags.DEFINE_integer("relax_steps", 200, "N, at most")
LAST_OF_QM9 = 133_885
"""Index of its last molecule."""
FORMATS = (".csv", ".json", ".extxyz")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for beside the predictions; see the flags."""

    forces: bool = False
    rolls: int = 1
    conformers: int = 1
    relax: bool = False
    fmax: float = 0.05
    relax_steps: int = 200

    def __post_init__(self) -> None:
        for name in ("rolls", "conformers", "fmax", "relax_steps"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name} must be positive, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Something of a structure: a number, vector or tensor with its name and unit."""

    name: str
    unit: str
    value: np.ndarray

    def cells(self) -> dict[str, float]:
        """Columns of a table, one for each component."""
        names = component_names(np.shape(self.value))
        values = np.ravel(self.value).tolist()
        return {
            f"{self.name}{n} [{self.unit}]": v for n, v in zip(names, values, strict=True)
        }


@dataclasses.dataclass
class Row:
    """What is said of one input: quantities, or the reason why there are none.

    Attributes:
      name: of the input.
      structures: one, or conformers, of which the first is predicted.
      geometry: where the positions are from, if not from the input.
      reason: why there is no prediction.
      warning: what makes it doubtful.
      quantities: predicted.
      forces: [n, 3] eV/Å.
    """

    name: str
    structures: list[Structure] = dataclasses.field(default_factory=list)
    geometry: str = ""
    reason: str | None = None
    warning: str = ""
    quantities: list[Quantity] = dataclasses.field(default_factory=list)
    forces: np.ndarray | None = None


def main(*inputs: str) -> None:
    """The program."""
    if not inputs:
        raise InputError("name one or more inputs: files, smiles:SMILES, or qm9:INDEX")
    output = pathlib.Path(str(program.OUTPUT.value))
    if output.suffix not in FORMATS or not output.absolute().parent.is_dir():
        raise InputError(
            f"--output={output} must end in {', '.join(FORMATS)} and lie in an existing folder"
        )
    workdirs = [pathlib.Path(name) for name in str(program.WORKDIR.value).split(",")]
    options = Options(
        FORCES.value, ROLLS.value, CONFORMERS.value, RELAX.value, FMAX.value, STEPS_OF_RELAX.value
    )
    if run(workdirs, inputs, output, options):
        sys.exit(1)


def run(
    workdirs: Sequence[pathlib.Path],
    inputs: Sequence[str],
    output: pathlib.Path,
    options: Options = Options(),
) -> int:
    """Predicts and writes; the number of structures that could not be used.

    Raises:
      ValueError: for an input that is none, or forces where no run, or several, predict an energy.
      CheckpointError: where a run cannot be read.
    """
    if options.forces and output.suffix == ".csv":
        raise InputError("--forces goes with .json and .extxyz")
    # So that forces are of the same mean over rolls as the energies.
    frames = options.rolls if options.rolls > 1 else None
    predictors = [Predictor.load(workdir, frames) for workdir in workdirs]
    of_energy = [predictor for predictor in predictors if predictor.has_forces]
    if (options.forces or options.relax) and len(of_energy) != 1:
        raise PredictorError(
            f"--forces and --relax need one run that predicts an energy; {len(of_energy)} of these "
            "do"
        )
    rows = [row for name in inputs for row in read(name, options.conformers)]
    for row in rows:
        for workdir, predictor in zip(workdirs, predictors, strict=True):
            reasons = filter(None, map(predictor.reason_against, row.structures))
            if row.reason is None and (reason := next(reasons, None)):
                row.reason = reason if len(workdirs) == 1 else f"{reason} ({workdir})"
    if not rows:
        raise InputError(f"there is no structure in {', '.join(inputs)}")
    good = [row for row in rows if row.reason is None]
    with progress_bar("structures") as progress:
        n = sum(len(row.structures) for row in good)
        task = progress.add_task(
            "predicting", total=n * (len(predictors) + options.relax) + len(good) * options.forces
        )
        if good:
            fill(good, predictors, of_energy, options, lambda n: progress.advance(task, n))
    good = [row for row in good if row.reason is None]
    write = {".csv": as_csv, ".json": as_json, ".extxyz": as_extxyz}[output.suffix]
    write_atomically(output, write(rows).encode())
    bad, doubtful = len(rows) - len(good), sum(bool(row.warning) for row in good)
    targets = dict.fromkeys(f"{p.target} [{p.unit}]" for p in predictors)
    print(
        f"{output}: {len(good):,} predictions of {', '.join(targets)}"
        + (f", {doubtful:,} of them with a warning" if doubtful else "")
        + (f"; {bad:,} without, each with its reason" if bad else "")
    )
    return bad


def fill(
    rows: Sequence[Row],
    predictors: Sequence[Predictor],
    of_energy: Sequence[Predictor],
    options: Options,
    advance: Callable[[int], object],
) -> None:
    """Puts predictions, warnings and forces into rows that can be predicted."""
    if options.relax:
        relax_rows(rows, of_energy[0], options, advance)
        rows = [row for row in rows if row.reason is None]
        if not rows:
            return
    counts = [len(row.structures) for row in rows]
    first = np.cumsum(counts) - counts
    packed = Structures.pack(s for row in rows for s in row.structures)
    warnings = [p.warnings(packed.take(first)) for p in predictors]
    for row, texts in zip(rows, zip(*warnings, strict=True), strict=True):
        row.warning = "; ".join(dict.fromkeys(filter(None, texts)))
    for target, found in predict_all(predictors, packed, options.rolls, advance).items():
        for row, k, count in zip(rows, first, counts, strict=True):
            row.quantities.append(Quantity(target, found.unit, found.value[k]))
            if found.spread is not None:
                name = f"{target} spread over {found.of}"
                row.quantities.append(Quantity(name, found.unit, found.spread[k]))
            if count > 1:
                spread = found.value[k : k + count].std(0)
                name = f"{target} spread over conformers"
                row.quantities.append(Quantity(name, found.unit, spread))
    if options.forces:
        chosen = packed.take(first)
        forces = np.asarray(of_energy[0].derivatives(chosen, advance).forces)
        for row, of_row in zip(rows, np.split(forces, chosen.offsets[1:-1]), strict=True):
            row.forces = of_row


def relax_rows(
    rows: Sequence[Row],
    predictor: Predictor,
    options: Options,
    advance: Callable[[int], object],
) -> None:
    """Puts relaxed structures into rows, or reasons where one could not be followed."""
    packed = Structures.pack(s for row in rows for s in row.structures)
    relaxed = relax(predictor, packed, options.fmax, options.relax_steps, advance)
    start = 0
    for row in rows:
        places = range(start, start + len(row.structures))
        start += len(row.structures)
        reasons = [relaxed.reasons[k] for k in places if relaxed.reasons[k]]
        if reasons:
            row.reason = f"on the way to a minimum it {reasons[0]}"
            continue
        row.structures = [dataclasses.replace(relaxed.structures[k], name=row.name) for k in places]
        how = "relaxed" if relaxed.converged[places[0]] else "NOT yet relaxed"
        said = f"{how} after {relaxed.steps[places[0]]} steps of FIRE"
        row.geometry = f"{row.geometry}; {said}" if row.geometry else said


def read(name: str, n_conformers: int = 1) -> Iterator[Row]:
    """The structures of an input, or reasons.

    Raises:
      ValueError: where it is no file, no SMILES and not of QM9.
    """
    kind, _, rest = name.partition(":")
    path = pathlib.Path(name)
    if kind == "qm9":
        yield from _of_qm9(rest)
    elif kind == "smiles":
        yield _of_smiles(rest, rest, n_conformers)
    elif not path.is_file():
        raise InputError(f"there is no file {name}")
    elif path.suffix == ".lmdb":
        with Lmdb(path) as content:
            for r in content.records():
                if isinstance(r, BadRecord):
                    key, reason = r.problem["key"], str(r.problem["reason"])
                    yield Row(f"{path.name}, record {key}", reason=reason)
                else:
                    named = f"{path.name}, system {r.sid}"
                    found = Structure(r.atomic_numbers, r.positions, named, r.cell,
                                      tags=r.tags, fixed=r.fixed)  # fmt: skip
                    yield Row(named, [found])
    elif path.suffix == ".smi":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: save it as such") from error
        for line in lines:
            if line.strip():
                smiles, *words = line.split(maxsplit=1)
                yield _of_smiles(smiles, " ".join(words).strip() or smiles, n_conformers)
    else:
        for number, found_or_not in enumerate(read_structures(path), start=1):
            if isinstance(found_or_not, StructureError):
                yield Row(f"{path.name}, structure {number}", reason=found_or_not.reason)
            else:
                yield Row(found_or_not.name, [found_or_not])


def _of_smiles(smiles: str, name: str, n: int) -> Row:
    try:
        structures, how = conformers(smiles, n)
    except StructureError as error:
        return Row(name, reason=str(error))
    return Row(name, structures, how)


def _of_qm9(text: str) -> Iterator[Row]:
    first, _, last = text.partition("-")
    if not all(n.isdecimal() and int(n[:9]) <= LAST_OF_QM9 for n in (first, last or first)):
        raise InputError(
            f"qm9:{text[:40]} must be qm9:INDEX or qm9:FIRST-LAST, of numbers to {LAST_OF_QM9}"
        )
    molecules = qm9.load().structures
    for index in range(int(first), int(last or first) + 1):
        at = int(np.searchsorted(molecules.ids, index))
        there = at < len(molecules) and molecules.ids[at] == index
        if there:
            yield Row(f"qm9:{index}", [molecules[at]])
        else:
            yield Row(f"qm9:{index}", reason="it is none, or one of the 3,054 that QM9 leaves out")


def as_csv(rows: Sequence[Row]) -> str:
    """A table; Python writes the digits that read back to the same bits."""
    cells = [{k: v for q in row.quantities for k, v in q.cells().items()} for row in rows]
    columns = list(dict.fromkeys(name for of_row in cells for name in of_row))
    geometry = ["geometry"] if any(row.geometry for row in rows) else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["structure", *columns, *geometry, "warning", "reason"])
    for row, values in zip(rows, cells, strict=True):
        numbers = [values.get(name) for name in columns]
        said = [row.geometry] if geometry else []
        writer.writerow([row.name, *numbers, *said, row.warning, row.reason])
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects."""

    def content(row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {"structure": row.name}
        found |= {f"{q.name} [{q.unit}]": q.value.tolist() for q in row.quantities}
        if row.forces is not None:
            found["forces [eV/Å]"] = row.forces.tolist()
        if row.geometry:
            found["geometry"] = row.geometry
            found["positions [Å]"] = row.structures[0].positions.tolist()
        return found | {"warning": row.warning or None, "reason": row.reason}

    return json.dumps([content(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def as_extxyz(rows: Sequence[Row]) -> str:
    """The structures with what is said of them; what could not be read has nothing to write."""
    lines = []
    for row in rows:
        if not row.structures:
            continue
        s = row.structures[0]
        said: dict[str, str] = {}
        for q in row.quantities:
            # ASE has its own units for what is called energy or dipole.
            key = f"predicted_{q.name}".replace(" ", "_")
            said[key] = " ".join(map(repr, np.ravel(q.value).tolist()))
            said[f"{key}_unit"] = q.unit
        words = {"name": row.name, "geometry": row.geometry, "warning": row.warning}
        said |= {k: v for k, v in {**words, "reason": row.reason}.items() if v}
        if s.cell is not None:
            said["Lattice"] = " ".join(map(repr, s.cell.ravel().tolist()))
            said["pbc"] = " ".join("FT"[p] for p in s.periodic)
        columns = "species:S:1:pos:R:3" + ("" if row.forces is None else ":forces:R:3")
        marks = []
        if s.tags is not None and s.tags.any():
            columns += ":tags:I:1"
            marks.append(s.tags.astype(str))
        if s.fixed is not None and s.fixed.any():
            columns += ":move_mask:L:1"
            marks.append(np.where(s.fixed, "F", "T"))
        info = [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in said.items()]
        lines += [str(len(s.atomic_numbers)), " ".join([f"Properties={columns}", *info])]
        numbers = s.positions if row.forces is None else np.hstack([s.positions, row.forces])
        for k, (z, values) in enumerate(
            zip(s.atomic_numbers.tolist(), numbers.tolist(), strict=True)
        ):
            lines.append(" ".join([SYMBOLS[z], *map(repr, values), *(m[k] for m in marks)]))
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR, program.OUTPUT], words=True)
