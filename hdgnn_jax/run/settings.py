"""The section `training` of a config."""

from __future__ import annotations

import dataclasses

from hdgnn_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Training:
    """The course of a run.

    Attributes:
      batch_size: structures, over all devices.
      steps: steps of the run.
      validate_every: steps between validations.
      first_validation: step of an early validation.
      validation_size: number of validation structures, the first, that are predicted in training.
      log_every: steps between rows of the curves.
      n_budgets: largest number of padded shapes; each is compiled once.
      ema: decay of the averaged weights.
      max_skipped: steps that may be skipped, since their loss or gradient is not finite, before the
        run stops.
      spike: if a logged loss is above this factor times the median of those before it, the run
        goes back to its last checkpoint and leaves out the batches since; 0: never.
      divide_state: whether each device holds only its part of weights and optimiser state (FSDP).
      auxiliary: whether the network also learns, with a second output that takes half of the
        target's weight, what the composition leaves of the target. With `data.reference = linear`
        what is left is too little to learn features from; those learned for this output serve both.
      forces_weight: Å; weight of the error of forces in the loss, relative to that of the target;
        0: forces are not trained on.
      stress_weight: weight of the error of the stress times the volume, per atom; 0: the stress is
        not trained on.
      init_rate: factor of the learning rate for weights that `config.init` gives.
      frozen_layers: number of first layers, with the embeddings before them, whose weights from
        `config.init` stay as they are.
    """

    batch_size: int
    steps: int
    validate_every: int
    first_validation: int
    validation_size: int
    log_every: int
    n_budgets: int
    ema: float
    max_skipped: int
    spike: float
    divide_state: bool
    auxiliary: bool
    forces_weight: float
    stress_weight: float
    init_rate: float
    frozen_layers: int

    def __post_init__(self) -> None:
        free = (
            "max_skipped", "forces_weight", "stress_weight", "spike", "init_rate", "frozen_layers",
        )  # fmt: skip
        for name, value in dataclasses.asdict(self).items():
            if name in free and value < 0:
                raise InputError(f"training.{name} must not be negative: {value}")
            if name not in (*free, "ema", "divide_state", "auxiliary") and value < 1:
                raise InputError(f"training.{name} must be at least 1, not {value}")
        if not 0 <= self.ema < 1:
            raise InputError(f"training.ema must be at least 0 and less than 1, not {self.ema}")
        if 0 < self.spike <= 1:
            raise InputError(f"training.spike must be 0 or more than 1, not {self.spike}")

    @property
    def validations(self) -> set[int]:
        """Steps after which to validate: an early one, then at equal distances, and the last."""
        return {self.first_validation, *range(self.validate_every, self.steps, self.validate_every),
                self.steps}  # fmt: skip
