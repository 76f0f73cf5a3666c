"""The page of a study: errors with intervals over seeds, compared with the paper's."""

from __future__ import annotations

import itertools
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments import study_convergence, study_hypotheses, study_sizes
from experiments.peer import results as results_of_peers
from experiments.study_compare import LEVEL, PAPER, Comparison, compare
from experiments.study_plan import BASELINE, QUICK, Plan, Run
from experiments.study_record import Record, Result
from hdgnn_jax.data.targets import RELAXED_ENERGY
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.training.plots import empty_figure
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table
from hdgnn_jax.types import Fields

COLUMNS = (
    "variant", "MAE", "difference", "%", "p", "paper, %", "with the paper", "rotation error",
    "train MAE",
)  # fmt: skip

TICKS = (-200, -100, -50, -20, -10, 0, 10, 20, 50, 100, 200, 500, 1000)
"""Percent; the axis is logarithmic beyond 10."""


def write(page: pathlib.Path, plan: Plan, record: Record, shorter: Record | None = None) -> None:
    """Writes the page of the seeds that are complete, with its plots beside it.

    Args:
      page: FILE.md.
      plan: the study; other seeds may be under way.
      record: its finished runs.
      shorter: the record of the same study with fewer steps, read already, to show how far this
        one is from convergence.

    Raises:
      InputError: where another model beside a run has not finished its trainings.
      CheckpointError: as `study_convergence.section`.
    """
    plan = record.complete(plan)
    if not plan.seeds:
        print("no page yet: no seed has all its runs finished")
        return
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [_head(plan, record, page)]
    places = _places(plan, record)
    results = _results(plan, record, places) if plan.seeds > 1 else {}
    if results:
        parts.append(_decided(results))
    else:
        parts.append("One seed is complete: no intervals and no tests yet.\n")
    if shorter is not None:
        parts.append(study_convergence.section(plan, record, shorter))
    if len(plan.sizes) > 1:
        study_sizes.draw(page.with_suffix(".png"), plan, record)
        parts += [study_sizes.section(plan, record, target) for target in plan.targets]
    if results:
        parts += study_hypotheses.sections(plan, record, page)
        plot = page.with_name(f"{page.stem}_variants.png")
        draw(plot, results)
        parts.append(f"![Differences from the baseline]({plot.name})\n")
        parts += _tables(plan, record, places, results)
    write_atomically(page, "\n".join(parts).encode())
    print(f"page: {page}")


class Place(NamedTuple):
    """Where variants are compared: one target, size and test part."""

    target: str
    size: int
    part: str


def _places(plan: Plan, record: Record) -> dict[str, Place]:
    """All of them, by a title that tells them apart."""
    found = {}
    for target, size in itertools.product(plan.targets, plan.sizes):
        parts = list(record[plan.run(target, size, BASELINE, 0)].errors)
        for part in parts:
            words = [target]
            words += [f"{size:,} structures"] if len(plan.sizes) > 1 else []
            words += [part] if len(parts) > 1 else []
            found[", ".join(words)] = Place(target, size, part)
    return found


def _results(
    plan: Plan, record: Record, places: Mapping[str, Place]
) -> dict[str, list[Comparison]]:
    """The comparison of the variants at each place, by its title."""
    found = {}
    for title, (target, size, part) in places.items():
        maes = {
            v: [record[run].errors[part]["mae"] for run in plan.of(target, size, v)]
            for v in plan.variants
        }
        # The slabs have four parts, as OC20 has, and none can be held against OC20's.
        found[title] = compare(maes, {} if target == RELAXED_ENERGY.name else PAPER)
    return found


def _tables(
    plan: Plan,
    record: Record,
    places: Mapping[str, Place],
    results: Mapping[str, Sequence[Comparison]],
) -> list[str]:
    """The sections with one comparison each, then what they say of the paper's."""
    parts = []
    for title, (target, size, part) in places.items():
        runs = {v: plan.of(target, size, v) for v in plan.variants}
        first = runs[BASELINE][0]
        found = {v: [record[run] for run in of_v] for v, of_v in runs.items()}
        parts.append(_target(title, results[title], found, part))
        if (beside := record[first].peers) is not None:
            parts.append(_peers(title, first, record[first], results[title][0], beside))
    known = {
        title: rows
        for title, rows in results.items()
        if sum(row.paper is not None for row in rows) >= 3
    }
    return [*parts, _conclusions(known)] if known else parts


