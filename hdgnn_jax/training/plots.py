"""Plots in one common style."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hdgnn_jax.data.targets import Accuracy
from hdgnn_jax.training.result import SplitResult, format_mae
from hdgnn_jax.types import Fields

BLUE, ORANGE, GREY, RED, GREEN = "#2166ac", "#e08214", "#777777", "#b2182b", "#1b7837"
CROWDED = 3000
"""A parity plot with more points than this shows their density instead of the points."""


def learning_curve(
    history: Sequence[Fields],
    validation: SplitResult,
    paper: Accuracy | None,
    target: str,
    unit: str,
) -> Figure:
    """Training loss above; below it the validation error, with those of baselines and paper."""
    figure = empty_figure(7, 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    for axes, key, colour in ((top, "train_loss", GREY), (bottom, "validation_mae", BLUE)):
        points = [(row["step"], row[key]) for row in history if key in row]
        steps, values = np.array(points, float).reshape(-1, 2).T
        marker = "o" if len(points) <= 50 else None
        axes.plot(steps, values, color=colour, lw=1.4, marker=marker, ms=3, label="HDGNN")
        axes.set_yscale("log")
        tidy(axes)
    lines = zip(
        validation.baselines, (RED, ORANGE, GREEN), (":", "--", (0, (6, 1))), strict=False
    )
    for name, colour, style in lines:
        mae = validation.accuracy(name).mae
        label = f"{name.replace('_', ' ')}: {format_mae(mae)}"
        bottom.axhline(mae, color=colour, ls=style, lw=1.3, label=label)
    if paper is not None:
        label = f"paper (test): {paper.mae:g}"
        bottom.axhline(paper.mae, color="black", ls="-.", lw=1.3, label=label)
    top.set_title(f"Learning curve of {target}")
    top.set_ylabel("training loss")
    bottom.set_ylabel(f"validation MAE [{superscripts(unit)}]")
    bottom.set_xlabel("training step")
    bottom.set_xlim(left=0)
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    bottom.legend(frameon=False, fontsize=9)
    return figure


def parity(result: SplitResult, target: str, unit: str) -> Figure:
    """Prediction against truth, with a histogram of the errors in the empty corner."""
    figure = empty_figure(6.4, 5.6)
    axes = figure.subplots()
    truth, prediction = result.truth.ravel(), result.prediction.ravel()
    both = np.concatenate([truth, prediction])
    margin = 0.04 * np.ptp(both) or 1.0
    limits = (both.min() - margin, both.max() + margin)
    if len(truth) > CROWDED:
        density = axes.hexbin(
            truth, prediction, gridsize=90, extent=limits * 2, bins="log",
            mincnt=1, cmap="viridis", linewidths=0.1,
        )  # fmt: skip
        figure.colorbar(density, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="structures")
    else:
        axes.scatter(truth, prediction, s=14, color=BLUE, alpha=0.6, linewidths=0)
    axes.plot(limits, limits, color=RED, lw=0.8, ls="--")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"true {target} [{superscripts(unit)}]")
    axes.set_ylabel(f"predicted {target} [{superscripts(unit)}]")
    axes.set_title(
        f"{target}, {result.split} split: MAE {format_mae(result.mae)} {superscripts(unit)} "
        f"(n = {len(truth):,})"
    )
    tidy(axes)

    inset = axes.inset_axes((0.6, 0.12, 0.36, 0.24))
    reach = 5 * result.mae or 1.0
    inset.hist(prediction - truth, bins=41, range=(-reach, reach), color=BLUE)
    inset.set_title(f"prediction - truth [{superscripts(unit)}]", fontsize=8)
    inset.tick_params(labelsize=8)
    inset.set_yticks([])
    inset.spines[["top", "right", "left"]].set_visible(False)
    return figure


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure, made without pyplot, whose global state all callers would share."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_range(
    axes: Axes, at: Sequence[float], values: np.ndarray, color: str | None = None, label: str = ""
) -> None:
    """Plots means of values [n, m] over m against `at` [n], with bars from least to greatest."""
    mean = values.mean(1)
    ends = np.abs([values.min(1) - mean, values.max(1) - mean])
    axes.errorbar(at, mean, yerr=ends, marker="o", ms=4, capsize=3, color=color, label=label)


def tidy(axes: Axes) -> None:
    """Sets the grid and the frame that all of the report's plots have."""
    axes.grid(True, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def superscripts(unit: str) -> str:
    """A unit with exponents as matplotlib writes them: bohr^3 becomes bohr$^{3}$."""
    return re.sub(r"\^(\d+)", r"$^{\1}$", unit)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
