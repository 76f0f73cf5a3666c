"""Trains PaiNN and SchNet of SchNetPack on a finished run's molecules, for as long as it took.

    python -m experiments.peer --workdir=runs/quick

The models get the same training molecules and the same wall-clock seconds on the same cores, each
at the best of three rates on validation. Results go to report/peers.json and peers.png in the
folder of the run, and into its report.md. The same command resumes an interrupted one. The run must
predict one number per structure of QM9 or of a file that ASE reads; forces are left out.

SchNetPack needs torch. If this environment lacks it, name another with --python:

    python -m venv peers && peers/bin/pip install torch schnetpack==2.1.1
    python -m experiments.peer --workdir=runs/quick --python=peers/bin/python
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from absl import flags

from experiments import program

PYTHON = flags.DEFINE_string(
    "python", None, "FILE, interpreter of an environment with SchNetPack, if not this one"
)
SECONDS = flags.DEFINE_float(
    "seconds", None, "S, duration of each training, if not that of the run", lower_bound=1
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "N, molecules in a batch", lower_bound=1)
CUTOFF = flags.DEFINE_float("cutoff", None, "R, Å, if not the run's", lower_bound=0.1)

PROGRAM = program.Program(str(__doc__), [program.WORKDIR], [program.SEEDS], resumes=True)
if __name__ == "__main__":
    PROGRAM.begin()

import numpy as np
from rich.progress import Progress

from experiments.peer import results
from experiments.peer.results import MODELS, Settings
from hdgnn_jax.cpu import cores
from hdgnn_jax.data.fitted import names_of
from hdgnn_jax.data.is2re import IS2RE
from hdgnn_jax.data.targets import Reference
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.neighbors import find_neighbors, within_cutoff
from hdgnn_jax.inference.weights import record_of
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.results import refuse_changed_data
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.workdir import occupied
from hdgnn_jax.types import Fields, Json

TRAINER = pathlib.Path(__file__).with_name("schnetpack_models.py")
RATES = (5e-4, 1e-3, 3e-3)
TRIAL = 0.1
"""Each rate is tried for this share of the run's time, in addition to the training itself."""
VALIDATIONS = 12