def draw(path: pathlib.Path, results: Mapping[str, Sequence[Comparison]]) -> None:
    """Plots differences from the first variant in percent of its error, a panel per comparison."""
    figure = empty_figure(5 * len(results), 4)
    panels = np.atleast_1d(figure.subplots(1, len(results), sharey=True))
    panels[0].invert_yaxis()  # shared
    for axes, (target, (base, *others)) in zip(panels, results.items(), strict=True):
        at = np.arange(len(others))
        here, margin = np.array([c.percent for c in others]).T
        axes.errorbar(here, at, xerr=margin, fmt="o", capsize=3, label="here, 95 %")
        paper = [np.nan if c.paper is None else c.paper for c in others]
        if not np.isnan(paper).all():
            axes.plot(paper, at, "x", color="tab:red", label="paper, IS2RE")
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(at, [c.variant for c in others])
        axes.set(title=target, xlabel=f"test MAE, % above {base.variant}")
        axes.set_xscale("symlog", linthresh=10)
        low, high = axes.get_xlim()
        axes.set_xticks([x for x in TICKS if low <= x <= high])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path)


def _head(plan: Plan, record: Record, page: pathlib.Path) -> str:
    found = [record[run] for run in plan.runs()]
    config = found[0].config
    revisions = sorted({one.revision for one in found})
    machines = sorted({one.machine for one in found})
    sizes = " or ".join(f"{size:,}" for size in plan.sizes)
    words = [word for word in sys.argv[1:] if not word.startswith("--share=")]
    each, of_quick = "Each run", ""
    if QUICK in plan.variants:
        file = "is2re.py" if RELAXED_ENERGY.name in plan.targets else "qm9.py"
        each, of_quick = "Each other run", f"`quick` is `{file}:quick` for as many steps.\n\n"
    curves = f"\n![Error against training structures]({page.stem}.png)\n"
    return f"""# Variants of HDGNN

Written by the command below; nothing here is typed by hand. Intervals are 95 %, over the seeds
0 to {plan.seeds - 1}. Differences: analysis of variance with seeds as blocks, p after Holm's
correction for one table. [Protocol](protocol.md), written before the runs.

```
python -m experiments.study {shlex.join(words)}
```

{of_quick}{each}: {sizes} training structures, {config["training.steps"]:,} steps of
{config["training.batch_size"]}, K = {config["model.layers"]}, L = {config["model.degree"]},
C = {config["model.channels"]}, H = {config["model.hidden"]}, cutoff {config["model.cutoff"]:g} Å,
the rest as in `ablations.py`. Error on all test structures. Trained at revision
{", ".join(revisions)}; {"; ".join(machines)}.
{curves if len(plan.sizes) > 1 else ""}"""


def _decided(results: Mapping[str, Sequence[Comparison]]) -> str:
    """What the tests say, first on the page."""
    lines = ["## What is decided\n"]
    for title, (_, *others) in results.items():
        sure = [c for c in others if c.p < LEVEL]
        words = {
            "smaller error than `baseline`": [c for c in sure if c.difference < 0],
            "larger": [c for c in sure if c.difference > 0],
        }
        listed = [
            f"{word}: {', '.join(f'`{c.variant}` ({c.percent[0]:+.1f} %)' for c in rows) or 'none'}"
            for word, rows in words.items()
        ]
        unsure = ", ".join(f"`{c.variant}`" for c in others if c.p >= LEVEL) or "none"
        lines.append(f"- {title}: {'; '.join(listed)}; undecided: {unsure}.")
    return "\n".join([*lines, ""])


