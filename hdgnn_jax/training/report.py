"""The report a run leaves: its errors beside the baselines and the paper, plots, predictions."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hdgnn_jax.training.metrics import write_atomically

BLUE, ORANGE, GREY, RED, GREEN = "#2166ac", "#e08214", "#777777", "#b2182b", "#1b7837"
CROWDED = 3000
"""Points from which a scatter plot hides its own density."""


class Accuracy(NamedTuple):
    """Errors on one split.

    Attributes:
      mae: mean absolute error, in the target's unit.
      within: share of errors below the target's threshold, 0 to 1; None where it has none.
    """

    mae: float
    within: float | None = None


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """Truth and predictions on one split, all in the unit the target is reported in.

    Attributes:
      split: "train", "validation", "test", ...
      ids: [n] int64, the number of each structure in its data set.
      truth: [n] float64, or [n, ...] of vectors and tensors, whose errors are those of a component.
      prediction: the same, the model's.
      baselines: by name, as `mean_predictor`: the same, what the model has to beat.
      threshold: errors below it are counted too; None: they are not.
      forces: of every atom, in the unit per Å, with the ids of its structure; None where the model
        was not trained on forces.
    """

    split: str
    ids: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    baselines: Mapping[str, np.ndarray]
    threshold: float | None = None
    forces: SplitResult | None = None

    @property
    def mae(self) -> float:
        """Mean absolute error of the model."""
        return self.accuracy().mae

    def accuracy(self, baseline: str | None = None) -> Accuracy:
        """Of the model, or of a baseline."""
        answer = self.prediction if baseline is None else self.baselines[baseline]
        error = np.abs(answer - self.truth)
        within = None if self.threshold is None else float(np.mean(error < self.threshold))
        return Accuracy(float(np.mean(error)), within)


def format_mae(mae: float) -> str:
    """A mean absolute error with 4 significant digits, as every command prints it.

    >>> format_mae(12.3), format_mae(0.0123456), format_mae(1234.56)
    ('12.30', '0.01235', '1235')
    """
    rounded = float(f"{mae:.4g}")
    return f"{rounded:.0f}" if rounded >= 1000 else f"{rounded:#.4g}"


def verdict(results: Sequence[SplitResult], unit: str) -> str:
    """One line where the model of the headline does not beat the linear model; else empty."""
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
    history: Sequence[Mapping[str, Any]],
    paper: Mapping[str, Accuracy],
    note: str = "",
    run: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Writes the report; each file is replaced whole, so a crash leaves none half written.

    The split of the headline is the first that is neither training nor validation, or the last.

    Args:
      folder: where `summary.json`, `report.md`, `learning_curve.png`, `parity.png`, `card.json` and
        a `predictions_<split>.csv` per split go; created if it is missing.
      target: name of the predicted quantity.
      unit: in which every value of `results`, `validation_mae` and `paper` is.
      results: at least one split.
      history: rows with `step` and, each where it was measured, `train_loss` and `validation_mae`.
      paper: by split, what the paper reports on its test split.
      note: what has to be known to compare with it.
      run: `seconds`, `compilations`, `padding_efficiency` (real share of the padded arrays, 0 to 1)
        and `parameters`.
      card: what `card.reproduction_card` returns.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
    validation = next((r for r in results if r.split == "validation"), headline)
    files = {
        "summary.json": _json(summary),
        "card.json": _json(card),
        "learning_curve.png": _png(
            _learning_curve(history, validation, paper.get("test"), target, unit)
        ),
        "parity.png": _png(_parity(headline, target, unit)),
        **(
            {"parity_forces.png": _png(_parity(headline.forces, "force", f"{unit}/Å"))}
            if headline.forces
            else {}
        ),
        "report.md": _markdown(summary, results, paper, note, card).encode(),
        **{f"predictions_{r.split}.csv": _csv(r) for r in results},
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


def _tested(results: Sequence[SplitResult]) -> list[SplitResult]:
    return [result for result in results if result.split not in ("train", "validation")]


def _headline(results: Sequence[SplitResult]) -> SplitResult:
    return (_tested(results) or [results[-1]])[0]


def _accuracies(
    result: SplitResult, paper: Mapping[str, Accuracy]
) -> dict[str, Accuracy | None]:
    """The columns of the tables: HDGNN first, then the baselines, then the paper where it is."""
    columns: dict[str, Accuracy | None] = {"": result.accuracy()}
    columns |= {f"_{name}": result.accuracy(name) for name in result.baselines}
    return {**columns, "_paper": paper.get(result.split)} if paper else columns


def _numbers(result: SplitResult, paper: Mapping[str, Accuracy]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"n": len(result.ids)}
    for name, accuracy in _accuracies(result, paper).items():
        numbers[f"mae{name}"] = accuracy and accuracy.mae
        if result.threshold is not None:
            numbers[f"within{name}"] = accuracy and accuracy.within
    return numbers


def _mean(numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the errors over the splits, each counting once; None where one is missing."""

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
    """The tables' cells, a header first, a mean over the tested splits last."""
    rows = {result.split: _numbers(result, paper) for result in results}
    tested = [rows[result.split] for result in _tested(results)]
    if len(tested) > 1:
        rows[f"mean of {len(tested)}"] = _mean(tested)
    names = [key.removeprefix("mae") for key in next(iter(rows.values())) if key.startswith("mae")]
    labels = {"": "HDGNN", "_paper": "paper (test)"}
    header = ("split", "n", *(labels.get(name, name.replace("_", " ").strip()) for name in names))

    def cell(row: Mapping[str, Any], name: str) -> str:
        mae, within = row[f"mae{name}"], row.get(f"within{name}")
        if mae is None:
            return "-"
        # The paper's with the digits it was published with.
        text = f"{mae:g}" if name == "_paper" else format_mae(mae)
        return text if within is None else f"{text} ({within:.2%})"

    return [header] + [
        (split, f"{row['n']:,}", *(cell(row, name) for name in names))
        for split, row in rows.items()
    ]


