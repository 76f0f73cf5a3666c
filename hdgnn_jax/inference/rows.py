"""Predictions as rows: one for each input, written as CSV, JSON or extended XYZ."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import SYMBOLS, Structure
from hdgnn_jax.training.report import component_names


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
      energy: eV, where one that atoms move in is predicted.
      forces: [n, 3] eV/Å.
    """

    name: str
    structures: list[Structure] = dataclasses.field(default_factory=list)
    geometry: str = ""
    reason: str | None = None
    warning: str = ""
    quantities: list[Quantity] = dataclasses.field(default_factory=list)
    energy: float | None = None
    forces: np.ndarray | None = None


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
        if row.energy is not None:
            found["energy [eV]"] = row.energy
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
        # What ASE gives as `get_potential_energy()`, beside forces.
        energy = [] if row.energy is None else [f"energy={row.energy!r}"]
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
        info = energy + [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in said.items()]
        lines += [str(len(s.atomic_numbers)), " ".join([f"Properties={columns}", *info])]
        numbers = s.positions if row.forces is None else np.hstack([s.positions, row.forces])
        for k, (z, values) in enumerate(
            zip(s.atomic_numbers.tolist(), numbers.tolist(), strict=True)
        ):
            lines.append(" ".join([SYMBOLS[z], *map(repr, values), *(m[k] for m in marks)]))
    return "\n".join([*lines, ""])


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".extxyz": as_extxyz,
}
"""By the ending of a file."""