def _target(
    title: str, rows: Sequence[Comparison], found: Mapping[str, Sequence[Result]], part: str
) -> str:
    first = found[BASELINE][0]
    unit, without = first.unit, first.errors[part]
    baselines = ", ".join(
        f"{name.replace('_', ' ')} {format_mae(without[name])}" for name in without if name != "mae"
    )
    lines = [
        f"## {title}\n",
        f"Test MAE, mean |E(x) - E(Qx)| (on {first.part}) and training MAE in {unit}. Without a "
        f"network: {baselines}.\n",
    ]
    table = []
    for c in rows:
        cells = [c.variant, f"{format_mae(c.mean)} ± {c.spread:.2g}"]
        if c.variant != BASELINE:
            here, margin = c.percent
            cells += [
                f"{c.difference:+.3g} ± {c.margin:.2g}",
                f"{here:+.1f} ± {margin:.1f}",
                f"{c.p:.2g}",
                "" if c.paper is None else f"{c.paper:+.1f}",
                c.verdict,
            ]
        else:
            cells += [""] * 5
        cells += [
            format_mae(float(np.mean([getattr(one, name) for one in found[c.variant]])))
            for name in ("rotation_error", "train_mae")
        ]
        table.append(cells)
    return "\n".join([*lines, markdown_table(COLUMNS, table, left=(0, 6)), ""])


def _peers(title: str, first: Run, reference: Result, base: Comparison, found: Fields) -> str:
    """The section with the results of `experiments.peer` on the first run of the baseline."""
    unit, settings = reference.unit, found["settings"]
    command = f"python -m experiments.peer --workdir=DIR/{first.key} --seeds=N"
    ours = f"{format_mae(base.mean)} ± {base.spread:.2g}"
    rows, differences = [[base.variant, f"{reference.parameters:,}", "", ours]], []
    for name, software in results_of_peers.MODELS.items():
        model = found["models"].get(name, {"runs": []})
        if not model["runs"]:
            continue
        if len(model["runs"]) < 2:
            raise InputError(
                f"{software} needs two seeds or more of {title}, for an interval: run {command}"
            )
        other = Comparison(software, tuple(run["test"] for run in model["runs"]))
        # Welch's test, since seeds of two programs cannot be paired.
        test = scipy.stats.ttest_ind(other.maes, base.maes, equal_var=False)
        low, high = test.confidence_interval()
        molecules = np.mean([run["molecules"] for run in model["runs"]])
        rows.append([
            f"{software} ({model['software']}, {model['size']})", f"{model['parameters']:,}",
            f"{molecules:,.0f}", f"{format_mae(other.mean)} ± {other.spread:.2g}",
        ])  # fmt: skip
        differences.append(
            f"{software}: {(low + high) / 2:+.3g} ± {(high - low) / 2:.2g} {unit}, "
            f"p = {test.pvalue:.2g} (Welch)."
        )
    return f"""## {title}, beside other models

The same molecules and time ({settings["seconds"]:.0f} s; batches of {settings["batch_size"]},
cutoff {settings["cutoff"]:g} Å, the best of {len(settings["rates"])} rates on validation). Their
clock is for training alone; ours has compilation and the report's predictions in it.

{markdown_table(("model", "parameters", "molecules seen", f"test MAE, {unit}"), rows)}

{chr(10).join(differences)}

```
{command}
```
"""


def _conclusions(results: Mapping[str, Sequence[Comparison]]) -> str:
    lines = [
        "## With the paper, and how sure",
        "",
        "The paper's differences are single runs on IS2RE (Tables 3 to 5) at K = 8, L = 6, C = 64. "
        "`agrees` and\n`contradicts`: the sign, where p is below "
        f"{LEVEL:g}. `not the paper's size`: its percentage lies outside the interval.",
        "",
    ]
    for target, (_, *others) in results.items():
        known = [c for c in others if c.paper is not None]
        for word in ("agrees", "contradicts", "undecided", "not the paper's size"):
            names = [c.variant for c in known if word in c.verdict]
            lines.append(f"- {target}, {word}: {', '.join(names) or 'none'}.")
        rank = scipy.stats.spearmanr([c.difference for c in known], [c.paper for c in known])
        lines.append(
            f"- {target}: the order of the variants has rank correlation {rank.statistic:.2f} with "
            f"the paper's (p = {rank.pvalue:.2g}). Differences below "
            f"{known[0].percent[1]:.1f} % cannot be seen at this size."
        )
    return "\n".join([*lines, ""])
