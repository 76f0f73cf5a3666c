"""Results of other models, kept in the run's report as numbers, table, curves and text."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.ticker import NullFormatter

from experiments import program
from hdgnn_jax.data.targets import Target
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically, write_json
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.training.plots import BLUE, ORANGE, RED, empty_figure, png, superscripts, tidy
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import markdown_table, print_table
from hdgnn_jax.types import Config, Fields, Json

FILE = "peers.json"
MODELS = {"painn": "PaiNN", "schnet": "SchNet"}
COLOURS = {"painn": ORANGE, "schnet": RED}
TITLE, NEXT = "## Beside other models\n", "## Reproduction card\n"
"""The headings of our section in `report.md` and of the section after it."""
COLUMNS = ("model", "parameters", "seconds", "molecules seen", "rate", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that all results in one table must share.

    Attributes:
      seconds: duration of each training.
      trial_seconds: duration of the trial of each rate.
      rates: learning rates that are tried.
      batch_size: molecules in a batch.
      cutoff: Å.
      cores: number of processor cores.
    """

    seconds: float
    trial_seconds: float
    rates: tuple[float, ...]
    batch_size: int
    cutoff: float
    cores: int

    def to_dict(self) -> Json:
        """The settings as they read back from JSON."""
        content: Json = json.loads(json.dumps(dataclasses.asdict(self)))
        return content


def read(workdir: pathlib.Path, settings: Settings) -> Json:
    """The stored results, by model; empty where they have other settings.

    Raises:
      InputError: where their file is damaged.
    """
    path = workdir / "report" / FILE
    if not path.exists():
        return {}
    content = program.read_json(path, dict)
    there, here = content["settings"], settings.to_dict()
    differing = [name for name in here if there.get(name) != here[name]]
    if not differing:
        models: Json = content["models"]
        return models
    shown = ", ".join(f"{k} = {there.get(k)} there, {here[k]} here" for k in differing)
    print(f"{path} has results of other settings ({shown}): the first new one replaces them")
    return {}


def write(
    workdir: pathlib.Path, target: Target, settings: Settings, models: Fields
) -> None:
    """Writes `peers.json`: for each model `software`, `parameters`, `size`, `trials` and `runs`."""
    content = {
        "target": target.name,
        "unit": target.unit,
        "settings": settings.to_dict(),
        "models": models,
    }
    write_json(workdir / "report" / FILE, content)


def best_rate(model: Fields) -> float:
    """The rate that was best on validation.

    Raises:
      InputError: where no rate gave a finite error.
    """
    tried = [trial for trial in model["trials"] if trial["validation"] is not None]
    if not tried:
        raise InputError("no rate gave a finite validation error")
    best: float = min(tried, key=lambda trial: trial["validation"])["rate"]
    return best


def report(workdir: pathlib.Path, settings: Settings, models: Fields) -> None:
    """Prints the table, draws the curves, and puts both into the run's `report.md`."""
    folder = workdir / "report"
    summary = json.loads((folder / "summary.json").read_text())
    config = json.loads((folder / "card.json").read_text())["config"]
    ours = course(workdir, config["training"]["batch_size"])
    rows = [
        _ours(summary, config, ours),
        *(row for name, model in models.items() for row in _of_model(name, model)),
        *_baselines(summary),
    ]
    unit = summary["unit"]
    print_table(f"Mean absolute error of {summary['target']} [{unit}]", COLUMNS, rows)
    write_atomically(folder / "peers.png", draw(ours, models, summary["target"], unit))
    path = folder / "report.md"
    text = with_section(path.read_text(), section(summary, settings, models, rows))
    write_atomically(path, text.encode())
    print(f"beside other models: {path}")


def course(workdir: pathlib.Path, batch_size: int) -> list[dict[str, float]]:
    """A row for each validation of our run: `molecules`, `validation`, `seconds` since the start.

    The seconds are NaN where an earlier revision, which did not record them, trained the run.
    """
    return [
        {
            "molecules": row["step"] * batch_size,
            "seconds": row.get("seconds", math.nan),
            "validation": row["validation_mae"],
        }
        for row in read_metrics(workdir)
        if math.isfinite(row.get("validation_mae", math.nan))
    ]


