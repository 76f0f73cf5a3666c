"""The page of a study: errors with intervals over seeds, compared with the paper's."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments import study_sizes
from experiments.peer import results as results_of_peers
from experiments.study_plan import BASELINE, Plan, Run
from experiments.study_record import Record, Result
from hdgnn_jax.data.targets import RELAXED_ENERGY
from hdgnn_jax.errors import InputError
from hdgnn_jax.training.markdown import markdown_table
from hdgnn_jax.training.metrics import write_atomically
from hdgnn_jax.training.plots import empty_figure
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.types import Fields

PAPER = {
    "baseline": 554, "linear": 632, "fully_tp": 591, "unrestricted": 883, "softmax": 562,
    "equal_weights": 564, "learned_weights": 567, "no_layer_norm": 577, "extra_linear": 568,
    "unshared_mlp": 555, "nn_of_rotated": 572,
}  # fmt: skip
"""Test MAE on IS2RE (ID), meV: Tables 3 to 5 of An et al. 2024, one run each."""

LEVEL = 0.05
COLUMNS = (
    "variant", "MAE", "difference", "%", "p", "paper, %", "with the paper", "rotation error",
    "train MAE",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One variant on one target.

    Attributes:
      variant: name of the variant.
      maes: test errors, one for each seed.
      difference: mean error minus that of the baseline.
      margin: half width of the 95 % interval of `difference`.
      percent: `difference` and `margin` in percent of the baseline's mean.
      p: p-value of no difference, with Holm's correction over the variants.
      paper: the paper's difference from its baseline, in percent of that baseline.
    """

    variant: str
    maes: tuple[float, ...]
    difference: float = 0.0
    margin: float = 0.0
    percent: tuple[float, float] = (0.0, 0.0)
    p: float = 1.0
    paper: float | None = None

    @property
    def mean(self) -> float:
        """The mean error over seeds."""
        return float(np.mean(self.maes))

    @property
    def spread(self) -> float:
        """Half width of the 95 % interval of the mean (Student)."""
        n = len(self.maes)
        return float(scipy.stats.t.ppf(0.975, n - 1) * np.std(self.maes, ddof=1) / n**0.5)

    @property
    def verdict(self) -> str:
        """Whether the sign agrees with the paper's, and whether the interval misses its size."""
        if self.paper is None or self.variant == BASELINE:
            return ""
        sign = "undecided"
        if self.p < LEVEL:
            sign = "agrees" if (self.paper > 0) == (self.difference > 0) else "contradicts"
        here, margin = self.percent
        return sign + (", not the paper's size" if abs(self.paper - here) > margin else "")


def compare(
    maes: Mapping[str, Sequence[float]], paper: Mapping[str, float] = MappingProxyType({})
) -> list[Comparison]:
    """Compares every variant with the first, by analysis of variance with seeds as blocks.

    Runs of one seed see the same molecules in the same order, so their errors rise and fall
    together. The residuals, after subtracting the means of variants and of seeds, are pooled. For
    two variants this is the paired t-test.

    Args:
      maes: for each variant its errors, one for each seed; at least two variants and two seeds.
      paper: errors in the paper, by variant.
    """
    table = np.array(list(maes.values()))
    variants, seeds = table.shape
    means = table.mean(1)
    left = table - means[:, None] - table.mean(0) + table.mean()
    freedom = (variants - 1) * (seeds - 1)
    error = np.sqrt((left**2).sum() / freedom * 2 / seeds)
    margin = float(scipy.stats.t.ppf(0.975, freedom) * error)
    raw = 2 * scipy.stats.t.sf(np.abs(means[1:] - means[0]) / error, freedom)
    order = np.argsort(raw)
    holm = np.empty(len(raw))
    holm[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    first, *others = maes
    return [Comparison(first, tuple(maes[first]))] + [
        Comparison(
            name,
            tuple(maes[name]),
            float(mean - means[0]),
            margin,
            (float(100 * (mean / means[0] - 1)), float(100 * margin / means[0])),
            float(p),
            100 * (paper[name] / paper[first] - 1) if name in paper else None,
        )
        for name, mean, p in zip(others, means[1:], holm, strict=True)
    ]


def write(page: pathlib.Path, plan: Plan, record: Record) -> None:
    """Writes the page of the seeds that are complete, with its plots beside it.

    Args:
      page: FILE.md.
      plan: the study; other seeds may be under way.
      record: its finished runs.

    Raises:
      InputError: where another model beside a run has not finished its trainings.
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
    if len(plan.sizes) > 1:
        study_sizes.draw(page.with_suffix(".png"), plan, record)
        parts += [study_sizes.section(plan, record, target) for target in plan.targets]
    if results:
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
    known = {title: rows for title, rows in results.items() if sum(map(_known, rows)) >= 3}
    return [*parts, _conclusions(known)] if known else parts


def _known(row: Comparison) -> bool:
    return row.paper is not None


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
    curves = f"\n![Error against training structures]({page.stem}.png)\n"
    return f"""# Variants of HDGNN

Written by the command below; nothing here is typed by hand. Intervals are 95 %, over the seeds
0 to {plan.seeds - 1}. Differences: analysis of variance with seeds as blocks, p after Holm's
correction for one table. [Protocol](protocol.md), written before the runs.

```
python -m experiments.study {" ".join(arg for arg in sys.argv[1:] if "--share" not in arg)}
```

Each run: {sizes} training structures, {config["training.steps"]:,} steps of
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
