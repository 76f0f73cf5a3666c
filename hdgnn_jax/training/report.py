"""The report of a run: its errors beside the baselines' and the paper's, plots, predictions."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hdgnn_jax.data.targets import Accuracy
from hdgnn_jax.files import write_atomically
from hdgnn_jax.training import plots
from hdgnn_jax.training.result import SplitResult, component_names, format_mae
from hdgnn_jax.training.tables import markdown_table, print_table, print_text
from hdgnn_jax.types import Fields, Json


@dataclasses.dataclass(frozen=True)
class TargetReport:
    """The report of a target.

    Attributes:
      target: its name.
      unit: unit of all values.
      results: at least one split.
      paper: by split, the errors that the paper reports.
    """

    target: str
    unit: str
    results: tuple[SplitResult, ...]
    paper: Mapping[str, Accuracy]

    @property
    def headline(self) -> SplitResult:
        """The first split that is neither training nor validation, or else the last."""
        return (_tested(self.results) or [self.results[-1]])[0]

    @property
    def beaten(self) -> str:
        """Both errors, if that of the linear model is smaller on the headline split; else empty."""
        headline, unit = self.headline, self.unit
        if "linear" not in headline.baselines:
            return ""
        mae, linear = headline.mae, headline.accuracy("linear").mae
        better = f"{format_mae(linear)} {unit}, HDGNN {format_mae(mae)}"
        return better if mae >= linear else ""


def verdict(reports: Sequence[TargetReport]) -> str:
    """A line that says for which targets the linear model beats HDGNN; else empty."""
    beaten = [f"{report.target} ({report.beaten})" for report in reports if report.beaten]
    if not beaten:
        return ""
    return (
        f"A linear model is better on the {reports[0].headline.split} split for "
        f"{'; '.join(beaten)}. Train longer."
    )


def print_tables(reports: Sequence[TargetReport], note: str = "") -> None:
    """Prints errors beside the baselines and the paper.

    Several targets have a row each, or, where there are several test parts, a table.
    """
    in_rows = len(reports) > 1 and len(reports[0].results) <= 2
    for title, (header, *rows) in (
        [_overview(reports)] if in_rows else [table for r in reports for table in _tables(r)]
    ):
        words = [k for k, name in enumerate(header) if name in ("split", "target", "unit")]
        print_table(title, header, rows, words)
    for line in filter(None, (note, verdict(reports))):
        print_text(line)


def _overview(reports: Sequence[TargetReport]) -> tuple[str, list[tuple[str, ...]]]:
    """Title and rows of a table with a row for each target, and for forces."""
    found = {}
    for r in reports:
        found[r.target, r.unit] = _numbers(r.headline, r.paper)
        for (name, per), result in r.headline.slopes.items():
            found[name, f"{r.unit}/{per}"] = _numbers(result, {})
    columns = _columns(found.values())
    rows = [("target", "unit", *columns.values())] + [
        (target, unit, *(_cell(row, name) for name in columns))
        for (target, unit), row in found.items()
    ]
    title = f"Mean absolute errors on the {reports[0].headline.split} split"
    if limits := {f"{t:g} {r.unit}" for r in reports if (t := r.headline.threshold) is not None}:
        title += f", and shares of errors below {' or '.join(sorted(limits))}"
    return title, rows


def write_report(
    folder: str | pathlib.Path,
    reports: Sequence[TargetReport],
    *,
    history: Sequence[Fields],
    note: str = "",
    run: Fields,
    card: Fields,
) -> None:
    """Writes the report. Each file is replaced as a whole, so a crash leaves none half written.

    Each of several targets has a folder of its own and a row in `report.md`; `summary.json`,
    written last, then has `targets`.

    Args:
      folder: gets `summary.json`, `report.md`, `learning_curve.png`, `parity.png`, `card.json` and
        a `predictions_<split>.csv` per split; created if it is missing.
      reports: the reports of all targets.
      history: rows with `step` and, where they were measured, `train_loss` and `validation_mae`, or
        `validation_mae_<target>` for several targets.
      note: caveats of a comparison with the paper; empty without any.
      run: `seconds`, `compilations`, `padding_efficiency` (real share of the padded arrays, 0 to 1)
        and `parameters`.
      card: the card from `provenance.reproduction_card`.
    """
    folder = pathlib.Path(folder)
    if len(reports) == 1:
        _write_target(folder, reports[0], history, note, run, card)
        return
    for report in reports:
        own = f"validation_mae_{report.target}"
        rows = [
            {**row, **({"validation_mae": row[own]} if own in row else {})} for row in history
        ]
        _write_target(folder / report.target, report, rows, note, run, card)
    _write_overview(folder, reports, note, run, card)


def _write_overview(
    folder: pathlib.Path, reports: Sequence[TargetReport], note: str, run: Fields, card: Fields
) -> None:
    """The files of several targets together."""
    title, (header, *cells) = _overview(reports)
    lines = [f"# {title}", "", markdown_table(header, cells)]
    lines += ["", verdict(reports), "", f"Each target has a folder. {note}".strip(), ""]
    write_atomically(folder / "report.md", "\n".join(lines).encode())
    summary = {
        "split": reports[0].headline.split,
        "targets": {
            r.target: {"unit": r.unit, **_numbers(r.headline, r.paper)} for r in reports
        },
        **run,
    }
    for r in reports:
        for (name, per), result in r.headline.slopes.items():
            summary[name] = {"unit": f"{r.unit}/{per}", **_numbers(result, {})}
    write_atomically(folder / "card.json", _json(card))
    write_atomically(folder / "summary.json", _json(summary))


def _write_target(
    folder: pathlib.Path,
    report: TargetReport,
    history: Sequence[Fields],
    note: str,
    run: Fields,
    card: Fields,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    summary = _summary(report, note, run)
    files = {
        "card.json": _json(card),
        **_plots(report, history),
        "report.md": _markdown(summary, report, note, card).encode(),
        **{f"predictions_{r.split}.csv": _csv(r) for r in report.results},
        "summary.json": _json(summary),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


def _summary(report: TargetReport, note: str, run: Fields) -> Json:
    headline, unit = report.headline, report.unit
    splits = _rows(report.results, report.paper)
    summary = {
        "target": report.target,
        "unit": unit,
        "split": headline.split,
        **splits[headline.split],
        **{key: run[key] for key in ("seconds", "compilations", "padding_efficiency")},
        "parameters": run["parameters"],
        "splits": splits,
        **({"note": note} if note else {}),
    }
    for result in report.results:
        for (name, per), of in result.slopes.items():
            summary.setdefault(name, {"unit": f"{unit}/{per}"})[result.split] = _numbers(of, {})
    return summary


def _plots(report: TargetReport, history: Sequence[Fields]) -> dict[str, bytes]:
    """The PNG files of the report, by name."""
    headline, target, unit = report.headline, report.target, report.unit
    validation = next((r for r in report.results if r.split == "validation"), headline)
    figures = {
        "learning_curve.png": plots.learning_curve(
            history, validation, report.paper.get("test"), target, unit
        ),
        "parity.png": plots.parity(headline, target, unit),
    }
    if headline.forces is not None:
        figures["parity_forces.png"] = plots.parity(headline.forces, "force", f"{unit}/Å")
    return {name: plots.png(figure) for name, figure in figures.items()}


def _tested(results: Sequence[SplitResult]) -> list[SplitResult]:
    return [result for result in results if result.split not in ("train", "validation")]


def _numbers(result: SplitResult, paper: Mapping[str, Accuracy]) -> Json:
    """`n` and, of HDGNN, the baselines and the paper if it has errors, `mae` and `within`."""
    found: dict[str, Accuracy | None] = {"": result.accuracy()}
    found |= {f"_{name}": result.accuracy(name) for name in result.baselines}
    if paper:
        found["_paper"] = paper.get(result.split)
    numbers: Json = {"n": len(result.ids)}
    for name, accuracy in found.items():
        numbers[f"mae{name}"] = accuracy and accuracy.mae
        if result.threshold is not None:
            numbers[f"within{name}"] = accuracy and accuracy.within
    return numbers


def _rows(results: Sequence[SplitResult], paper: Mapping[str, Accuracy]) -> dict[str, Json]:
    """The numbers of each split and, where several are tested, their `mean`."""
    rows = {result.split: _numbers(result, paper) for result in results}
    tested = [rows[result.split] for result in _tested(results)]
    return {**rows, "mean": _mean(tested)} if len(tested) > 1 else rows


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
    rows = _rows(results, paper)
    columns = _columns(rows.values())
    labels = {"mean": f"mean of {len(_tested(results))}"}
    return [("split", "n", *columns.values())] + [
        (labels.get(split, split), f"{row['n']:,}", *(_cell(row, name) for name in columns))
        for split, row in rows.items()
    ]


def _columns(rows: Iterable[Fields]) -> dict[str, str]:
    """The heading of each column, by what follows `mae` in its key."""
    labels = {"": "HDGNN", "_paper": "paper (test)"}
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("mae"))
    names = [key.removeprefix("mae") for key in keys]
    return {name: labels.get(name, name.replace("_", " ").strip()) for name in names}


def _cell(row: Fields, name: str) -> str:
    mae, within = row.get(f"mae{name}"), row.get(f"within{name}")
    if mae is None:
        return "-"
    # The paper's errors keep their published digits.
    text = f"{mae:g}" if name == "_paper" else format_mae(mae)
    return text if within is None else f"{text} ({within:.2%})"


def _tables(report: TargetReport) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Titles and rows of the target's table, and of those of forces and stress, if trained on."""
    results, unit = report.results, report.unit
    tables = [(_title(results[0], report.target, unit), _table(results, report.paper))]
    for key in dict.fromkeys(key for result in results for key in result.slopes):
        name, per = key
        of_slopes = [result.slopes[key] for result in results if key in result.slopes]
        tables.append((_title(of_slopes[0], name, f"{unit}/{per}"), _table(of_slopes, {})))
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


def _markdown(summary: Fields, report: TargetReport, note: str, card: Fields) -> str:
    tables = [
        f"{title}:\n\n{markdown_table(header, rows)}\n"
        for title, (header, *rows) in _tables(report)
    ]
    beaten = verdict([report])
    return f"""# HDGNN on {summary["target"]}

Mean absolute error on the {summary["split"]} split: **{format_mae(summary["mae"])} \
{summary["unit"]}**.

{chr(10).join(tables)}{"".join(chr(10) + text + chr(10) for text in (note, beaten) if text)}
Trained in {summary["seconds"]:,.0f} s: {summary["parameters"]:,} parameters, \
{summary["compilations"]} compilations, {summary["padding_efficiency"]:.1%} of the padded arrays \
filled.

![Learning curve](learning_curve.png)

![Truth and prediction](parity.png)
{"![Forces](parity_forces.png)" * (report.headline.forces is not None)}

## Reproduction card

```json
{_json(card).decode().strip()}
```
"""
