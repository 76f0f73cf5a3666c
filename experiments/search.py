"""Searches for a recipe: many short runs, longer runs of the best, several seeds of the finalists.

    python -m experiments.search --config=experiments/configs/qm9.py:quick --space=experiments/spaces/qm9_quick.json --workdir=runs/search --budget=600

The method is successive halving. The --candidates are the config as it is and draws from the space.
In each rung the best 1 in --eta goes on to the next, where runs have --eta times the seconds; a run
of the last rung has --budget seconds. They count steps alone: compilation, validation and reading
the data come on top, so that short runs are compared by what they learn. The best --finalists are
trained again with --seeds seeds that no rung used. All choices are made on validation; only the
winner is tested, once, at the end.

The same command resumes an interrupted one. DIR/search.json has the state; DIR/rung1/007 is a run.
Runs are limited by time, so run nothing else beside a search.
"""  # noqa: E501, one command

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import time

from absl import flags

from experiments import program

SPACE = flags.DEFINE_string(
    "space", None, "FILE.json, the fields that vary: see experiments/spaces"
)
CANDIDATES = flags.DEFINE_integer("candidates", 27, "N, runs of the first rung", lower_bound=1)
ETA = flags.DEFINE_integer("eta", 3, "N: one candidate in N goes on", lower_bound=2)
RUNGS = flags.DEFINE_integer("rungs", 3, "N, number of rungs", lower_bound=1)
FINALISTS = flags.DEFINE_integer("finalists", 3, "N, candidates of the finals", lower_bound=1)
BUDGET = flags.DEFINE_float("budget", 600, "SECONDS of steps, in the last rung", lower_bound=0)

PROGRAM = program.Program(
    str(__doc__), [program.CONFIG, program.WORKDIR, SPACE], [program.PAGE, program.SEEDS],
    resumes=True,
)
if __name__ == "__main__":
    PROGRAM.begin()

import jax
import numpy as np

from experiments import search_page, search_space, train
from experiments.search_record import Candidate, Plan, Search, Trial
from hdgnn_jax import cpu
from hdgnn_jax.config import with_fields
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.inference.weights import shapes
from hdgnn_jax.run.chosen import targets_of
from hdgnn_jax.run.task import model_of
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import DivergedError, StoppedError
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.workdir import occupied
from hdgnn_jax.types import Json

PROBE = 20
"""Number of steps that time a candidate."""
FAILURES = (DivergedError, ValueError, MemoryError, jax.errors.JaxRuntimeError)
"""Errors that put a candidate out. Others, such as bad data or a full disk, end the search."""


def main() -> None:
    """The program."""
    config = program.read_config()
    seeds = 3 if program.SEEDS.value is None else program.SEEDS.value
    plan = Plan(
        program.workdir(), config, search_space.read(str(SPACE.value), config), CANDIDATES.value,
        ETA.value, RUNGS.value, FINALISTS.value, seeds, BUDGET.value,
    )  # fmt: skip
    run(plan, pathlib.Path(program.PAGE.value) if program.PAGE.value else None)


def run(plan: Plan, page: pathlib.Path | None) -> None:
    """Searches and tests the winner; resumes an earlier call.

    Raises:
      InputError: for a plan or a space that cannot be used, or where no candidate is left.
      CheckpointError: where the folder holds another search.
      Other errors as `train.run` does, unless they are in `FAILURES`.
    """
    plan.refuse()
    target, *others = targets_of(plan.config)
    if others:
        raise InputError("a search is for one target: set config.target to one of them")
    with occupied(plan.workdir):
        search = begin(plan)
        progress = Progress(search)
        if search.left()[1]:
            # Builds the cache of the data; otherwise the first run would, and seem slower.
            dataset(plan.config).part("train", target.name)
        for rung in range(plan.rungs):
            run_rung(search, rung, progress)
        run_finals(search, progress)
        test_winner(search)
    search_page.print_end(search)
    if page is not None:
        search_page.write(page, search)


def begin(plan: Plan) -> Search:
    """The search of an earlier call, or a new one."""
    file = plan.workdir / "search.json"
    if file.exists():
        return Search.from_dict(plan, program.read_json(file, dict))
    changed = search_space.candidates(plan.space, plan.config, plan.candidates)
    search = Search(plan, [Candidate(k, fields) for k, fields in enumerate(changed)])
    save(search)
    return search


def run_rung(search: Search, rung: int, progress: Progress) -> None:
    """Does the missing runs of a rung, and puts out all candidates but the best."""
    plan, members = search.plan, search.members(rung)
    new = False
    for candidate in members:
        if candidate.out is None and len(candidate.rungs) == rung:
            new = True
            progress.show(f"rung {rung + 1}, candidate {candidate.index}", candidate)
            folder = plan.folder(rung, candidate.index)
            attempt(search, candidate, plan.seconds(rung), plan.config["seed"], folder,
                    candidate.rungs)  # fmt: skip
    kept = search.members(rung + 1)
    if not kept:
        first = members[0].out
        raise InputError(f"no candidate of rung {rung + 1} is left; the first failed: {first}")
    for candidate in members:
        if candidate.out is None and candidate not in kept:
            candidate.out = f"rung {rung + 1}: not among the best {len(kept)}"
    save(search)
    if new:
        search_page.print_rung(search, rung)


