"""Trains repeatedly in one process, and records memory, compilations and step time.

    python -m experiments.soak --config=experiments/configs/qm9.py:quick --workdir=runs/soak --plot=soak.png

Each run is a run of `experiments.train`, in a folder that is removed when it is finished. Freed
memory is then returned to the system, so the memory before a run is what the process still holds.
Compare the last run with the second: the first loads and compiles what all share.
"""  # noqa: E501, one command

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import time

from absl import flags

from experiments import program

MINUTES = flags.DEFINE_float(
    "minutes", 60, "M, after which the current run is stopped", lower_bound=1
)

PROGRAM = program.Program(
    str(__doc__), [program.CONFIG, program.WORKDIR], [program.JSON, program.PLOT]
)
if __name__ == "__main__":
    PROGRAM.begin()

import jax
import numpy as np

from experiments import train
from hdgnn_jax import cpu
from hdgnn_jax.config import from_section
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_json
from hdgnn_jax.run.settings import Training
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.plots import BLUE, GREY, empty_figure
from hdgnn_jax.training.tables import print_table
from hdgnn_jax.types import Json

EVERY = 20
"""Number of steps between two samples."""
COMPILATION = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Watch:
    """Takes samples during training.

    Attributes:
      until: `time.monotonic()` at the end.
      run: number of the current run, from 0.
      compilations: number of compilations in this process.
      samples: run, step (0: before the run), seconds since the start, CPU seconds, resident MiB,
        compilations.
    """

    until: float
    run: int = 0
    compilations: int = 0
    samples: list[tuple[int, int, float, float, float, int]] = dataclasses.field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        jax.monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event: str, duration_secs: float, **_: object) -> None:
        """Counts the compilations of XLA; JAX calls it for each event."""
        self.compilations += event == COMPILATION

    def after(self, step: int) -> bool:
        """Takes a sample if it is due; returns whether the time is over. Called after each step."""
        if step % EVERY == 0:
            self.sample(step)
        return time.monotonic() > self.until

    def sample(self, step: int) -> None:
        """Takes a sample."""
        self.samples.append(
            (self.run, step, time.monotonic() - self.began, time.process_time(),
             cpu.resident() / 2**20, self.compilations)
        )  # fmt: skip


def main() -> None:
    """The program."""
    config, workdir = program.read_config(), program.workdir()
    found = soak(config, workdir, MINUTES.value)
    show(found)
    if program.JSON.value:
        write_json(program.JSON.value, found)
    if program.PLOT.value:
        draw(pathlib.Path(program.PLOT.value), found)


def soak(config: Json, workdir: pathlib.Path, minutes: float) -> Json:
    """Runs until the time is over; returns the columns of the samples.

    Args:
      config: config of each run.
      workdir: folder for the runs' folders; those of an earlier soak are replaced.
      minutes: total time.

    Raises:
      InputError: at once, where runs are too short for two samples; at the end, where no run
        reached a step with a sample.
    """
    if from_section(config, "training", Training).steps < 2 * EVERY:
        raise InputError(f"a soak needs training.steps of {2 * EVERY} or more, to time a step")
    watch = Watch(time.monotonic() + 60 * minutes)
    while time.monotonic() < watch.until:
        folder = workdir / f"soak_{watch.run}"
        shutil.rmtree(folder, ignore_errors=True)
        watch.sample(0)
        with contextlib.suppress(StoppedError):
            train.run(config, folder, watch.after)
        shutil.rmtree(folder, ignore_errors=True)
        cpu.release()
        watch.run += 1
    names = ("run", "step", "seconds", "cpu_seconds", "resident_mib", "compilations")
    if not any(step for _, step, *_ in watch.samples):
        raise InputError(f"no run came to step {EVERY}: give it more --minutes")
    columns = zip(*watch.samples, strict=True)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def of_runs(found: Json) -> list[dict[str, float]]:
    """A row for each run: steps, memory before and at most, ms of a step, new compilations."""
    columns = {name: np.array(values) for name, values in found.items()}
    rows, before = [], 0
    for run in np.unique(columns["run"]):
        here = {name: values[columns["run"] == run] for name, values in columns.items()}
        # The median leaves out intervals with a validation.
        wall, cpu = (
            1e3 * np.median(np.diff(here[name][1:]) if len(here[name]) > 2 else np.nan) / EVERY
            for name in ("seconds", "cpu_seconds")
        )
        rows.append({
            "run": int(run) + 1,
            "steps": int(here["step"][-1]),
            "before_mib": float(here["resident_mib"][0]),
            "most_mib": float(here["resident_mib"].max()),
            "step_ms": float(wall),
            "step_cpu_ms": float(cpu),
            "compilations": int(here["compilations"][-1]) - before,
        })  # fmt: skip
        before = int(here["compilations"][-1])
    return rows


def show(found: Json) -> None:
    """Prints a row for each run."""
    header = ("run", "steps", "MiB before", "MiB at most", "step, ms", "CPU, ms", "compiled")
    rows = [
        (
            f"{row['run']}", f"{row['steps']:,}", f"{row['before_mib']:.0f}",
            f"{row['most_mib']:.0f}", f"{row['step_ms']:.1f}", f"{row['step_cpu_ms']:.1f}",
            f"{row['compilations']}",
        )
        for row in of_runs(found)
    ]  # fmt: skip
    print_table(f"Soak, {found['seconds'][-1] / 60:.0f} minutes", header, rows, left=())


def draw(path: pathlib.Path, found: Json) -> None:
    """Plots memory, step time and compilations against time; a line marks the start of a run."""
    columns = {name: np.array(values) for name, values in found.items()}
    minutes = columns["seconds"] / 60
    figure = empty_figure(7, 6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(minutes, columns["resident_mib"], color=BLUE)
    top.set_ylabel("memory, MiB")
    # Intervals between two samples of the same run.
    within = np.flatnonzero((np.diff(columns["run"]) == 0) & (columns["step"][:-1] > 0))
    for name, color, label in (
        ("cpu_seconds", GREY, "CPU, all cores"), ("seconds", BLUE, "wall clock")
    ):  # fmt: skip
        step = 1e3 * np.diff(columns[name])[within] / EVERY
        middle.plot(minutes[within], step, ".", markersize=2, color=color, label=label)
        if len(within):
            middle.axhline(float(np.median(step)), color=color, linewidth=0.8)
    middle.set_ylabel("step, ms")
    if len(within):
        # Points above the limit had a validation in between.
        limit = 3e3 * np.median(np.diff(columns["cpu_seconds"])[within]) / EVERY
        middle.set_ylim(0, limit)
    middle.legend(loc="upper right", frameon=False)
    bottom.plot(minutes, columns["compilations"], color=BLUE)
    bottom.set_ylabel("compilations")
    bottom.set_xlabel("minutes")
    for axes in (top, middle, bottom):
        axes.set_ylim(bottom=0)
        for start in minutes[1:][np.diff(columns["run"]) > 0]:
            axes.axvline(start, color=GREY, linewidth=0.5, linestyle=":")
    figure.savefig(path)


if __name__ == "__main__":
    PROGRAM.run(main)
