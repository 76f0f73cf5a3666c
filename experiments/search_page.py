"""The output of a search: a bar before each run, a table after each rung, a page at the end."""

from __future__ import annotations

import pathlib
import shlex
import sys

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from experiments.search_record import Candidate, Search
from experiments.study_compare import LEVEL, Comparison, compare
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.files import write_atomically
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table, print_table
from hdgnn_jax.types import Fields

Rows = list[list[str]]
HEAD = ["", "changed", "parameters", "steps", "seconds", "MAE", ""]
FINAL_HEAD = ["", "changed", "parameters", "MAE", "above the best", "p", ""]


def print_bar(
    title: str, changed: Fields, done: int, total: int, rate: str, left: float
) -> None:
    """Prints one line with runs done, their rate and the time left; each run has its own bar."""
    minutes, hours = round(left / 60) % 60, round(left / 60) // 60
    grid = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None):
        grid.add_column(no_wrap=ratio is None, ratio=ratio)
    numbers = " ".join(filter(None, [f"{done}/{total} runs", rate, f"left {hours}:{minutes:02} h"]))
    grid.add_row(title, ProgressBar(total=total, completed=done), numbers)
    console = Console(stderr=True)
    console.print()
    console.print(grid)
    console.print(fields(changed), style="dim")


def print_rung(search: Search, rung: int) -> None:
    """Prints the table of a finished rung."""
    title = f"Rung {rung + 1}, validation MAE in {unit(search)}"
    print_table(title, HEAD, rung_rows(search, rung), left(HEAD))


def print_end(search: Search) -> None:
    """Prints the finals, the test and how to train the winner."""
    title = f"Finals, validation MAE in {unit(search)}"
    print_table(title, FINAL_HEAD, final_rows(search), left(FINAL_HEAD))
    print(verdict(search))
    print(tested(search))
    print(train_command(search))


def write(page: pathlib.Path, search: Search) -> None:
    """Writes the page."""
    plan = search.plan
    size = plan.config["training"]["validation_size"]
    lines = [
        "# Search for a recipe\n",
        "Written by the command below; nothing here is typed by hand.\n",
        f"```\npython -m experiments.search {shlex.join(sys.argv[1:])}\n```\n",
        f"Validation MAE of {plan.config['target']} in {unit(search)}, of the first {size:,} "
        "structures, by\nthe better of two validations. A budget counts seconds of steps; those in "
        "the tables are by\nthe clock, all included. Candidate 0 is the config as it is. Rungs are "
        "single runs of one seed: their\norder is a sieve and proves nothing.\n",
        *(
            f"## Rung {rung + 1}: {len(search.members(rung))} runs of "
            f"{plan.seconds(rung):.3g} s\n\n"
            f"{markdown_table(HEAD, rung_rows(search, rung), left(HEAD))}\n"
            for rung in range(plan.rungs)
        ),
        f"## Finals: {plan.seeds} seeds of {plan.budget:.3g} s\n",
        "Seeds that no rung has seen. MAE: mean and its 95 % interval (Student). Above the best:"
        " analysis of\nvariance with seeds as blocks, p after Holm's correction.\n",
        markdown_table(FINAL_HEAD, final_rows(search), left(FINAL_HEAD)),
        f"\n{verdict(search)}\n\n{tested(search)}\n\n```\n{train_command(search)}\n```\n",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, "\n".join(lines).encode())
    print(f"page: {page}")


def rung_rows(search: Search, rung: int) -> Rows:
    """Rows of a rung's table: the best first, failed candidates last."""
    members, kept = search.members(rung), search.members(rung + 1)
    done = sorted((c for c in members if len(c.rungs) > rung), key=lambda c: c.rungs[rung].mae)
    rows = []
    for c in done:
        run = c.rungs[rung]
        numbers = [f"{run.steps:,}", f"{run.seconds:.0f}", format_mae(run.mae)]
        rows.append([*_who(c), *numbers, "goes on" if c in kept else ""])
    failed = [c for c in members if c not in done]
    return rows + [[*_who(c), "", "", "", c.out or ""] for c in failed]


def final_rows(search: Search) -> Rows:
    """Rows of the finals' table: the winner, the others, then failed candidates."""
    whole, rows = search.complete(), []
    for c, found in zip(whole, compared(search), strict=True):
        row = [*_who(c), f"{format_mae(found.mean)} ± {found.spread:.2g}"]
        if c is whole[0]:
            row += ["", "", "lowest mean"]
        else:
            sign = "worse" if found.p < LEVEL else "undecided"
            row += [f"{found.difference:.3g} ± {found.margin:.2g}", f"{found.p:.2g}", sign]
        rows.append(row)
    failed = [c for c in search.members(search.plan.rungs) if c not in whole]
    return rows + [[*_who(c), "", "", "", c.out or ""] for c in failed]


def compared(search: Search) -> list[Comparison]:
    """Compares the finalists with the best of them, over seeds."""
    maes = {str(c.index): [t.mae for t in c.finals] for c in search.complete()}
    if len(maes) > 1:
        return compare(maes)
    return [Comparison(name, tuple(values)) for name, values in maes.items()]


def verdict(search: Search) -> str:
    """A sentence that names the winner and says how certain that is."""
    first, *others = compared(search)
    open_ = [c.variant for c in others if c.p >= LEVEL]
    text = f"Candidate {first.variant} has the lowest mean over {search.plan.seeds} seeds. "
    if open_:
        return text + f"Undecided, within the spread of seeds: it or {', '.join(open_)}."
    if others:
        return text + "The others are worse."
    alone = len(search.members(search.plan.rungs)) == 1
    return text + ("It was the only finalist." if alone else "No other finalist finished.")


def tested(search: Search) -> str:
    """A sentence with the winner's test error."""
    test = search.test
    assert test is not None
    return (
        f"Test MAE ({test['split']}, {test['n']:,} structures): {format_mae(test['mae'])} "
        f"{test['unit']}, of its run of the last rung alone."
    )


def train_command(search: Search) -> str:
    """The command that trains the tested run again."""
    given = [arg for arg in sys.argv[1:] if arg.startswith(("--config", "--noconfig"))]
    words = [*given, "--workdir=DIR", *search.winners_flags()]
    return f"python -m experiments.train {shlex.join(words)}"


def unit(search: Search) -> str:
    """The unit of all errors."""
    config = search.plan.config
    return dataset(config).target(config["target"]).unit


def fields(changed: Fields) -> str:
    """The changed fields in a line, by the last part of their names."""
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in changed.items()) or (
        "the config as it is"
    )


def _who(c: Candidate) -> list[str]:
    known = "" if c.parameters is None else f"{c.parameters:,}"
    return [str(c.index), fields(c.changed), known]


def left(head: list[str]) -> list[int]:
    """The columns of words, which are aligned to the left."""
    return [k for k, name in enumerate(head) if name in ("changed", "")]