def run_finals(search: Search, progress: Progress) -> None:
    """Trains the finalists with seeds that no rung used."""
    plan = search.plan
    finalists = search.members(plan.rungs)
    # The loop over seeds is the outer one, so that an unfinished part compares all finalists.
    for k in range(plan.seeds):
        for candidate in finalists:
            if candidate.out is None and len(candidate.finals) == k:
                seed = plan.final_seed(k)
                progress.show(f"finals, candidate {candidate.index}, seed {seed}", candidate)
                folder = plan.workdir / "finals" / f"{candidate.index:03}" / f"seed{seed}"
                attempt(search, candidate, plan.budget, seed, folder, candidate.finals)
    if not search.complete():
        raise InputError(f"no finalist is left; the first failed: {finalists[0].out}")


def test_winner(search: Search) -> None:
    """Tests the winner's run of the last rung, which has the config's own seed."""
    if search.test is not None:
        return
    plan, winner = search.plan, search.complete()[0]
    config = search.config(winner, winner.rungs[-1].steps, plan.config["seed"])
    folder = plan.folder(plan.rungs - 1, winner.index)
    search.test = test(config, folder)
    save(search)


def attempt(
    search: Search,
    candidate: Candidate,
    seconds: float,
    seed: int,
    folder: pathlib.Path,
    into: list[Trial],
) -> None:
    """Runs a candidate, after timing it if needed; a candidate that fails is out, with a reason."""
    plan = search.plan
    try:
        if candidate.step_seconds is None:
            config = search.config(candidate, plan.config["training"]["steps"], seed)
            candidate.parameters, candidate.step_seconds = measure(config, plan.workdir / "probe")
            # Saved before the run, because resuming it needs the same number of steps.
            save(search)
        config = search.config(candidate, candidate.steps(seconds), seed)
        search_space.refuse(config)
        into.append(trial(config, folder))
    except FAILURES as error:
        where = folder.relative_to(plan.workdir)
        candidate.out = f"{where}: {' '.join(str(error).split())[:300]}"
        print(f"candidate {candidate.index} is out: {candidate.out}")
    save(search)
    # A hundred compiled programs would take some GiB.
    jax.clear_caches()
    cpu.release()


def measure(config: Json, folder: pathlib.Path) -> tuple[int, float]:
    """The number of a candidate's parameters, and seconds of a step, from its first steps.

    The steps are those of a run of the config's own length, since padded shapes depend on it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    times: list[float] = []

    def stop(step: int) -> bool:
        times.append(time.monotonic())
        return step >= PROBE

    # So the host waits for the devices after each step.
    config = with_fields(config, {"training.log_every": 1})
    with contextlib.suppress(StoppedError):
        train.run(config, folder, stop, report=False)
    shutil.rmtree(folder, ignore_errors=True)
    gaps = np.diff(times)
    if not len(gaps):
        raise InputError("training.steps of the config must be at least 2, to time a candidate")
    # Much longer steps compiled another shape or validated, and are left out.
    step = float(np.mean(gaps[gaps <= 3 * np.median(gaps)]))
    model = model_of(config, neighbors=1.0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes(model)))
    return parameters, step


def trial(config: Json, folder: pathlib.Path) -> Trial:
    """Trains a run, or the rest of it, without a test.

    The error is that of its best weights, which a report would use.
    """
    train.run(config, folder, report=False)
    rows = [row.get("validation_mae", np.nan) for row in read_metrics(folder)]
    if np.isnan(rows).all():
        raise InputError("no validation error is a finite number")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        seconds = Record.of(checkpoints).course.seconds
    return Trial(config["training"]["steps"], seconds, float(np.nanmin(rows)))


def test(config: Json, folder: pathlib.Path) -> Json:
    """The summary of a run's report; makes the report if it is missing."""
    path = folder / "report" / "summary.json"
    if not path.exists():
        train.run(config, folder)
    summary: Json = json.loads(path.read_text())
    return summary


def save(search: Search) -> None:
    """Writes the state of the search to `search.json`."""
    content = json.dumps(search.to_dict(), indent=1, allow_nan=False) + "\n"
    search.plan.workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(search.plan.workdir / "search.json", content.encode())


class Progress:
    """Prints a bar of runs before each run.

    The time left is estimated from budgets, since a run of the last rung takes as long as many of
    the first.
    """

    def __init__(self, search: Search):
        self._search, self._began = search, time.monotonic()
        self._runs, self._seconds = search.left()

    def show(self, title: str, candidate: Candidate) -> None:
        """Prints the bar before a run, whose own bar follows."""
        elapsed, (runs_left, left) = time.monotonic() - self._began, self._search.left()
        runs, seconds = self._runs - runs_left, self._seconds - left
        left *= elapsed / seconds if seconds else 1
        rate = f"{3600 * runs / elapsed:.1f} runs/h" if runs else ""
        search_page.print_bar(title, candidate.changed, runs, self._runs, rate, left)


if __name__ == "__main__":
    PROGRAM.run(main)
