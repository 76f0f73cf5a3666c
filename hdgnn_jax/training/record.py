"""What a checkpoint says beside its arrays: all that is needed to go on, and to predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints, Which
from hdgnn_jax.training.loop import Memory
from hdgnn_jax.types import Config, Fields, Json

VERSION = 7
"""Of the fields below; a record of another version is refused by name."""


@dataclasses.dataclass
class Course:
    """How a run went, in all its processes.

    Attributes:
      seconds: of wall time.
      compilations: shapes that the training step was compiled for.
      resumed: steps that the run went on from.
      left_out: batches that a spike of the loss made it leave out.
      extended: each time that `training.steps` was raised, the step and what it was until then.
    """

    seconds: float = 0.0
    compilations: int = 0
    resumed: list[int] = dataclasses.field(default_factory=list)
    left_out: int = 0
    extended: list[dict[str, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a checkpoint.

    Attributes:
      config: of the run, as a nested dict.
      model: the network's hyper-parameters.
      fitted: the targets.
      errors: mean absolute, on validation, by target.
      domain: of the training structures.
      budget: the largest shape of a device's batch.
      split_digest: of the data set.
      course: how it went so far.
      memory: of the training loop.
    """

    config: Config
    model: Fields
    fitted: tuple[FittedTarget, ...]
    errors: Mapping[str, float]
    domain: Domain
    budget: Budget
    split_digest: str
    course: Course
    memory: Memory

    @classmethod
    def of(cls, checkpoints: Checkpoints, which: Which = "latest") -> Record:
        """The record of the best step, or of the latest.

        Raises:
          CheckpointError: where there is none, or another version of this program wrote it.
        """
        return cls.from_dict(checkpoints.record(which))

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return int(self.config["training"]["steps"])

    @property
    def trained_on_forces(self) -> bool:
        """Whether forces were part of the loss."""
        return bool(self.config["training"]["forces_weight"])

    def to_dict(self) -> Json:
        """JSON-able, exact: Python writes the shortest digits that read back to the same bits."""
        return {
            "version": VERSION,
            "config": self.config,
            "model": self.model,
            "targets": [one.to_dict() for one in self.fitted],
            "errors": self.errors,
            "domain": self.domain.to_dict(),
            "budget": dataclasses.astuple(self.budget),
            "split_digest": self.split_digest,
            "course": dataclasses.asdict(self.course),
            "memory": self.memory.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Fields) -> Record:
        """The inverse of `to_dict`, after JSON too.

        Raises:
          CheckpointError: where another version of this program wrote it.
        """
        version = content.get("version", 1)
        if version != VERSION:
            when = "an earlier" if version < VERSION else "a later"
            raise CheckpointError(
                f"{when} version of hdgnn_jax wrote this run (its record is of version {version}, "
                f"not {VERSION}): train again, or use that version"
            )
        return cls(
            config=content["config"],
            model={k: tuple(v) if isinstance(v, list) else v for k, v in content["model"].items()},
            fitted=tuple(map(FittedTarget.from_dict, content["targets"])),
            errors=content["errors"],
            domain=Domain.from_dict(content["domain"]),
            budget=Budget(*content["budget"]),
            split_digest=content["split_digest"],
            course=Course(**content["course"]),
            memory=Memory.from_dict(content["memory"]),
        )