def draw(
    ours: Sequence[Mapping[str, float]], models: Fields, target: str, unit: str
) -> bytes:
    """Validation error against seconds and against molecules seen, as PNG."""
    figure = empty_figure(9, 4)
    panels = figure.subplots(1, 2, sharey=True)
    curves = [("HDGNN", BLUE, ours)] + [
        (MODELS[name] if k == 0 else None, COLOURS[name], run["curve"])
        for name, model in models.items()
        for k, run in enumerate(model["runs"])
    ]
    for axes, key, label in zip(
        panels, ("seconds", "molecules"), ("seconds", "molecules seen"), strict=True
    ):
        for name, colour, rows in curves:
            x, y = ([row[of] for row in rows] for of in (key, "validation"))
            axes.plot(x, y, color=colour, lw=1.4, marker="o", ms=3, label=name)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        tidy(axes)
    panels[1].set_xscale("log")
    for axes in panels:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    # Labels of minor ticks would overlap.
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel(f"validation MAE of {target} [{superscripts(unit)}]")
    panels[1].legend(frameon=False, fontsize=9)
    return png(figure)


def section(
    summary: Fields,
    settings: Settings,
    models: Fields,
    rows: Sequence[Sequence[str]],
) -> str:
    """The text of the section, with its heading."""
    software = " and ".join(
        f"{MODELS[name]} ({model['software']}, {model['size']})" for name, model in models.items()
    )
    rates = ", ".join(f"{rate:g}" for rate in settings.rates)
    forces = " Forces, on which HDGNN was trained too, are left out." * ("forces" in summary)
    return f"""{TITLE}
{software}, on the same training molecules. Each had \
{settings.seconds:,.0f} s for training alone, on {settings.cores} core(s); the seconds of HDGNN \
have data set, compilation and report in them. The rate is the best on validation of {rates}, each \
tried for {settings.trial_seconds:,.0f} s, which come on top. Batches of {settings.batch_size}, \
cutoff {settings.cutoff:g} Å; targets without the linear fit to the composition.{forces}

Mean absolute error in {summary["unit"]}; validation: of the molecules that are predicted in \
training.

{markdown_table(COLUMNS, rows)}

![Error against time and molecules](peers.png)

"""


def with_section(text: str, new: str) -> str:
    """The report with the new section, which replaces an earlier one."""
    before, title, after = text.partition(NEXT)
    return before.partition(TITLE)[0] + new + title + after


def _ours(
    summary: Fields, config: Config, ours: Sequence[Mapping[str, float]]
) -> tuple[str, ...]:
    training = config["training"]
    return (
        "HDGNN",
        f"{summary['parameters']:,}",
        f"{summary['seconds']:,.0f}",
        f"{training['steps'] * training['batch_size']:,}",
        f"{config['optimizer']['learning_rate']:g}",
        format_mae(min((row["validation"] for row in ours), default=math.nan)),
        format_mae(summary["mae"]),
    )


def _of_model(name: str, model: Fields) -> Iterator[tuple[str, ...]]:
    """Yields a row for each seed."""
    for run in model["runs"]:
        yield (
            MODELS[name] + f", seed {run['seed']}" * (len(model["runs"]) > 1),
            f"{model['parameters']:,}",
            f"{run['seconds']:,.0f}",
            f"{run['molecules']:,}",
            f"{run['rate']:g}",
            format_mae(run["validation"]),
            format_mae(run["test"]),
        )


def _baselines(summary: Fields) -> Iterator[tuple[str, ...]]:
    """Yields a row for each baseline, without its validation error: it is of the whole split."""
    for key, mae in summary.items():
        name = key.removeprefix("mae_")
        if name not in (key, "paper") and mae is not None:
            yield name.replace("_", " "), "", "", "", "", "", format_mae(mae)
