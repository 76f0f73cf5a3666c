"""The curves of a run: scalars against the step, as JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Self

import tensorboardX

from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.types import Fields, Json

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends scalars to `metrics.jsonl`, one object a line, and to TensorBoard event files.

    A context manager; leaving it closes the files.
    """

    def __init__(self, folder: str | pathlib.Path, resume_step: int | None = None):
        """Opens the files, creating the folder if it is missing.

        Args:
          folder: the folder of the files.
          resume_step: the step from which a resumed run goes on. Rows of later steps are removed,
            because the run takes these steps again. None removes all rows.
        """
        path = pathlib.Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        last = -1 if resume_step is None else resume_step
        rows = read_metrics(folder) if path.exists() and resume_step is not None else []
        write_atomically(path, "".join(_line(row) for row in rows if row["step"] <= last).encode())
        self._file = path.open("a", encoding="utf-8")
        # TensorBoard hides, in the older event files, the steps from purge_step on.
        self._events = tensorboardX.SummaryWriter(str(folder), purge_step=last + 1)

    def write(self, step: int, scalars: Fields) -> None:
        """Writes the scalars of one step; they are on disk when this returns.

        Args:
          step: training steps done.
          scalars: names to numbers or 0-dimensional arrays.
        """
        values = {name: float(value) for name, value in scalars.items()}
        self._file.write(_line({"step": step, **values}))
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(folder: str | pathlib.Path) -> list[Json]:
    """The rows of a run's `metrics.jsonl`: `step` and the scalars, NaN where not finite.

    An unfinished last line, which a killed run may leave, is ignored.

    Raises:
      FileNotFoundError: if the folder has no such file.
      InputError: naming a line that is not a row.
    """
    path = pathlib.Path(folder) / FILE
    rows = []
    # Only "\n" ends a line; other separators are damage, and rows may follow them.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line.decode())
            if type(row["step"]) is not int:
                raise InputError("no step")
            rows.append({k: v if k == "step" else _number(v) for k, v in row.items()})
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
            text = line[:200].decode(errors="replace")
            raise InputError(f"{path}, line {number} is not a row of metrics: {text!r}") from error
    return rows


def _line(row: Fields) -> str:
    """One line of JSON; NaN and infinity, which JSON lacks, become null."""
    finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{value!r} is no number")
    number = float(value)
    return number if math.isfinite(number) else math.nan
