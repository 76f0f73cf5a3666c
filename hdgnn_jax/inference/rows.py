"""Predictions as rows: one for each input, written as CSV, JSON or extended XYZ."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hdgnn_jax.data.units import conversion
from hdgnn_jax.graphs.structure import SYMBOLS, Structure
from hdgnn_jax.training.result import component_names
from hdgnn_jax.types import Json


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A property of a structure: a number, vector or tensor with its name and unit.

    Attributes:
      name, unit: its name and its unit.
      value: [], [3] or [3, 3].
      decimals: number of decimals that are written.
    """

    name: str
    unit: str
    value: np.ndarray
    decimals: int = 6

    @property
    def rounded(self) -> np.ndarray:
        """The value as it is written; 0 has no sign."""
        return np.round(self.value, self.decimals) + 0.0

    def cells(self) -> dict[str, str]:
        """Columns of a table, one for each component."""
        names = component_names(np.shape(self.value))
        values = np.ravel(self.rounded).tolist()
        return {
            f"{self.name}{n} [{self.unit}]": f"{v:.{self.decimals}f}"
            for n, v in zip(names, values, strict=True)
        }


def quantity(
    name: str, value: np.ndarray, own: str, unit: str | None, error: float | None
) -> Quantity:
    """A value with as many decimals as show four digits of the model's error: more are noise.

    Args:
      name: name of the quantity.
      value: in the unit `own`.
      own: unit of the model.
      unit: the wanted unit; `own` is taken where it is None or of another kind.
      error: the model's error, in `own`; None: unknown.

    >>> quantity("U0", np.float64(-1234.5678), "meV", "eV", 31.4).cells()
    {'U0 [eV]': '-1.23457'}
    """
    factor = conversion(own, unit) if unit else None
    if factor is None or unit is None:
        unit, factor = own, 1.0
    if not error or not math.isfinite(error):
        return Quantity(name, unit, value * factor)
    decimals = max(0, 3 - math.floor(math.log10(error * factor)))
    return Quantity(name, unit, value * factor, decimals)


@dataclasses.dataclass
class Row:
    """The result for one input: quantities, or the reason why there are none.

    Attributes:
      name: name of the input.
      structures: one, or conformers, of which the first is predicted.
      smiles: of what the structure was made, if of a SMILES.
      geometry: where the positions are from, if not from the input.
      reason: why there is no prediction.
      warning: why the prediction is doubtful.
      quantities: the predictions.
      energy: eV, where a potential energy is predicted.
      forces: [n, 3] eV/Å.
      converged: whether its relaxation has ended at a minimum; True without one.
    """

    name: str
    structures: list[Structure] = dataclasses.field(default_factory=list)
    smiles: str = ""
    geometry: str = ""
    reason: str | None = None
    warning: str = ""
    quantities: list[Quantity] = dataclasses.field(default_factory=list)
    energy: float | None = None
    forces: np.ndarray | None = None
    converged: bool = True

    @property
    def comment(self) -> str:
        """The structure's comment in the input's file."""
        return self.structures[0].comment if self.structures else ""


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """A header and a line of cells for each row, without empty columns of text."""
    cells = [{k: v for q in row.quantities for k, v in q.cells().items()} for row in rows]
    columns = list(dict.fromkeys(name for of_row in cells for name in of_row))
    named = any(row.smiles != row.name for row in rows if row.smiles)
    words = {
        "smiles": [row.smiles if named else "" for row in rows],
        "comment": [row.comment for row in rows],
        "geometry": [row.geometry for row in rows],
    }
    words = {name: column for name, column in words.items() if any(column)}
    lines = [["structure", *columns, *words, "warning", "reason"]]
    for k, (row, values) in enumerate(zip(rows, cells, strict=True)):
        numbers = [values.get(name, "") for name in columns]
        said = [column[k] for column in words.values()]
        lines.append([row.name, *numbers, *said, row.warning, row.reason or ""])
    return lines


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_table(rows))
    return text.getvalue()


def print_rows(rows: Sequence[Row]) -> None:
    """Prints the numbers in a table, and under it the texts of each row.

    A structure has a line, or a column where there are fewer structures than quantities. What is
    wider than the terminal becomes several tables, since a shortened number is none.
    """
    header, *lines = _table(rows)
    # A number's column has its unit in brackets, which are rich's markup too.
    numbers = [k for k, name in enumerate(header) if name.endswith("]")]
    cells = [[line[k] for k in (0, *numbers)] for line in (header, *lines)]
    if len(lines) < len(numbers):
        cells = [list(column) for column in zip(*cells, strict=True)]
    console = Console()
    # Of each column, with a border and two spaces.
    widths = [max(map(cell_len, column)) + 3 for column in zip(*cells, strict=True)]
    for block in _blocks(widths, console.width - 1):
        table = Table()
        for k in block:
            table.add_column(Text(cells[0][k]), justify="right" if k else "left", no_wrap=True)
        for of_line in cells[1:]:
            table.add_row(*(Text(of_line[k]) for k in block))
        console.print(table)
    for line in lines:
        words = "; ".join(line[k] for k in range(1, len(line)) if k not in numbers and line[k])
        if words:
            console.print(Text(f"{line[0]}: {words}"))


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each table: the first one and as many others as there is room for."""
    blocks = [[0]]
    for k, width in enumerate(widths[1:], start=1):
        if len(blocks[-1]) > 1 and sum(widths[j] for j in blocks[-1]) + width > room:
            blocks.append([0])
        blocks[-1].append(k)
    return blocks


def as_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON list of objects."""

    def content(row: Row) -> Json:
        found: Json = {"structure": row.name}
        found |= {f"{q.name} [{q.unit}]": q.rounded.tolist() for q in row.quantities}
        if row.energy is not None:
            found["energy [eV]"] = row.energy
        if row.forces is not None:
            found["forces [eV/Å]"] = row.forces.tolist()
        if row.smiles:
            found["smiles"] = row.smiles
        if row.comment:
            found["comment"] = row.comment
        if row.geometry:
            found["geometry"] = row.geometry
        if row.geometry or row.forces is not None:
            structure = row.structures[0]
            found["symbols"] = [SYMBOLS[z] for z in structure.atomic_numbers]
            found["positions [Å]"] = structure.positions.tolist()
        return found | {"warning": row.warning or None, "reason": row.reason}

    return json.dumps([content(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def as_extxyz(rows: Sequence[Row]) -> str:
    """The structures with their results as extended XYZ; rows without a structure are left out."""
    lines = []
    for row in rows:
        if not row.structures:
            continue
        s = row.structures[0]
        said: dict[str, str] = {}
        for q in row.quantities:
            # ASE has its own units for what is called energy or dipole.
            key = f"predicted_{q.name}".replace(" ", "_")
            said[key] = " ".join(map(repr, np.ravel(q.rounded).tolist()))
            said[f"{key}_unit"] = q.unit
        # ASE returns this as `get_potential_energy()`, beside forces.
        energy = [] if row.energy is None else [f"energy={row.energy!r}"]
        words = {"name": row.name, "smiles": row.smiles, "comment": row.comment,
                 "geometry": row.geometry, "warning": row.warning}  # fmt: skip
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
"""Writers by the ending of a file's name."""
