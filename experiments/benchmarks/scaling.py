"""Measures the cost of a training step against each size of the problem."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks import timing, workloads
from experiments.benchmarks.report import Report
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.plots import empty_figure
from hdgnn_jax.types import PyTree

MEASURES = ("seconds", "flops", "bytes")


class Axis(NamedTuple):
    """One size that varies.

    Attributes:
      label: text with the variable that exponents refer to.
      values: values of that variable.
      theory: expected exponents, of the arithmetic unless said otherwise.
    """

    label: str
    values: tuple[int, ...]
    theory: str


AXES = {
    "degree": Axis("L + 1", (3, 4, 5, 6, 7, 8, 9), "edge networks 1, rotations 3, sphere 4"),
    "channels": Axis("C, with H = 2 C", (8, 16, 32, 64), "2; bytes 1"),
    "layers": Axis("K", (1, 2, 4, 8), "1"),
    "atoms": Axis("atoms per molecule", (6, 12, 24, 48), "2 within the cutoff, 1 beyond"),
    "batch": Axis("molecules per batch", (4, 8, 16, 32, 64), "1"),
}
BASE = {"degree": 5, "channels": 16, "layers": 1, "atoms": 16, "batch": 16}


def run(report: Report) -> dict[str, float]:
    """Times training steps of a small model on random molecules; one size varies at a time."""
    results: dict[str, float] = {}
    curves: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for name, axis in AXES.items():
        values = axis.values[:2] if report.quick else axis.values
        curves[name] = costs = _costs(name, values, report.quick)
        exponents = {
            measure: float(np.polyfit(np.log(values), np.log(costs[measure]), 1)[0])
            for measure in MEASURES
        }
        results |= {f"scaling_{name}_{m}_exponent": value for m, value in exponents.items()}
        span = f"{values[0]} .. {values[-1]}"
        rows.append([axis.label, span, *exponents.values(), axis.theory])
    report.table(
        "Exponents of a training step's cost, fitted over the whole range",
        ["size", "range", *MEASURES, "theory"],
        rows,
        f"The others stay at {', '.join(f'{AXES[k].label} = {v}' for k, v in BASE.items())}.",
    )
    if report.plot:
        _plot(report.plot, curves)
    return results


def _costs(name: str, values: tuple[int, ...], quick: bool) -> dict[str, np.ndarray]:
    steppers: dict[str, workloads.Stepper] = {}
    counts: list[tuple[float, ...]] = []
    for value in values:
        problem, batch = _problem(**{**BASE, name: value}, quick=quick)
        compiled = workloads.compile_step(problem, batch)
        steppers[str(value)] = workloads.Stepper(problem, compiled.call, batch)
        # XLA counts one layer correctly, because it is not a loop.
        cost: Any = compiled.call.cost_analysis()
        counts.append((cost["flops"], cost["bytes accessed"]))
    if name == "layers":
        outside, layer = workloads.count_step(problem, batch)
        counts = [tuple(o + k * l for o, l in zip(outside, layer, strict=True)) for k in values]
    times = timing.interleave(steppers, 2 if quick else 7)
    flops, moved = np.array(counts).T
    seconds = np.array([np.median(times[str(value)]) for value in values])
    return {"values": np.array(values), "seconds": seconds, "flops": flops, "bytes": moved}


def _problem(
    *, degree: int, channels: int, layers: int, atoms: int, batch: int, quick: bool
) -> tuple[Task, PyTree]:
    """The task and the batch of these sizes; `degree` is L + 1, as in `AXES`."""
    shape = {"degree": degree - 1, "channels": channels, "hidden": 2 * channels, "layers": layers}
    invariant = {"edge_channels": channels, "invariant_channels": 2 * channels}
    config = workloads.config_of("full", **{**workloads.MODELS["quick"], **shape, **invariant})
    molecules = workloads.random_molecules(config, [atoms] * (2 if quick else batch))
    graph = workloads.one_batch(molecules, np.arange(len(molecules.structures)))
    return workloads.task_of(config, molecules), graph


def _plot(path: pathlib.Path, curves: dict[str, dict[str, np.ndarray]]) -> None:
    figure = empty_figure(15, 3.4)
    for axes, (name, costs) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        for measure in MEASURES:
            axes.plot(costs["values"], costs[measure] / costs[measure][0], "o-", label=measure)
        axes.set(xscale="log", yscale="log", xlabel=AXES[name].label)
        axes.set_xticks(costs["values"], map(str, costs["values"]))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("training step, relative")
    figure.axes[0].legend()
    figure.savefig(path)
