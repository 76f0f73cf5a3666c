"""The record of a study: the JSON file behind its page, which outlives the folders of its runs.

So a study can be spread over days and machines: a run in the record is not trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

from experiments.peer import results as peers
from experiments.study_plan import Plan, Run
from hdgnn_jax.config import flatten, refuse_other_config
from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.types import Json


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Attributes:
      errors: by test part, `mae` and, by the baseline's name, the errors without a network; all in
        the `unit`, as `train_mae` and `rotation_error` are.
      train_mae: error on training structures.
      rotation_error: mean |E(x) - E(Qx)| on the first test part.
      parameters: number of weights.
      seconds: of training.
      revision: of git, shortened.
      machine: JAX's version and the processor.
      config: {dotted name: value}.
      data: SHA-256 of the data set's parts.
      peers: what `experiments.peer` left in the run's report.
      attention: of the baseline, the weights of eq. 11 on test structures, as
        `evaluation.attention.attention_weights` gives them, and their `means` on validation
        structures after each of `steps`.
    """

    errors: dict[str, dict[str, float]]
    train_mae: float
    rotation_error: float
    unit: str
    parameters: int
    seconds: float
    revision: str
    machine: str
    config: Json
    data: str
    peers: Json | None = None
    attention: Json | None = None

    @property
    def part(self) -> str:
        """The first test part."""
        return next(iter(self.errors))

    @property
    def mae(self) -> float:
        """The error on the first test part."""
        return self.errors[self.part]["mae"]


class Record:
    """The results of a study's runs, by `Run.key`.

    Attributes:
      file: where they are kept. Other commands may write to it too.
      results: those known.
    """

    def __init__(self, file: pathlib.Path):
        self.file = file
        self.results: dict[str, Result] = {}

    def __contains__(self, run: Run) -> bool:
        return run.key in self.results

    def __getitem__(self, run: Run) -> Result:
        return self.results[run.key]

    def complete(self, plan: Plan) -> Plan:
        """The plan with as many seeds as have all their runs in the record."""
        first = min((run.seed for run in plan.runs() if run not in self), default=plan.seeds)
        return dataclasses.replace(plan, seeds=first)

    def gather(self, plan: Plan) -> None:
        """Adds what is in the file, finished runs whose folders are here, and peers beside them.

        Raises:
          CheckpointError: before anything is added, where a run was made with another config than
            the plan's, or two of one target and size with other data.
          InputError: where the file is not a study's record.
        """
        with alone(self.file):
            there = _read(self.file)
            results = self.results | there
            for run in plan.runs():
                if run.key not in results and run.trained:
                    config = flatten(run.read("card.json")["config"])
                    refuse_other_config(config, plan.config(run), run.folder, of_both=True)
                    if run.finished:
                        results[run.key] = _result(run)
                elif run.key in results and (beside := _read_peers(run)) is not None:
                    results[run.key] = dataclasses.replace(results[run.key], peers=beside)
            self._check(plan, results)
            if results != there:
                _write(self.file, results)
            self.results = results

    @property
    def steps(self) -> int:
        """The steps of its runs, of which there must be one."""
        return int(next(iter(self.results.values())).config["training.steps"])

    def read(self, plan: Plan) -> None:
        """Knows what is in the file alone: the same study as the plan's, with fewer steps.

        Raises:
          CheckpointError: where they differ in more, or two of one target and size in their data.
          InputError: where the file is not a study's record, or no seed has all runs of the plan,
            or the steps are not fewer.
        """
        self.results = _read(self.file)
        if not self.complete(plan).seeds:
            raise InputError(
                f"{self.file} has no seed with all runs of this study: name another --shorter"
            )
        if self.steps >= plan.steps:
            raise InputError(
                f"{self.file} is of {self.steps:,} steps, not of fewer than {plan.steps:,}: "
                "name another --shorter"
            )
        shorter = dataclasses.replace(plan, steps=self.steps)
        self._check(shorter, self.results, "name another --shorter")

    def _check(
        self, plan: Plan, results: Mapping[str, Result], way: str = "choose another --page"
    ) -> None:
        """See `gather`; `way` is what to do."""
        data: dict[tuple[str, int], tuple[str, str]] = {}
        for run in plan.runs():
            if run.key not in results:
                continue
            one, place = results[run.key], self.file / run.key
            refuse_other_config(one.config, plan.config(run), place, of_both=True, way=way)
            first, digest = data.setdefault((run.target, run.size), (run.key, one.data))
            if digest != one.data:
                raise CheckpointError(
                    f"{first} and {run.key} of {self.file} were trained on other data: "
                    f"make the data alike on all machines, and {way}"
                )


@contextlib.contextmanager
def alone(file: pathlib.Path) -> Iterator[None]:
    """Waits until no other command reads or writes a record, or a page, in the file's folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(file: pathlib.Path) -> dict[str, Result]:
    """The results in a record's file; none where it does not exist."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text())
        shared = content["config"]
        return {
            key: Result(**{**one, "config": {**shared, **one["config"]}})
            for key, one in content["runs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not the record of a study ({error!r}): move it away, or name "
            "another file"
        ) from error


def _write(file: pathlib.Path, results: Mapping[str, Result]) -> None:
    """A line for each run; what the configs share is written once."""
    configs = [one.config for one in results.values()]
    shared = {
        name: value
        for name, value in configs[0].items()
        if all(name in other and other[name] == value for other in configs)
    }
    lines = []
    for key, one in sorted(results.items()):
        own = {name: v for name, v in one.config.items() if name not in shared}
        row = {**dataclasses.asdict(one), "config": own}
        lines.append(f"{json.dumps(key)}: {json.dumps(row)}")
    runs = ",\n".join(lines)
    text = f'{{"config": {json.dumps(shared)},\n"runs": {{\n{runs}\n}}}}\n'
    write_atomically(file, text.encode())


def _result(run: Run) -> Result:
    summary, measured, card = (
        run.read(name) for name in ("summary.json", "measured.json", "card.json")
    )
    return Result(
        errors={
            part: {
                name.removeprefix("mae_"): error for name, error in of_part.items()
                if name.startswith("mae") and name != "mae_paper"
            }
            for part, of_part in summary["splits"].items()
            if part not in ("train", "validation", "mean")
        },
        train_mae=measured["train_mae"],
        rotation_error=measured["rotation_error"],
        unit=summary["unit"],
        parameters=summary["parameters"],
        seconds=summary["seconds"],
        revision=(card["git"] or {"revision": "unknown"})["revision"][:10],
        machine=f"jax {card['versions']['jax']}, {card['hardware']['cpu']}",
        config=flatten(card["config"]),
        data=card["split_digest"],
        peers=_read_peers(run),
        attention=measured.get("attention"),
    )


def _read_peers(run: Run) -> Json | None:
    if not (run.folder / "report" / peers.FILE).exists():
        return None
    return run.read(peers.FILE)
