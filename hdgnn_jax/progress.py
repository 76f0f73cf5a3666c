"""The progress bar of long-running work."""

from __future__ import annotations

from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

EVERY = 60.0
"""Seconds between two lines where no terminal draws the bar anew, as in the log of a batch job."""


class _Rate(ProgressColumn):
    def __init__(self, unit: str, column: Column):
        super().__init__(column)
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = None if speed is None else speed * task.fields.get("per", 1)
        shown = "" if rate is None else f"{rate:.{0 if rate >= 10 else 2}f}"
        return Text(f"{shown} {self._unit}/s")


class _Bar(Progress):
    _printed = 0.0

    def start(self) -> None:
        self._printed = self.get_time()
        super().start()

    def advance(self, *args: Any, **kwargs: Any) -> None:
        super().advance(*args, **kwargs)
        self._log()

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*args, **kwargs)
        self._log()

    def _log(self) -> None:
        now = self.get_time()
        drawn = self.disable or self.console.is_interactive
        # The last line is printed at the end.
        if not (drawn or self.finished) and now >= self._printed + EVERY:
            self._printed = now
            self.console.print(self.get_renderable())


def progress_bar(unit: str) -> Progress:
    """A bar with count, rate and time left, on the standard error stream; it fits 80 columns.

    Where no terminal draws it anew, it is printed at most once a minute, as work is done, and at
    the end.

    The rate is in `unit`s per second. A task's field `per` multiplies it, e.g. molecules per step.
    """
    whole = Column(no_wrap=True)  # only the bar shrinks
    return _Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(table_column=whole),
        _Rate(unit, whole),
        TextColumn("left"),
        TimeRemainingColumn(table_column=whole),
        # As widgets of a notebook, rich's bars end the call where %%capture collects its output.
        console=Console(stderr=True, force_jupyter=False),
        # Of several processes that train together, only the first shows the bar.
        disable=jax.distributed.is_initialized() and jax.process_index() > 0,
    )
