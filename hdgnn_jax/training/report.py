"""The report of a run: its errors beside the baselines' and the paper's, plots, predictions."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from hdgnn_jax.data.targets import Accuracy
from hdgnn_jax.training import plots
from hdgnn_jax.training.metrics import write_atomically
from hdgnn_jax.training.result import SplitResult, format_mae
from hdgnn_jax.types import Fields, Json


def verdict(results: Sequence[SplitResult], unit: str) -> str:
    """A line that says that the linear model beats HDGNN on the headline's split; else empty."""
    headline = _headline(results)
    if "linear" not in headline.baselines:
        return ""
    mae, linear = headline.mae, headline.accuracy("linear").mae
    if mae < linear:
        return ""
    return (
        f"A linear model is better on the {headline.split} split: {format_mae(linear)} {unit}, "
        f"HDGNN {format_mae(mae)}. Train longer, or with config.data.reference = linear."
    )


def print_table(
    results: Sequence[SplitResult],
    *,
    target: str,
    unit: str,
    paper: Mapping[str, Accuracy],
    note: str = "",
) -> None:
    """Prints the errors on each split beside the baselines and the paper; see `write_report`."""
    console = Console()
    for title, (header, *rows) in _tables(results, target, unit, paper):
        table = Table(title=title.replace("[", r"\["))
        for column in header:
            table.add_column(column, justify="left" if column == "split" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in filter(None, (note, verdict(results, unit))):
        console.print(line, markup=False)


def write_report(
    folder: str | pathlib.Path,
    *,
    target: str,
    unit: str,
    results: Sequence[SplitResult],
    history: Sequence[Fields],
    paper: Mapping[str, Accuracy],
    note: str = "",
    run: Fields,
    card: Fields,
) -> None:
    """Writes the report. Each file is replaced as a whole, so a crash leaves none half written.

    The headline's split is the first that is neither training nor validation, or else the last.

    Args:
      folder: gets `summary.json`, `report.md`, `learning_curve.png`, `parity.png`, `card.json` and
        a `predictions_<split>.csv` per split; created if it is missing.
      target: name of the predicted quantity.
      unit: the unit of all values in `results`, `validation_mae` and `paper`.
      results: at least one split.
      history: rows with `step` and, where they were measured, `train_loss` and `validation_mae`.
      paper: by split, the errors that the paper reports.
      note: caveats of a comparison with the paper; empty without any.
      run: `seconds`, `compilations`, `padding_efficiency` (real share of the padded arrays, 0 to 1)
        and `parameters`.
      card: the card from `provenance.reproduction_card`.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = _summary(target, unit, results, paper, note, run)
    files = {
        "summary.json": _json(summary),
        "card.json": _json(card),
        **_plots(target, unit, results, history, paper),
        "report.md": _markdown(summary, results, paper, note, card).encode(),
        **{f"predictions_{r.split}.csv": _csv(r) for r in results},
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


def _summary(
    target: str,
    unit: str,
    results: Sequence[SplitResult],
    paper: Mapping[str, Accuracy],
    note: str,
    run: Fields,
) -> Json:
    headline = _headline(results)
    splits = {result.split: _numbers(result, paper) for result in results}
    tested = [splits[result.split] for result in _tested(results)]
    if len(tested) > 1:
        splits["mean"] = _mean(tested)
    summary = {
        "target": target,
        "unit": unit,
        "split": headline.split,
        **splits[headline.split],
        **{key: run[key] for key in ("seconds", "compilations", "padding_efficiency")},
        "parameters": run["parameters"],
        "splits": splits,
        **({"note": note} if note else {}),
    }
    forces = [result.forces for result in results if result.forces]
    if forces:
        summary["forces"] = {
            "unit": f"{unit}/Å", **{result.split: _numbers(result, {}) for result in forces}
        }  # fmt: skip
    return summary


def _plots(
    target: str,
    unit: str,
    results: Sequence[SplitResult],
    history: Sequence[Fields],
    paper: Mapping[str, Accuracy],
) -> dict[str, bytes]:
    """The PNG files of the report, by name."""
    headline = _headline(results)
    validation = next((r for r in results if r.split == "validation"), headline)
    figures = {
        "learning_curve.png": plots.learning_curve(
            history, validation, paper.get("test"), target, unit
        ),
        "parity.png": plots.parity(headline, target, unit),
    }
    if headline.forces:
        figures["parity_forces.png"] = plots.parity(headline.forces, "force", f"{unit}/Å")
    return {name: plots.png(figure) for name, figure in figures.items()}


def _tested(results: Sequence[SplitResult]) -> list[SplitResult]:
    return [result for result in results if result.split not in ("train", "validation")]


def _headline(results: Sequence[SplitResult]) -> SplitResult:
    return (_tested(results) or [results[-1]])[0]


def _accuracies(
    result: SplitResult, paper: Mapping[str, Accuracy]
) -> dict[str, Accuracy | None]:
    """The columns of the tables: HDGNN, then the baselines, then the paper if it has errors."""
    columns: dict[str, Accuracy | None] = {"": result.accuracy()}
    columns |= {f"_{name}": result.accuracy(name) for name in result.baselines}
    return {**columns, "_paper": paper.get(result.split)} if paper else columns


def _numbers(result: SplitResult, paper: Mapping[str, Accuracy]) -> Json:
    numbers: Json = {"n": len(result.ids)}
    for name, accuracy in _accuracies(result, paper).items():
        numbers[f"mae{name}"] = accuracy and accuracy.mae
        if result.threshold is not None:
            numbers[f"within{name}"] = accuracy and accuracy.within
    return numbers


def _mean(numbers: Sequence[Fields]) -> Json:
    """Means of the errors over the splits, with equal weights; None where a split has no error."""

    def over(key: str) -> float | None:
        values = [row[key] for row in numbers]
        return None if None in values else float(np.mean(values))

    means = {key: over(key) for key in numbers[0] if key != "n"}
    return {"n": sum(row["n"] for row in numbers), **means}


def _title(result: SplitResult, target: str, unit: str) -> str:
    title = f"Mean absolute error of {target} [{unit}]"
    if result.threshold is None:
        return title
    return f"{title}, and share of errors below {result.threshold:g} {unit}"


def _table(
    results: Sequence[SplitResult], paper: Mapping[str, Accuracy]
) -> list[tuple[str, ...]]:
    """The rows of a table: a header, a row per split, and the mean over the tested splits."""
    rows = {result.split: _numbers(result, paper) for result in results}
    tested = [rows[result.split] for result in _tested(results)]
    if len(tested) > 1:
        rows[f"mean of {len(tested)}"] = _mean(tested)
    names = [key.removeprefix("mae") for key in next(iter(rows.values())) if key.startswith("mae")]
    labels = {"": "HDGNN", "_paper": "paper (test)"}
    header = ("split", "n", *(labels.get(name, name.replace("_", " ").strip()) for name in names))

    def cell(row: Fields, name: str) -> str:
        mae, within = row[f"mae{name}"], row.get(f"within{name}")
        if mae is None:
            return "-"
        # The paper's errors keep their published digits.
        text = f"{mae:g}" if name == "_paper" else format_mae(mae)
        return text if within is None else f"{text} ({within:.2%})"

    return [header] + [
        (split, f"{row['n']:,}", *(cell(row, name) for name in names))
        for split, row in rows.items()
    ]


def _tables(
    results: Sequence[SplitResult], target: str, unit: str, paper: Mapping[str, Accuracy]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    """The title and the rows of the target's table, and of the forces' where there are forces."""
    tables = [(_title(results[0], target, unit), _table(results, paper))]
    forces = [result.forces for result in results if result.forces]
    if forces:
        tables.append((_title(forces[0], "forces", f"{unit}/Å"), _table(forces, {})))
    return tables


def _json(content: Fields) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _csv(result: SplitResult) -> bytes:
    """A CSV file; `repr` prints a float64 with digits that read back to the same bits."""
    names = component_names(result.truth.shape[1:])
    header = ["id", *(f"truth{name}" for name in names), *(f"prediction{name}" for name in names)]
    n = len(result.ids)
    both = np.hstack([result.truth.reshape(n, -1), result.prediction.reshape(n, -1)])
    rows = zip(result.ids.tolist(), both.tolist(), strict=True)
    lines = [",".join([str(i), *map(repr, row)]) for i, row in rows]
    return "\n".join([",".join(header), *lines, ""]).encode()


def component_names(shape: tuple[int, ...]) -> list[str]:
    """The suffixes of the columns of a value of the given shape.

    >>> component_names(()), component_names((3,))
    ([''], ['_x', '_y', '_z'])
    """
    return ["_" * bool(shape) + "".join(xyz) for xyz in itertools.product("xyz", repeat=len(shape))]


def _markdown(
    summary: Fields,
    results: Sequence[SplitResult],
    paper: Mapping[str, Accuracy],
    note: str,
    card: Fields,
) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    tables = []
    for title, (header, *rows) in _tables(results, summary["target"], summary["unit"], paper):
        rule = line(["---", *["---:"] * (len(header) - 1)])
        tables += [f"{title}:", "", line(header), rule, *map(line, rows), ""]
    beaten = verdict(results, summary["unit"])
    return f"""# HDGNN on {summary["target"]}

Mean absolute error on the {summary["split"]} split: **{format_mae(summary["mae"])} \
{summary["unit"]}**.

{chr(10).join(tables[:-1])}
{"".join(chr(10) + text + chr(10) for text in (note, beaten) if text)}
Trained in {summary["seconds"]:,.0f} s: {summary["parameters"]:,} parameters, \
{summary["compilations"]} compilations, {summary["padding_efficiency"]:.1%} of the padded arrays \
filled.

![Learning curve](learning_curve.png)

![Truth and prediction](parity.png)
{"![Forces](parity_forces.png)" * ("forces" in summary)}

## Reproduction card

```json
{_json(card).decode().strip()}
```
"""
