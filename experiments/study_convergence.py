"""How far a study is from convergence: its errors beside those after fewer steps."""

from __future__ import annotations

import itertools

import numpy as np

from experiments.study_compare import Comparison
from experiments.study_plan import Plan
from experiments.study_record import Record
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table


def section(plan: Plan, record: Record, shorter: Record) -> str:
    """A table of what the further steps take off each variant's error, over seeds that both have.

    Args:
      plan: the study.
      record: its finished runs, all of `plan`.
      shorter: the record of the same study with fewer steps.

    Raises:
      CheckpointError, InputError: as `shorter.read`, and where the two learned from other data.
    """
    before = shorter.read(plan)
    for run in before.runs():
        if run in record and record[run].data != shorter[run].data:
            raise CheckpointError(f"{run.key} of {record.file} and of {shorter.file} were trained "
                                  "on other data")  # fmt: skip
    rows = []
    for target, size, variant in itertools.product(plan.targets, plan.sizes, plan.variants):
        few = np.array([shorter[run].mae for run in before.of(target, size, variant)])
        many = np.array([record[run].mae for run in plan.of(target, size, variant)])[: len(few)]
        off = Comparison(variant, tuple(100 * (1 - many / few)))
        rows.append([
            target, f"{size:,}", variant, format_mae(few.mean()), format_mae(many.mean()),
            record[plan.run(target, size, variant, 0)].unit,
            f"{off.mean:.1f}" + (f" ± {off.spread:.1f}" if len(off.maes) > 1 else ""),
        ])  # fmt: skip
    columns = (
        "target", "structures", "variant", f"{before.steps:,} steps", f"{plan.steps:,} steps",
        "unit", "taken off, %",
    )  # fmt: skip
    return f"""## How far from convergence

Test MAE after {before.steps:,} steps and after {plan.steps:,}, over seeds 0 to {before.seeds - 1};
each number of steps has a schedule of its own.

{markdown_table(columns, rows, left=(0, 2, 5))}
"""
