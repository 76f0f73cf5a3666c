"""The training loop: it receives every part and builds none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.training.metrics import MetricWriter
from hdgnn_jax.training.step import Params, StepMetrics, TrainState


class DivergedError(RuntimeError):
    """The loss is no longer a number; the message says when and what to do."""


def train(
    state: TrainState,
    batches: Iterable[batching.MolecularGraph],
    train_step: Callable[[TrainState, batching.MolecularGraph], tuple[TrainState, StepMetrics]],
    *,
    steps: int,
    log_every: int,
    validate_at: set[int],
    validate: Callable[[Params], dict[str, float]],
    save: Callable[[TrainState, int, float], Any],
    writer: MetricWriter,
    show: Callable[[int, float, float | None], Any],
) -> TrainState:
    """Takes the steps from `state.step` to `steps`.

    Args:
      state: where to start; given up.
      batches: the batches of the steps that are left, in order.
      train_step: (state, batch) -> (state, metrics).
      steps: the last step.
      log_every: steps between two reads of the losses: the only times the host waits for the
        devices.
      validate_at: steps after which to validate and save.
      validate: averaged weights to `validation_mae` and what else is logged with it.
      save: (state, step, validation error).
      writer: of the curves.
      show: (step, mean loss since the last call, last validation error), for a progress bar.

    Raises:
      DivergedError: when a loss is not finite.
    """
    step = int(state.step)
    waiting: list[StepMetrics] = []
    validation: float | None = None
    for batch in batches:
        state, metrics = train_step(state, batch)
        waiting.append(metrics)
        step += 1
        if step % log_every == 0 or step in validate_at or step == steps:
            losses = np.array([m.loss for m in waiting], float)
            if not np.isfinite(losses).all():
                bad = step - len(losses) + 1 + int(np.argmin(np.isfinite(losses)))
                raise DivergedError(
                    f"the loss of step {bad} is not a finite number: lower "
                    "optimizer.learning_rate or optimizer.clip"
                )
            row = {
                "train_loss": losses.mean(),
                "gradient_norm": np.mean([m.gradient_norm for m in waiting]),
            }
            waiting = []
            if step in validate_at:
                row |= validate(state.ema)
                validation = row["validation_mae"]
                save(state, step, validation)
            writer.write(step, row)
            show(step, row["train_loss"], validation)
    return state
