"""The plan and the state of a search; `search.json` is their copy on disk."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from experiments.search_space import Space
from hdgnn_jax.config import flatten, refuse_other_config, with_fields
from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.types import Fields, Json


@dataclasses.dataclass(frozen=True)
class Plan:
    """The options of a search.

    Attributes:
      workdir: folder of all runs.
      config: config of candidate 0, in nested dictionaries that JSON can store.
      space: see `search_space`.
      candidates: number of candidates in the first rung.
      eta: one candidate in `eta` goes on, and the next rung's runs are `eta` times longer.
      rungs: number of rungs.
      finalists: number of candidates that go on from the last rung to the finals.
      seeds: number of runs of each finalist.
      budget: seconds of the steps of a run of the last rung and of a finalist.
    """

    workdir: pathlib.Path
    config: Json
    space: Space
    candidates: int
    eta: int
    rungs: int
    finalists: int
    seeds: int
    budget: float

    def refuse(self) -> None:
        """Checks that the numbers fit together.

        Raises:
          InputError: naming the flag that does not fit.
        """
        last = self.size(self.rungs - 1)
        if not last:
            raise InputError(
                f"--candidates={self.candidates} leaves none in rung {self.rungs}: ask for "
                f"{self.eta ** (self.rungs - 1)} or more, or for fewer --rungs"
            )
        if self.finalists > last:
            raise InputError(
                f"--finalists={self.finalists} are more than the {last} of the last rung"
            )
        if self.seeds < 2:
            raise InputError("--seeds must be at least 2: one run has no spread")
        if not self.budget > 0:
            raise InputError(f"--budget must be seconds, more than 0, not {self.budget}")

    def size(self, rung: int) -> int:
        """Number of candidates in a rung, counted from 0; rung number `rungs` is the finals."""
        return self.finalists if rung == self.rungs else self.candidates // self.eta**rung

    def seconds(self, rung: int) -> float:
        """Seconds of the steps of a run in a rung."""
        seconds: float = self.budget / self.eta ** max(0, self.rungs - 1 - rung)
        return seconds

    def folder(self, rung: int, index: int) -> pathlib.Path:
        """The folder of a run."""
        return self.workdir / f"rung{rung + 1}" / f"{index:03}"

    def final_seed(self, k: int) -> int:
        """The seed of the finalists' k-th runs, never that of the rungs."""
        seed: int = (self.config["seed"] + 1 + k) % 2**32
        return seed

    def to_dict(self) -> Json:
        """All options except the folder."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del content["workdir"]
        return content


@dataclasses.dataclass(frozen=True)
class Trial:
    """The result of a run.

    Attributes:
      steps: number of steps.
      seconds: wall-clock time, everything included.
      mae: validation error.
    """

    steps: int
    seconds: float
    mae: float


@dataclasses.dataclass
class Candidate:
    """One config and its results.

    Attributes:
      index: number of the candidate; 0 is the config as it is.
      changed: changed fields, by dotted name.
      parameters: number of the model's parameters.
      step_seconds: seconds of a step; None until timed.
      rungs: its run in each rung.
      finals: its run with each seed of the finals.
      out: why it is out of the search; None while it is in.
    """

    index: int
    changed: Json
    parameters: int | None = None
    step_seconds: float | None = None
    rungs: list[Trial] = dataclasses.field(default_factory=list)
    finals: list[Trial] = dataclasses.field(default_factory=list)
    out: str | None = None

    @classmethod
    def from_dict(cls, content: Fields) -> Candidate:
        """The inverse of `dataclasses.asdict`."""
        trials = {name: [Trial(**t) for t in content[name]] for name in ("rungs", "finals")}
        return cls(**{**content, **trials})

    def steps(self, seconds: float) -> int:
        """The number of steps that take this many seconds.

        Raises:
          InputError: where it is less than two: one validation must lie half way.
        """
        assert self.step_seconds is not None
        steps = int(seconds / self.step_seconds)
        if steps < 2:
            raise InputError(
                f"{seconds:.3g} s are too short: a step takes {self.step_seconds:.3g} s"
            )
        return steps

    @property
    def mean(self) -> float:
        """The mean error over the seeds of the finals."""
        return float(np.mean([t.mae for t in self.finals]))


@dataclasses.dataclass
class Search:
    """The state of a search.

    Attributes:
      plan: the options.
      candidates: all candidates.
      test: summary of the winner's report; None until the test.
    """

    plan: Plan
    candidates: list[Candidate]
    test: Json | None = None

    @classmethod
    def from_dict(cls, plan: Plan, content: Fields) -> Search:
        """The inverse of `to_dict`.

        Raises:
          CheckpointError: where it is of another plan, another revision, or no search at all.
        """
        try:
            refuse_other_config(content["asked"], plan.to_dict(), plan.workdir)
            candidates = [Candidate.from_dict(c) for c in content["candidates"]]
            return cls(plan, candidates, content["test"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{plan.workdir / 'search.json'} was written by another revision ({error}): choose "
                "another --workdir"
            ) from error

    def to_dict(self) -> Json:
        """A dictionary that JSON can store."""
        return {
            "asked": self.plan.to_dict(),
            "candidates": [dataclasses.asdict(c) for c in self.candidates],
            "test": self.test,
        }

    def config(self, candidate: Candidate, steps: int, seed: int) -> Json:
        """The config of a run, which validates half way and at the end of its steps."""
        half = (steps + 1) // 2
        ours = {"training.steps": steps, "training.validate_every": half,
                "training.first_validation": half, "seed": seed}  # fmt: skip
        return with_fields(self.plan.config, {**candidate.changed, **ours})

    def members(self, rung: int) -> list[Candidate]:
        """Candidates of a rung, best first, as far as known; after the last rung, the finalists."""
        if rung == 0:
            return self.candidates
        done = [c for c in self.members(rung - 1) if len(c.rungs) >= rung]
        return sorted(done, key=lambda c: c.rungs[rung - 1].mae)[: self.plan.size(rung)]

    def complete(self) -> list[Candidate]:
        """Finalists with runs of all seeds, best first; when all have run, the first has won."""
        finalists = self.members(self.plan.rungs)
        whole = [c for c in finalists if len(c.finals) == self.plan.seeds]
        return sorted(whole, key=lambda c: c.mean)

    def left(self) -> tuple[int, float]:
        """Number of remaining runs, if none fails, and their budgets in seconds."""
        plan, runs, seconds, known = self.plan, 0, 0.0, True
        for rung in range(plan.rungs + 1):
            final = rung == plan.rungs
            each = plan.seeds if final else 1
            if known:
                members = [c for c in self.members(rung) if c.out is None]
                lacking = sum(
                    each - len(c.finals) if final else len(c.rungs) == rung for c in members
                )
            else:
                lacking = each * plan.size(rung)
            runs, seconds = runs + lacking, seconds + lacking * plan.seconds(rung)
            known = known and not lacking
        return runs, seconds

    def winners_flags(self) -> list[str]:
        """The flags with which the train command repeats the winner's tested run."""
        winner, usual = self.complete()[0], flatten(self.plan.config)
        config = self.config(winner, winner.rungs[-1].steps, self.plan.config["seed"])
        return [
            f"--config.{name}={tuple(value) if isinstance(value, list) else value}"
            for name, value in flatten(config).items()
            if value != usual[name]
        ]
