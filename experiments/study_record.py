"""The record of a study: the JSON file behind its page, which outlives the folders of its runs.

So a study can be spread over days and machines: a run in the record is not trained again.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from experiments.peer import results as peers
from experiments.study_plan import Plan, Run
from experiments.train import flatten, refuse_other_config
from hdgnn_jax.errors import InputError
from hdgnn_jax.training.metrics import write_atomically
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
      peers: what `experiments.peer` left in the run's report.
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
    peers: Json | None = None

    @property
    def part(self) -> str:
        """The first test part."""
        return next(iter(self.errors))


class Record:
    """The results of a study's runs, by `Run.key`.

    Attributes:
      file: where they are kept; None: nowhere.
      results: those known.
    """

    def __init__(self, file: pathlib.Path | None):
        self.file = file
        self.results: dict[str, Result] = {}
        self._merge()

    def __contains__(self, run: Run) -> bool:
        return run.key in self.results

    def __getitem__(self, run: Run) -> Result:
        return self.results[run.key]

    def complete(self, plan: Plan) -> Plan:
        """The plan with as many seeds as have all their runs in the record."""
        first = min((run.seed for run in plan.runs() if run not in self), default=plan.seeds)
        return dataclasses.replace(plan, seeds=first)

    def check(self, plan: Plan) -> None:
        """Refuses results that were made with another config than the plan's.

        Raises:
          CheckpointError: naming the fields that differ.
        """
        for run in plan.runs():
            if run in self:
                place = self.file / run.key if self.file else run.folder
                refuse_other_config(self[run].config, plan.config(run), place, of_both=True)

    def gather(self, plan: Plan) -> None:
        """Adds the finished runs whose folders are here, and peers trained beside them; writes."""
        for run in plan.runs():
            known = self.results.get(run.key)
            beside = _read_peers(run)
            if known is None and run.finished:
                self.results[run.key] = _result(run)
            elif known is not None and beside is not None:
                self.results[run.key] = dataclasses.replace(known, peers=beside)
        if self.file is not None and self.results:
            self._merge()
            self._write(self.file)

    def _merge(self) -> None:
        """Adds what the file has and this record has not: other commands may share the work.

        Raises:
          InputError: where the file is not a study's record.
        """
        if self.file is None or not self.file.exists():
            return
        try:
            content = json.loads(self.file.read_text())
            shared = content["config"]
            there = {
                key: Result(**{**one, "config": {**shared, **one["config"]}})
                for key, one in content["runs"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.file} is not the record of a study ({error!r}): move it away, or choose "
                "another --page"
            ) from error
        self.results = there | self.results

    def _write(self, file: pathlib.Path) -> None:
        """A line for each run; what the configs share is written once."""
        configs = [one.config for one in self.results.values()]
        shared = {
            name: value
            for name, value in configs[0].items()
            if all(name in other and other[name] == value for other in configs)
        }
        lines = []
        for key, one in sorted(self.results.items()):
            own = {name: v for name, v in one.config.items() if name not in shared}
            row = {**dataclasses.asdict(one), "config": own}
            if one.peers is None:
                del row["peers"]
            lines.append(f"{json.dumps(key)}: {json.dumps(row)}")
        runs = ",\n".join(lines)
        file.parent.mkdir(parents=True, exist_ok=True)
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
        peers=_read_peers(run),
    )


def _read_peers(run: Run) -> Json | None:
    if not (run.folder / "report" / peers.FILE).exists():
        return None
    return run.read(peers.FILE)