def _tables(
    results: Sequence[SplitResult], target: str, unit: str, paper: Mapping[str, Accuracy]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    """The title and the cells of each table: of the target, and of forces where there are."""
    tables = [(_title(results[0], target, unit), _table(results, paper))]
    forces = [result.forces for result in results if result.forces]
    if forces:
        tables.append((_title(forces[0], "forces", f"{unit}/Å"), _table(forces, {})))
    return tables


def _learning_curve(
    history: Sequence[Mapping[str, Any]],
    validation: SplitResult,
    paper: Accuracy | None,
    target: str,
    unit: str,
) -> Figure:
    """Training loss above, validation error below with the errors to beat."""
    figure = empty_figure(7, 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    for axes, key, colour in ((top, "train_loss", GREY), (bottom, "validation_mae", BLUE)):
        points = [(row["step"], row[key]) for row in history if key in row]
        steps, values = np.array(points, float).reshape(-1, 2).T
        marker = "o" if len(points) <= 50 else None
        axes.plot(steps, values, color=colour, lw=1.4, marker=marker, ms=3, label="HDGNN")
        axes.set_yscale("log")
        tidy(axes)
    lines = zip(
        validation.baselines, (RED, ORANGE, GREEN), (":", "--", (0, (6, 1))), strict=False
    )
    for name, colour, style in lines:
        mae = validation.accuracy(name).mae
        label = f"{name.replace('_', ' ')}: {format_mae(mae)}"
        bottom.axhline(mae, color=colour, ls=style, lw=1.3, label=label)
    if paper is not None:
        label = f"paper (test): {paper.mae:g}"
        bottom.axhline(paper.mae, color="black", ls="-.", lw=1.3, label=label)
    top.set_title(f"Learning curve of {target}")
    top.set_ylabel("training loss")
    bottom.set_ylabel(f"validation MAE [{superscripts(unit)}]")
    bottom.set_xlabel("training step")
    bottom.set_xlim(left=0)
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    bottom.legend(frameon=False, fontsize=9)
    return figure


def _parity(result: SplitResult, target: str, unit: str) -> Figure:
    """Prediction against truth, with the distribution of the errors in the empty corner."""
    figure = empty_figure(6.4, 5.6)
    axes = figure.subplots()
    truth, prediction = result.truth.ravel(), result.prediction.ravel()
    both = np.concatenate([truth, prediction])
    margin = 0.04 * np.ptp(both) or 1.0
    limits = (both.min() - margin, both.max() + margin)
    if len(truth) > CROWDED:
        density = axes.hexbin(
            truth, prediction, gridsize=90, extent=limits * 2, bins="log",
            mincnt=1, cmap="viridis", linewidths=0.1,
        )  # fmt: skip
        figure.colorbar(density, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="structures")
    else:
        axes.scatter(truth, prediction, s=14, color=BLUE, alpha=0.6, linewidths=0)
    axes.plot(limits, limits, color=RED, lw=0.8, ls="--")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"true {target} [{superscripts(unit)}]")
    axes.set_ylabel(f"predicted {target} [{superscripts(unit)}]")
    axes.set_title(
        f"{target}, {result.split} split: MAE {format_mae(result.mae)} {superscripts(unit)} "
        f"(n = {len(truth):,})"
    )
    tidy(axes)

    inset = axes.inset_axes((0.6, 0.12, 0.36, 0.24))
    reach = 5 * result.mae or 1.0
    inset.hist(prediction - truth, bins=41, range=(-reach, reach), color=BLUE)
    inset.set_title(f"prediction - truth [{superscripts(unit)}]", fontsize=8)
    inset.tick_params(labelsize=8)
    inset.set_yticks([])
    inset.spines[["top", "right", "left"]].set_visible(False)
    return figure


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure; made without pyplot, whose state every caller would share."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Grid and frame as all of the report's plots have them."""
    axes.grid(True, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def superscripts(unit: str) -> str:
    """bohr^3 as matplotlib raises it."""
    return re.sub(r"\^(\d+)", r"$^{\1}$", unit)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _csv(result: SplitResult) -> bytes:
    """Python prints a float64 with the digits that read back to the same bits."""
    names = component_names(result.truth.shape[1:])
    header = ["id", *(f"truth{name}" for name in names), *(f"prediction{name}" for name in names)]
    n = len(result.ids)
    both = np.hstack([result.truth.reshape(n, -1), result.prediction.reshape(n, -1)])
    rows = zip(result.ids.tolist(), both.tolist(), strict=True)
    lines = [",".join([str(i), *map(repr, row)]) for i, row in rows]
    return "\n".join([",".join(header), *lines, ""]).encode()


def component_names(shape: tuple[int, ...]) -> list[str]:
    """What columns of a value of a shape are called, after its name.

    >>> component_names(()), component_names((3,))
    ([''], ['_x', '_y', '_z'])
    """
    return ["_" * bool(shape) + "".join(xyz) for xyz in itertools.product("xyz", repeat=len(shape))]


def _markdown(
    summary: Mapping[str, Any],
    results: Sequence[SplitResult],
    paper: Mapping[str, Accuracy],
    note: str,
    card: Mapping[str, Any],
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
