"""The record of a checkpoint beside its arrays: all that resuming and prediction need."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hdgnn_jax.config import with_tuples
from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.training.loop import Memory
from hdgnn_jax.types import Config, Fields, Json

if TYPE_CHECKING:
    # Orbax takes half a second to import, and weights in one file are read without it.
    from hdgnn_jax.training.checkpoint import Checkpoints, Which

VERSION = 7
"""Version of the fields below; records of other versions are refused."""


@dataclasses.dataclass
class Course:
    """The course of a run in all its processes.

    Attributes:
      seconds: wall time.
      compilations: number of shapes for which the training step was compiled.
      resumed: steps from which the run was resumed.
      left_out: number of batches left out after spikes of the loss.
      extended: the steps at which `training.steps` was raised, each with the value until then.
      init_digest: SHA-256 of the weights of `config.init`; None: the run started from new ones.
    """

    seconds: float = 0.0
    compilations: int = 0
    resumed: list[int] = dataclasses.field(default_factory=list)
    left_out: int = 0
    extended: list[dict[str, int]] = dataclasses.field(default_factory=list)
    init_digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a checkpoint.

    Attributes:
      config: config of the run, as a nested dict.
      model: the network's hyper-parameters.
      fitted: the targets.
      errors: mean absolute errors on validation, by target.
      domain: domain of the training structures.
      budget: the largest shape of a device's batch.
      split_digest: digest of the data set.
      course: course of the run so far.
      memory: memory of the training loop.
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
        """A JSON-able dict, exact: Python writes digits that read back to the same bits."""
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
        """The inverse of `to_dict`, also after a pass through JSON.

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
            model=with_tuples(content["model"]),
            fitted=tuple(map(FittedTarget.from_dict, content["targets"])),
            errors=content["errors"],
            domain=Domain.from_dict(content["domain"]),
            budget=Budget(*content["budget"]),
            split_digest=content["split_digest"],
            course=Course(**content["course"]),
            memory=Memory.from_dict(content["memory"]),
        )


def from_smiles(config: Config) -> bool:
    """Whether the config of a run has positions that RDKit makes from SMILES."""
    return bool(config["data"].get("positions") == "smiles")
