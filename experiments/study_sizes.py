"""Error against the number of training structures: the part of a study's page with curves."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import LogLocator

from experiments.peer import results as peers
from experiments.study_plan import BASELINE, Plan
from experiments.study_record import Record
from hdgnn_jax.training.plots import (
    GREEN,
    GREY,
    empty_figure,
    plot_range,
    superscripts,
    tidy,
)  # fmt: skip
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table

LINEAR = "linear model"


def unit_of(plan: Plan, record: Record, target: str) -> str:
    """The unit of a target's errors."""
    return record[plan.run(target, plan.sizes[0], BASELINE, 0)].unit


def table(plan: Plan, record: Record, target: str) -> dict[str, np.ndarray]:
    """`[sizes, seeds]` errors of each variant on the first test part."""
    return {
        v: np.array([[record[run].mae for run in plan.of(target, n, v)] for n in plan.sizes])
        for v in plan.variants
    }


def others(plan: Plan, record: Record, target: str) -> dict[str, np.ndarray]:
    """`[sizes]` test errors of the linear model and of SchNetPack's models; NaN: not trained."""
    found: dict[str, list[float]] = {name: [] for name in (LINEAR, *peers.MODELS.values())}
    for size in plan.sizes:
        result = record[plan.run(target, size, BASELINE, 0)]
        found[LINEAR].append(result.errors[result.part].get("linear", np.nan))
        trained = (result.peers or {"models": {}})["models"]
        for key, title in peers.MODELS.items():
            of_model = [float(one["test"]) for one in trained.get(key, {"runs": []})["runs"]]
            found[title].append(float(np.mean(of_model)) if of_model else np.nan)
    return {
        name: np.array(values) for name, values in found.items() if not np.isnan(values).all()
    }


def crossing(sizes: Sequence[int], first: np.ndarray, second: np.ndarray) -> float | None:
    """The size at which the smaller of two errors changes last; None where it never does.

    Between neighbouring sizes the logarithm of an error is a straight line in that of the size.

    Args:
      sizes: ascending.
      first, second: [sizes] errors.
    """
    ahead, at = np.log(first) - np.log(second), np.log(sizes)
    changes = np.flatnonzero(ahead[:-1] * ahead[1:] < 0)
    if not len(changes):
        return None
    k = changes[-1]
    share = ahead[k] / (ahead[k] - ahead[k + 1])
    return float(np.exp(at[k] + share * (at[k + 1] - at[k])))


def section(plan: Plan, record: Record, target: str) -> str:
    """Means over seeds at each size, and where `baseline` overtakes or is overtaken."""
    found = table(plan, record, target)
    unit = unit_of(plan, record, target)
    rows = [
        [name, *(format_mae(float(value)) for value in values.mean(1))]
        for name, values in found.items()
    ]
    rows += [
        [name, *("" if np.isnan(value) else format_mae(float(value)) for value in values)]
        for name, values in others(plan, record, target).items()
    ]
    columns = ["", *(f"{size:,}" for size in plan.sizes)]
    lines = [
        f"## {target} against the number of training structures\n",
        f"Test MAE in {unit}, mean over {plan.seeds} seed{'s' * (plan.seeds > 1)}.\n",
        markdown_table(columns, rows),
        "\nNumber at which the better of `baseline` and another changes last, for each seed:\n",
        *_crossings(plan, found),
    ]
    return "\n".join([*lines, ""])


def _crossings(plan: Plan, found: Mapping[str, np.ndarray]) -> list[str]:
    lines = []
    for name in plan.variants[1:]:
        places = [
            crossing(plan.sizes, found[BASELINE][:, seed], found[name][:, seed])
            for seed in range(plan.seeds)
        ]
        words = ["none" if place is None else f"{place:,.0f}" for place in places]
        at_end = found[BASELINE][-1].mean() < found[name][-1].mean()
        better = BASELINE if at_end else name
        lines.append(f"- {name}: {', '.join(words)}; with the most structures {better} is better")
    return lines


def draw(path: pathlib.Path, plan: Plan, record: Record) -> None:
    """Plots mean, least and greatest error over seeds against the size, a panel for each target."""
    figure = empty_figure(6 * len(plan.targets), 4.6)
    panels = np.atleast_1d(figure.subplots(1, len(plan.targets)))
    for axes, target in zip(panels, plan.targets, strict=True):
        for name, values in table(plan, record, target).items():
            plot_range(axes, plan.sizes, values, label=name)
        for (name, values), colour in zip(
            others(plan, record, target).items(), (GREY, "black", GREEN), strict=False
        ):
            known = ~np.isnan(values)  # Their line crosses sizes at which they were not trained.
            axes.plot(np.array(plan.sizes)[known], values[known], color=colour, ls="--", marker=".",
                      label=name)  # fmt: skip
        unit = unit_of(plan, record, target)
        axes.set(xscale="log", yscale="log", title=target, xlabel="training structures")
        axes.set_ylabel(f"test MAE [{superscripts(unit)}]")
        axes.set_xticks(plan.sizes, [f"{size:,}" for size in plan.sizes])
        axes.minorticks_off()
        # Errors may lie within one decade, where a logarithmic axis has no number.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.yaxis.set_major_formatter("{x:g}")
        tidy(axes)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)
