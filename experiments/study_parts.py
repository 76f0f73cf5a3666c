"""Gains in and out of the training distribution: the part of a study's page on the slabs' parts."""

from __future__ import annotations

import numpy as np

from experiments.study_compare import compare, verdict
from experiments.study_plan import BASELINE, Plan
from experiments.study_record import Record
from hdgnn_jax.training.tables import markdown_table

REFERENCE = "fully_tp"
"""The strictly equivariant variant that the paper compares with (Table 3)."""


def section(plan: Plan, record: Record, target: str, size: int) -> str:
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