logger = logging.getLogger("hdgnn_jax.peer")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
      python: interpreter that has SchNetPack.
      seconds: duration of each training; None: as long as the run.
      batch_size: molecules in a batch.
      cutoff: Å; None: the run's.
      seeds: number of trainings of each model.
    """

    python: str = sys.executable
    seconds: float | None = None
    batch_size: int = 32
    cutoff: float | None = None
    seeds: int = 1


def main() -> None:
    """The program."""
    seeds = program.SEEDS.value or 1
    python = PYTHON.value or sys.executable
    options = Options(python, SECONDS.value, BATCH_SIZE.value, CUTOFF.value, seeds)
    run(program.workdir(), options)


def run(workdir: pathlib.Path, options: Options) -> None:
    """Trains what is missing, then writes the run's report again.

    Raises:
      InputError: where other models cannot be compared with the run, or SchNetPack is missing.
      QM9Error, StructureError, CheckpointError: where data or run cannot be read.
    """
    summary_file = workdir / "report" / "summary.json"
    if not summary_file.exists():
        raise InputError(
            f"{workdir} holds no finished run: train it first, with python -m experiments.train"
        )
    with occupied(workdir):
        summary = json.loads(summary_file.read_text())
        card = json.loads((workdir / "report" / "card.json").read_text())
        task = comparable(workdir)
        seconds = summary["seconds"] if options.seconds is None else options.seconds
        settings = Settings(
            seconds=seconds,
            trial_seconds=TRIAL * seconds,
            rates=RATES,
            batch_size=options.batch_size,
            cutoff=task.model.hyper.cutoff if options.cutoff is None else options.cutoff,
            cores=cores(),
        )
        models = results.read(workdir, settings)
        there = [models.get(name, {}) for name in MODELS]
        if any(rates_left(model, settings) or seeds_left(model, options.seeds) for model in there):
            # What is finished can be reported without the data.
            refuse_changed_data(record_of(workdir), task.data, workdir, "train again")
            warn_of_other_hardware(card["hardware"], settings)
            train_missing(workdir, task, settings, models, options)
        results.report(workdir, settings, models)


def comparable(workdir: pathlib.Path) -> Task:
    """The task of a run, which PaiNN and SchNet must be able to learn.

    Raises:
      InputError: saying why they cannot learn it.
      CheckpointError: where an earlier revision trained the run.
    """
    task = Task.from_record(record_of(workdir))
    if isinstance(task.data, IS2RE):
        raise InputError(
            f"{workdir} was trained on {task.data.title}: the other models are trained on QM9 "
            "and on files of ASE"
        )
    if len(task.fitted) > 1 or task.fitted[0].target.rank:
        kinds = ("several numbers", "a vector", "a tensor")
        kind = kinds[task.fitted[0].target.rank if len(task.fitted) == 1 else 0]
        raise InputError(
            f"{workdir} predicts {names_of(task.fitted)}, {kind}: the other models are trained on "
            "one number for a structure"
        )
    if task.weights.of_slopes:
        learned = names_of(task.fitted)
        logger.warning("forces and stress are left out: the other models learn %s alone", learned)
    return task


def warn_of_other_hardware(hardware: Fields, settings: Settings) -> None:
    """Warns where the run had other cores or devices: its seconds are then not comparable."""
    if hardware["jax_backend"] != "cpu":
        logger.warning("the run had a %s; the other models have a CPU", hardware["jax_backend"])
    elif hardware["cores"] != settings.cores:
        logger.warning(
            "the run had %s cores, the other models have %d: the same seconds are other work",
            hardware["cores"], settings.cores,
        )  # fmt: skip


def rates_left(model: Fields, settings: Settings) -> list[float]:
    """The rates that have no trial of a model yet."""
    tried = [trial["rate"] for trial in model.get("trials", [])]
    return [rate for rate in settings.rates if rate not in tried]


def seeds_left(model: Fields, seeds: int) -> list[int]:
    """The seeds, of the first `seeds`, that have no run of a model yet."""
    done = [run["seed"] for run in model.get("runs", [])]
    return [seed for seed in range(seeds) if seed not in done]


def train_missing(
    workdir: pathlib.Path,
    task: Task,
    settings: Settings,
    models: Json,
    options: Options,
) -> None:
    """Trains what `models` lacks; each result is on disk before the next training begins.

    Raises:
      InputError: where SchNetPack is missing, or a training fails.
    """
    versions = check_interpreter(options.python)
    title = f"SchNetPack {versions['schnetpack']}"
    each = settings.trial_seconds * len(settings.rates) + settings.seconds * options.seeds
    print(
        f"PaiNN and SchNet, {title}: each {len(settings.rates)} rates for "
        f"{settings.trial_seconds:.0f} s, the best for {settings.seconds:.0f} s, seeds "
        f"{options.seeds}; {each * len(MODELS) / 60:.0f} minutes in all, and the time to validate"
    )
    with tempfile.TemporaryDirectory() as folder:
        molecules = pathlib.Path(folder) / "molecules.npz"
        write_molecules(molecules, task, options.cutoff)

        def add(kind: str, name: str, **wanted: float) -> None:
            one = {"model": name, "batch_size": settings.batch_size, **wanted}
            found, model = train(options.python, molecules, one), models[name]
            model[kind].append(found)
            model.update({key: found.pop(key) for key in ("parameters", "size")})
            results.write(workdir, task.fitted[0].target, settings, models)

        for name in MODELS:
            model = models.setdefault(name, {"software": title, "trials": [], "runs": []})
            for rate in rates_left(model, settings):
                add("trials", name, seed=0, rate=rate, seconds=settings.trial_seconds,
                    validations=1, test=False)  # fmt: skip
            for seed in seeds_left(model, options.seeds):
                add("runs", name, seed=seed, rate=results.best_rate(model),
                    seconds=settings.seconds, validations=VALIDATIONS, test=True)  # fmt: skip


def check_interpreter(python: str) -> dict[str, str]:
    """The versions of SchNetPack and torch.

    Raises:
      InputError: saying what to install.
    """
    try:
        found = subprocess.run(
            [python, str(TRAINER)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"--python={python} cannot be started: {error.strerror}") from error
    if "ModuleNotFoundError" in found.stderr:
        raise InputError(
            f"{python} has no SchNetPack ({_last_line(found.stderr)}): "
            "python -m venv peers && peers/bin/pip install torch schnetpack==2.1.1, "
            "then the same command with --python=peers/bin/python"
        )
    if found.returncode:
        raise InputError(f"SchNetPack cannot be used by {python}: {_last_line(found.stderr)}")
    try:
        versions: dict[str, str] = json.loads(found.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise InputError(f"--python={python} is no Python: it does not run a script") from None
    return versions


def write_molecules(path: pathlib.Path, task: Task, cutoff: float | None) -> None:
    """Writes the trainer's input: `NAME_KEY` for each part, `cutoff` in Å, and `scale`.

    Args:
      path: FILE.npz.
      task: the run's task.
      cutoff: Å; None: the run's.
    """
    validation = task.examples("validation")
    parts = {
        "train": task.examples("train"),
        "validation": validation.first(task.config["training"]["validation_size"]),
        "test": task.examples("test"),
    }
    train, target = parts["train"], task.fitted[0].target
    # The usual reference, whichever the run itself has.
    reference = Reference.fit(
        target, task.model.hyper.elements, train.structures, train.labels[target.name],
        kind="fitted",
    )  # fmt: skip
    arrays: Json = {
        f"{name}_{key}": value
        for name, molecules in parts.items()
        for key, value in columns(molecules, target.name, reference, cutoff).items()
    }
    cutoff = task.model.hyper.cutoff if cutoff is None else cutoff
    np.savez(path, cutoff=cutoff, scale=reference.scale, **arrays)


def columns(
    molecules: Examples, target: str, reference: Reference, cutoff: float | None
) -> dict[str, np.ndarray]:
    """Arrays end to end: molecule k has atoms `atoms[k]` to `atoms[k + 1]`, edges likewise.

    Args:
      molecules: a part of the split.
      target: the target that is learned.
      reference: the reference that is subtracted from it.
      cutoff: Å; None: the run's.
    """
    structures = molecules.structures
    if cutoff is None:
        neighbors = within_cutoff(structures, molecules.neighbors).found()
    else:
        neighbors = find_neighbors(structures, cutoff)
    found = {
        "atoms": structures.offsets,
        "numbers": structures.atomic_numbers,
        "positions": structures.positions.astype(np.float32),
        "edges": neighbors.offsets,
        "receivers": neighbors.receivers,
        "senders": neighbors.senders,
        "target": reference.standardise(structures, molecules.labels[target]),
    }
    if neighbors.images is not None:
        cells = np.repeat(structures.cells, neighbors.n_edges, axis=0)
        shifts = np.einsum("ek,ekx->ex", neighbors.images, cells)
        found["shifts"] = shifts.astype(np.float32)
    return found


def train(python: str, molecules: pathlib.Path, task: Fields) -> Json:
    """Trains one model, in a process of its own, with a progress bar.

    Args:
      python: interpreter.
      molecules: the file of `write_molecules`.
      task: see `schnetpack_models.py`.

    Returns:
      Rate, seed, seconds, molecules, steps, validation and test MAE, parameters, and the `curve`:
      rows of seconds, molecules and validation MAE.

    Raises:
      InputError: where the training fails or diverges. A trial that diverges has None as its error.
    """
    title = f"{MODELS[task['model']]}, rate {task['rate']:g}"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [python, str(TRAINER), str(molecules), json.dumps(task)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
        progress_bar("molecules") as progress,
    ):
        try:
            assert process.stdout is not None
            found, curve = follow(process.stdout, progress, title, task["seconds"])
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        said = errors.read()
    if not found:
        raise InputError(f"{title}: stopped with exit code {code}: {_last_line(said)}")
    if task["test"] and None in (found["validation"], found["test"]):
        raise InputError(f"{title}: diverged, its errors are no finite numbers")
    del found["found"]
    return {"seed": task["seed"], "rate": task["rate"], **found, "curve": curve}


def follow(
    lines: Iterable[str], progress: Progress, title: str, seconds: float
) -> tuple[Json, list[Json]]:
    """Shows the output of a training of this many seconds, until it ends.

    Returns:
      The results, empty where it printed none; and the rows that have a validation error.
    """
    found: Json = {}
    curve: list[Json] = []
    bar = progress.add_task(title, total=seconds)
    for line in lines:
        # Libraries may print other lines.
        row = json.loads(line) if line.startswith("{") else {}
        if not row or "found" in row:
            found = row or found
            continue
        if row.get("validation") is not None:
            curve.append(row)
            progress.update(bar, description=f"{title}, MAE {row['validation']:.4g}")
        # The bar counts seconds; its rate is in molecules per second.
        per = row["molecules"] / max(row["seconds"], 1e-9)
        progress.update(bar, completed=min(row["seconds"], seconds), per=per)
    return found, curve


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


if __name__ == "__main__":
    PROGRAM.run(main)
