"""What became of the protocol's hypotheses: sections of a study's page.

They are on the symmetry dial, errors against a fixed share of the learned terms, and on gains in
and out of the training distribution, on the slabs' parts.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from experiments import study_sizes
from experiments.configs import ablations
from experiments.study_compare import compare, holm, verdict
from experiments.study_plan import BASELINE, Plan
from experiments.study_record import Record
from experiments.symmetry_view import draw_attention
from hdgnn_jax.data.targets import RELAXED_ENERGY
from hdgnn_jax.evaluation.attention import LEARNED
from hdgnn_jax.training.plots import BLUE, ORANGE, empty_figure, plot_range, superscripts, tidy
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table
from hdgnn_jax.types import Json

FEWEST = 5
"""Number of shares, from 0 to 100 %, that the hypotheses on the dial are about."""
REFERENCE = "fully_tp"
"""The strictly equivariant variant that the paper compares with (Table 3)."""


def sections(plan: Plan, record: Record, page: pathlib.Path) -> Iterator[str]:
    """The sections for which the plan has the runs; figures go beside the page."""
    for target, size in itertools.product(plan.targets, plan.sizes):
        if has_dial(plan):
            figure = page.with_name(f"{page.stem}_{target}_{size}.png")
            yield dial(plan, record, target, size, figure)
        if target == RELAXED_ENERGY.name and REFERENCE in plan.variants:
            yield gains(plan, record, target, size)


def has_dial(plan: Plan) -> bool:
    """Whether the plan has the runs for the hypotheses on the dial."""
    found = set(shares(plan).values())
    return len(found) >= FEWEST and {0, 100} <= found


def shares(plan: Plan) -> dict[str, float]:
    """The share of the learned terms in the weights of eq. 11, in percent, where it is fixed.

    Returns:
      By variant, ascending; the weights of other variants are learned.
    """
    fields = ablations.VARIANTS | ablations.DIAL
    fixed = {v: fields[v].get("attention") for v in plan.variants if v in fields}
    found = {
        v: 100 * sum(weights[: len(LEARNED)]) / sum(weights)
        for v, weights in fixed.items()
        if isinstance(weights, tuple)
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def dial(plan: Plan, record: Record, target: str, size: int, figure: pathlib.Path) -> str:
    """The dial of one target and size: table, figure, and what became of the hypotheses."""
    fixed, unit = shares(plan), study_sizes.unit_of(plan, record, target)
    test, turned, train = (
        {
            v: np.array([getattr(record[run], name) for run in plan.of(target, size, v)])
            for v in plan.variants
        }
        for name in ("mae", "rotation_error", "train_mae")
    )
    attention = record[plan.run(target, size, BASELINE, 0)].attention
    draw(figure, fixed, test, turned, unit, attention)
    rows = [
        [f"{fixed[v]:.0f} %" if v in fixed else "learned", v,
         *(format_mae(float(values[v].mean())) for values in (test, turned, train))]
        for v in [*fixed, BASELINE]
    ]  # fmt: skip
    columns = ("share of the learned terms", "variant", "test MAE", "rotation error", "train MAE")
    lines = [
        f"## {target}, {size:,} structures, against the share of the learned terms\n",
        f"In {unit}, mean over seeds.\n",
        markdown_table(columns, rows, left=(0, 1)),
        f"\n![The symmetry dial]({figure.name})\n",
        *of_dial(fixed, test, turned),
        "\nThe learned weights are shown, not tested."
        if attention
        else "\nThe learned weights were not measured: the runs are of an earlier revision.",
    ]
    return "\n".join([*lines, ""])


def of_dial(
    fixed: dict[str, float], test: dict[str, np.ndarray], turned: dict[str, np.ndarray]
) -> list[str]:
    """What became of the three hypotheses on the dial, a line for each.

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
        f"{'holds' if all(rank > 0 for rank in ranks) else 'does not hold in each seed'}; "
        f"rank correlations {', '.join(f'{rank:.2f}' for rank in ranks)}."
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
        f"{verdict(p, [end.difference for end in ends])}; {'; '.join(words)}."
    )
    learned = compare({best: list(test[best]), BASELINE: list(test[BASELINE])})[1]
    lines.append(
        f"3. `baseline`, with learned weights, has no larger test error than the best fixed share, "
        f"{fixed[best]:.0f} %: {verdict([learned.p], [-learned.difference])}; "
        f"{learned.percent[0]:+.1f} ± {learned.percent[1]:.1f} %, p {learned.p:.2g}."
    )
    return lines


