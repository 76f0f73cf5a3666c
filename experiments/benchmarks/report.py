"""Prints the tables of a group, and holds the options that all groups share."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from hdgnn_jax.training.tables import print_table


@dataclasses.dataclass(frozen=True)
class Report:
    """The argument of every group.

    Attributes:
      quick: whether to run at toy size.
      plot: FILE.png for the figure of `scaling`; None: no figure.
    """

    quick: bool = False
    plot: pathlib.Path | None = None

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = ""
    ) -> None:
        """Prints a table; numbers get three or four digits.

        Args:
          title: text above the table.
          columns: names of the columns.
          rows: rows, with one cell per column.
          note: text below the table.
        """
        print_table(title, columns, [list(map(_cell, row)) for row in rows], note=note)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
