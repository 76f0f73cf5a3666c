"""Predicts the property that a run was trained on.

    python -m experiments.predict --workdir=runs/quick water.xyz qm9:1-100 --output=out.csv

Inputs: files that ASE reads (xyz, extxyz, cif, db, traj, ...; all their structures), OC20's .lmdb
files, and QM9 indices, as qm9:1 or qm9:1-100. The output is .csv, .json or .extxyz and has one row
for each structure, in the order of the inputs. One that cannot be used is a row with the reason;
the others are predicted, and the exit code is 1. (An .extxyz has no row for what cannot be read.)
--forces adds forces (eV/Å) to .json and .extxyz.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import program
from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import read_structures
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, StructureError, Structures
from hdgnn_jax.predict import Predictor
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training.metrics import write_atomically

OUTPUT = flags.DEFINE_string("output", None, "FILE.csv, FILE.json or FILE.extxyz")
FORCES = flags.DEFINE_bool("forces", False, "also forces, where the property is an energy")
FORMATS = (".csv", ".json", ".extxyz")


@dataclasses.dataclass
class Row:
    """What is said of one structure: a value, or the reason why there is none."""

    name: str
    structure: Structure | None = None
    reason: str | None = None
    value: float | None = None
    forces: np.ndarray | None = None


def main(*inputs: str) -> None:
    """The program."""
    if not inputs:
        raise ValueError("name one or more inputs: files, or qm9:INDEX")
    output = pathlib.Path(str(OUTPUT.value))
    if output.suffix not in FORMATS or not output.absolute().parent.is_dir():
        raise ValueError(
            f"--output={output} must end in {', '.join(FORMATS)} and lie in an existing folder"
        )
    bad = run(program.workdir(), inputs, output, FORCES.value)
    if bad:
        sys.exit(1)


def run(workdir: pathlib.Path, inputs: Sequence[str], output: pathlib.Path, forces: bool) -> int:
    """Predicts and writes; the number of structures that could not be used.

    Raises:
      ValueError: for an input that is none, or forces of something else than an energy.
      CheckpointError: where the run cannot be read.
    """
    if forces and output.suffix == ".csv":
        raise ValueError("--forces goes with .json and .extxyz")
    predictor = Predictor.load(workdir)
    if forces:
        predictor.energy_unit()
    rows = [row for name in inputs for row in read(name)]
    for row in rows:
        if row.structure is not None:
            row.reason = predictor.reason_against(row.structure)
    good = [row for row in rows if row.reason is None]
    with progress_bar("structures") as progress:
        task = progress.add_task("predicting", total=len(good) * (1 + forces))
        if good:
            packed = Structures.pack(row.structure for row in good if row.structure)
            values = predictor(packed, lambda n: progress.advance(task, n))
            for row, value in zip(good, values.tolist(), strict=True):
                row.value = value
        for row in good if forces else []:
            assert row.structure is not None
            row.forces = np.asarray(predictor.derivatives(row.structure).forces)
            progress.advance(task)
    write = {".csv": as_csv, ".json": as_json, ".extxyz": as_extxyz}[output.suffix]
    write_atomically(output, write(rows, predictor.target, predictor.unit).encode())
    bad = len(rows) - len(good)
    print(f"{output}: {len(good):,} predictions of {predictor.target} [{predictor.unit}]"
          + (f", {bad:,} without, each with its reason" if bad else ""))  # fmt: skip
    return bad


def read(name: str) -> Iterator[Row]:
    """The structures of an input, or reasons.

    Raises:
      ValueError: where it is neither a file nor of QM9.
    """
    if name.startswith("qm9:"):
        yield from _of_qm9(name.removeprefix("qm9:"))
        return
    path = pathlib.Path(name)
    if not path.exists():
        raise ValueError(f"there is no file {name}")
    if path.suffix == ".lmdb":
        with Lmdb(path) as content:
            for r in content.records():
                if isinstance(r, BadRecord):
                    key, reason = r.problem["key"], str(r.problem["reason"])
                    yield Row(f"{path.name}, record {key}", reason=reason)
                else:
                    named = f"{path.name}, system {r.sid}"
                    yield Row(named, Structure(r.atomic_numbers, r.positions, named, r.cell,
                                               tags=r.tags, fixed=r.fixed))  # fmt: skip
        return
    for number, found in enumerate(read_structures(path), start=1):
        if isinstance(found, StructureError):
            yield Row(f"{path.name}, structure {number}", reason=str(found).partition(": ")[2])
        else:
            yield Row(found.name, found)


def _of_qm9(text: str) -> Iterator[Row]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise ValueError(f"qm9:{text} must be qm9:INDEX or qm9:FIRST-LAST")
    molecules = qm9.load().structures
    for index in range(int(first), int(last or first) + 1):
        at = int(np.searchsorted(molecules.ids, index))
        there = at < len(molecules) and molecules.ids[at] == index
        if there:
            yield Row(f"qm9:{index}", molecules[at])
        else:
            yield Row(f"qm9:{index}", reason="it is none, or one of the 3,054 that QM9 leaves out")


def as_csv(rows: Sequence[Row], target: str, unit: str) -> str:
    """A table; Python writes the digits that read back to the same bits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["structure", f"{target} [{unit}]", "reason"])
    writer.writerows([row.name, row.value, row.reason] for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[Row], target: str, unit: str) -> str:
    """A list of objects."""

    def content(row: Row) -> dict[str, Any]:
        found = {"structure": row.name, f"{target} [{unit}]": row.value, "reason": row.reason}
        return found if row.forces is None else {**found, "forces [eV/Å]": row.forces.tolist()}

    return json.dumps([content(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def as_extxyz(rows: Sequence[Row], target: str, unit: str) -> str:
    """The structures with their values or reasons; what could not be read has none to write."""
    lines = []
    for row in rows:
        s = row.structure
        if s is None:
            continue
        if row.reason is None:
            said = f"{target}={row.value!r} unit={json.dumps(unit)}"
        else:
            said = f"reason={json.dumps(row.reason, ensure_ascii=False)}"
        if s.cell is not None:
            pbc = " ".join("FT"[p] for p in s.periodic)
            lattice = " ".join(map(repr, s.cell.ravel().tolist()))
            said = f'Lattice="{lattice}" pbc="{pbc}" {said}'
        columns = "species:S:1:pos:R:3" + ("" if row.forces is None else ":forces:R:3")
        lines += [str(len(s.atomic_numbers)), f"Properties={columns} {said}"]
        numbers = s.positions if row.forces is None else np.hstack([s.positions, row.forces])
        for z, values in zip(s.atomic_numbers.tolist(), numbers.tolist(), strict=True):
            lines.append(" ".join([SYMBOLS[z], *map(repr, values)]))
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR, OUTPUT], words=True)
