"""How far a study is from convergence: its errors beside those after fewer steps."""

from __future__ import annotations

import itertools

import numpy as np

from experiments.study_compare import half_width
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
      shorter: the record of the same study with fewer steps, read already (`Record.read`).

    Raises:
      CheckpointError: where the two learned from other data.
    """
    both = shorter.complete(plan)
    for run in both.runs():
        if record[run].data != shorter[run].data:
            raise CheckpointError(f"{run.key} of {record.file} and of {shorter.file} were trained "
                                  "on other data: name another --shorter")  # fmt: skip
    rows = []
    for target, size, variant in itertools.product(plan.targets, plan.sizes, plan.variants):
        runs = both.of(target, size, variant)
        few, many = (np.array([known[run].mae for run in runs]) for known in (shorter, record))
        off = 100 * (1 - many / few)
        rows.append([
            target, f"{size:,}", variant, format_mae(few.mean()), format_mae(many.mean()),
            record[runs[0]].unit,
            f"{off.mean():.1f}" + (f" ± {half_width(off):.1f}" if len(off) > 1 else ""),
        ])  # fmt: skip
    columns = (
        "target", "structures", "variant", f"{shorter.steps:,} steps", f"{plan.steps:,} steps",
        "unit", "taken off, %",
    )  # fmt: skip
    return f"""## How far from convergence

Test MAE after {shorter.steps:,} steps and after {plan.steps:,}, over seeds 0 to {both.seeds - 1};
each number of steps has a schedule of its own.

{markdown_table(columns, rows, left=(0, 2, 5))}
"""
