"""The symmetry dial on a study's page: errors against a fixed share of the learned terms."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from experiments.configs import ablations
from experiments.study_compare import LEVEL, compare, holm
from experiments.study_plan import BASELINE, Plan
from experiments.study_record import Record
from hdgnn_jax.evaluation.attention import LEARNED
from hdgnn_jax.training.markdown import markdown_table
from hdgnn_jax.training.plots import BLUE, GREEN, GREY, ORANGE, RED, empty_figure, tidy
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.types import Json

FEWEST = 3
"""Shares that make a curve."""


def shares(plan: Plan) -> dict[str, float]:
    """The share of the learned terms in the weights of eq. 11, in percent, where it is fixed.

    Returns:
      By variant, ascending; the weights of other variants are learned.
    """
    fields = ablations.VARIANTS | ablations.DIAL
    fixed = {v: fields[v].get("attention") for v in plan.variants}
    found = {
        v: 100 * sum(weights[: len(LEARNED)]) / sum(weights)
        for v, weights in fixed.items()
        if isinstance(weights, tuple)
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def section(plan: Plan, record: Record, target: str, size: int, figure: pathlib.Path) -> str:
    """The dial of one target and size: table, figure, and what became of the hypotheses."""
    fixed = shares(plan)
    test = _by_variant(plan, record, target, size, "mae")
    turned = _by_variant(plan, record, target, size, "rotation_error")
    train = _by_variant(plan, record, target, size, "train_mae")
    draw(figure, fixed, test, turned, _unit(plan, record, target, size), _attention(
        plan, record, target, size))  # fmt: skip
    rows = [
        [f"{fixed[v]:.0f} %" if v in fixed else "learned", v,
         *(format_mae(float(values[v].mean())) for values in (test, turned, train))]
        for v in [*fixed, BASELINE]
    ]  # fmt: skip
    columns = ("share of the learned terms", "variant", "test MAE", "rotation error", "train MAE")
    lines = [
        f"## {target}, {size:,} structures, against the share of the learned terms\n",
        f"In {_unit(plan, record, target, size)}, mean over seeds.\n",
        markdown_table(columns, rows, left=(0, 1)),
        f"\n![The symmetry dial]({figure.name})\n",
        *hypotheses(fixed, test, turned),
    ]
    return "\n".join([*lines, ""])


def hypotheses(
    fixed: dict[str, float], test: dict[str, np.ndarray], turned: dict[str, np.ndarray]
) -> list[str]:
    """What became of the protocol's three hypotheses, a line for each.

    Args:
      fixed: the share of each variant, ascending, as of `shares`.
      test, turned: [seeds] test and rotation errors, of those variants and `baseline`.
    """
    at = list(fixed.values())
    ranks = [
        scipy.stats.spearmanr(at, [turned[v][seed] for v in fixed]).statistic
        for seed in range(len(test[BASELINE]))
    ]
    lines = [
        "1. The rotation error grows with the share: "
        f"{'holds' if min(ranks) > 0 else 'does not hold in each seed'}; rank correlations "
        f"{', '.join(f'{rank:.2f}' for rank in ranks)}."
    ]
    low, *between, high = fixed
    inner, best = (min(names, key=lambda v: test[v].mean()) for names in (between, fixed))
    ends = [compare({inner: list(test[inner]), v: list(test[v])})[1] for v in (low, high)]
    p = holm(np.array([end.p for end in ends]))
    words = [
        f"{fixed[end.variant]:.0f} %: {end.percent[0]:+.1f} ± {end.percent[1]:.1f} %, p {each:.2g}"
        for end, each in zip(ends, p, strict=True)
    ]
    lines.append(
        f"2. Both ends have a larger test error than the best between, {fixed[inner]:.0f} %: "
        f"{_verdict(p, [end.difference for end in ends])}; {'; '.join(words)}."
    )
    learned = compare({best: list(test[best]), BASELINE: list(test[BASELINE])})[1]
    lines.append(
        f"3. `baseline`, with learned weights, has no larger test error than the best fixed share, "
        f"{fixed[best]:.0f} %: {_verdict([learned.p], [-learned.difference])}; "
        f"{learned.percent[0]:+.1f} ± {learned.percent[1]:.1f} %, p {learned.p:.2g}."
    )
    return lines


def _verdict(p: Sequence[float] | np.ndarray, differences: Sequence[float]) -> str:
    """Of a hypothesis by which all differences are positive."""
    sure = [(each < LEVEL, d > 0) for each, d in zip(p, differences, strict=True)]
    if any(small and not positive for small, positive in sure):
        return "contradicted"
    return "holds" if all(small for small, _ in sure) else "undecided"


def _by_variant(
    plan: Plan, record: Record, target: str, size: int, name: str
) -> dict[str, np.ndarray]:
    """[seeds] values of an attribute of `Result`."""
    return {
        v: np.array([getattr(record[run], name) for run in plan.of(target, size, v)])
        for v in plan.variants
    }


def _unit(plan: Plan, record: Record, target: str, size: int) -> str:
    return record[plan.run(target, size, BASELINE, 0)].unit


def _attention(plan: Plan, record: Record, target: str, size: int) -> Json | None:
    return record[plan.run(target, size, BASELINE, 0)].attention


def draw(
    path: pathlib.Path,
    fixed: dict[str, float],
    test: dict[str, np.ndarray],
    turned: dict[str, np.ndarray],
    unit: str,
    attention: Json | None,
) -> None:
    """Plots both errors against the share; below, the weights that attention learned, if known."""
    figure = empty_figure(11, 8 if attention else 4.2)
    rows = figure.subplots(2 if attention else 1, 2, squeeze=False)
    titles = ("Test error", "Change under a rotation")
    for axes, values, title in zip(rows[0], (test, turned), titles, strict=True):
        found = np.array([values[v] for v in fixed])
        mean = found.mean(1)
        spread = np.abs([found.min(1) - mean, found.max(1) - mean])
        axes.errorbar(list(fixed.values()), mean, yerr=spread, marker="o", ms=4, capsize=3,
                      color=BLUE, label="fixed weights")  # fmt: skip
        learned = values[BASELINE]
        axes.axhline(learned.mean(), color=ORANGE, label="learned weights (baseline)")
        axes.axhspan(learned.min(), learned.max(), color=ORANGE, alpha=0.2, lw=0)
        axes.set(title=title, xlabel="share of the learned terms, %", ylabel=f"mean error [{unit}]")
        axes.set_ylim(bottom=0)
        tidy(axes)
        axes.legend(frameon=False, fontsize=9)
    if attention:
        _draw_attention(rows[1][0], rows[1][1], attention)
    figure.savefig(path)


def _draw_attention(over_steps: Axes, over_distance: Axes, attention: Json) -> None:
    """The weights of eq. 11 over training, and at its end by layer and distance."""
    colours = (BLUE, GREEN, RED, GREY)
    steps = attention["steps"]
    for term, colour, means in zip(
        attention["terms"], colours, np.transpose(attention["means"]), strict=False
    ):
        over_steps.plot(steps, means, marker="o", ms=3, color=colour, label=term)
    middle = np.array(attention["limits"])[:-1] + np.diff(attention["limits"]) / 2
    for layer, of_layer in enumerate(attention["by_distance"]):
        for term, colour, weights in zip(attention["terms"], colours, of_layer, strict=False):
            over_distance.plot(middle, np.array(weights, float), color=colour,
                               ls=("-", "--", ":")[layer % 3],
                               label=f"{term}, layer {layer + 1}")  # fmt: skip
    over_steps.set(title="Learned weights over training (seed 0)", xlabel="step",
                   ylabel="mean weight")  # fmt: skip
    over_distance.set(title="Learned weights by layer and distance (seed 0)",
                      xlabel="distance [Å]", ylabel="mean weight")  # fmt: skip
    for axes in (over_steps, over_distance):
        axes.set_ylim(0, 1)
        tidy(axes)
        axes.legend(frameon=False, fontsize=8, ncols=2)