def draw(
    path: pathlib.Path,
    fixed: dict[str, float],
    test: dict[str, np.ndarray],
    turned: dict[str, np.ndarray],
    unit: str,
    attention: Json | None,
) -> None:
    """Plots both errors against the share, mean, least and greatest over seeds.

    Below are the weights that attention learned, where known.
    """
    figure = empty_figure(11, 8 if attention else 4.2)
    rows = figure.subplots(2 if attention else 1, 2, squeeze=False)
    labels = ("test MAE", "mean |E(x) - E(Qx)|")
    for axes, values, label in zip(rows[0], (test, turned), labels, strict=True):
        of_fixed = np.array([values[v] for v in fixed])
        plot_range(axes, list(fixed.values()), of_fixed, color=BLUE, label="fixed weights")
        learned = values[BASELINE]
        axes.axhline(learned.mean(), color=ORANGE, label="learned weights (baseline)")
        axes.axhspan(learned.min(), learned.max(), color=ORANGE, alpha=0.2, lw=0)
        axes.set(xlabel="share of the learned terms, %",
                 ylabel=f"{label} [{superscripts(unit)}]")  # fmt: skip
        axes.set_ylim(bottom=0)
        tidy(axes)
        axes.legend(frameon=False, fontsize=9)
    if attention:
        _draw_training(rows[1][0], attention)
        draw_attention(rows[1][1], attention)
        rows[1][1].set(title="... and by distance, after it", ylim=(0, 1))
    figure.savefig(path)


def _draw_training(axes: Axes, attention: Json) -> None:
    """The mean weights of eq. 11 over training."""
    for n, term in enumerate(attention["terms"]):
        means = [row[n] for row in attention["means"]]
        axes.plot(attention["steps"], means, marker=".", label=f"a{n + 1} ({term})")
    axes.set(title="Learned weights of eq. 11, seed 0, in training ...", xlabel="step",
             ylabel="mean weight", ylim=(0, 1))  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def gains(plan: Plan, record: Record, target: str, size: int) -> str:
    """Errors in percent of `fully_tp`'s on each test part, and the test of the paper's Table 1."""
    runs = {v: [record[run] for run in plan.of(target, size, v)] for v in plan.variants}
    parts = list(runs[REFERENCE][0].errors)
    percent = {
        v: np.array([
            [100 * one.errors[part]["mae"] / other.errors[part]["mae"] for part in parts]
            for one, other in zip(of_v, runs[REFERENCE], strict=True)
        ])
        for v, of_v in runs.items()
        if v != REFERENCE
    }  # fmt: skip
    rows = [[v, *(f"{value:.1f}" for value in values.mean(0))] for v, values in percent.items()]
    lines = [
        f"## Error in percent of `{REFERENCE}`'s, {size:,} structures\n",
        "Mean over seeds.\n",
        markdown_table(("", *parts), rows),
        f"\n{out_of_distribution(percent[BASELINE])}",
    ]
    return "\n".join([*lines, ""])


def out_of_distribution(percent: np.ndarray) -> str:
    """Whether `baseline` gains more out of distribution, by a paired t-test over seeds.

    Args:
      percent: [seeds, parts] errors in percent of the reference's; the first part is `id`.
    """
    _, row = compare({"id": list(percent[:, 0]), "out": list(percent[:, 1:].mean(1))})
    return (
        "`baseline` gains more out of distribution (the paper's Table 1): "
        f"{verdict([row.p], [-row.difference])}; {row.difference:+.1f} ± {row.margin:.1f} "
        f"percentage points against `id`, p {row.p:.2g}."
    )
