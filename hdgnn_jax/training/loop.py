"""The training loop: it receives every part and builds none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.training.metrics import MetricWriter
from hdgnn_jax.training.step import Params, StepMetrics, TrainState


class DivergedError(RuntimeError):
    """The loss is too often no number; the message says when, for which records, what to do."""


class StoppedError(RuntimeError):
    """The run was asked to end and saved its state; the message says how it goes on."""


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
    max_skipped: int,
    records: Callable[[int], Sequence[str]],
    stop: Callable[[], bool] = lambda: False,
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
      max_skipped: steps that may be skipped, since their loss or gradient is not finite.
      records: the names of the structures in the batch of a step, counted from 0.
      stop: whether to end after this step, with its state saved.

    Raises:
      DivergedError: when more steps are skipped.
      StoppedError: after `stop`.
    """
    step = int(state.step)
    waiting: list[StepMetrics] = []
    skipped: list[tuple[int, int]] = []
    validation: float | None = None
    for batch in batches:
        state, metrics = train_step(state, batch)
        waiting.append(metrics)
        step += 1
        stopping = stop() and step < steps
        regular = step % log_every == 0 or step in validate_at or step == steps
        if regular or stopping:
            bad = np.array([m.skipped for m in waiting], bool)
            first = step - len(waiting)
            skipped += [(first + int(k), int(waiting[k].culprit)) for k in np.flatnonzero(bad)]
            if len(skipped) > max_skipped:
                raise DivergedError(_diverged(skipped, records))
            good = [m for m, of_step in zip(waiting, bad, strict=True) if not of_step]
            row = {
                name: float(np.mean([getattr(m, of) for m in good])) if good else math.nan
                for name, of in (("train_loss", "loss"), ("gradient_norm", "gradient_norm"))
            }
            if skipped:
                row["skipped"] = len(skipped)
            waiting = []
            if step in validate_at:
                row |= validate(state.ema)
                validation = row["validation_mae"]
                save(state, step, validation)
            if regular:
                writer.write(step, row)
                show(step, row["train_loss"], validation)
        if stopping:
            if step not in validate_at:
                save(state, step, math.nan)
            raise StoppedError(
                f"asked to stop: step {step} is saved; the same command goes on from there"
            )
    return state


def _diverged(
    skipped: Sequence[tuple[int, int]], records: Callable[[int], Sequence[str]]
) -> str:
    step, culprit = skipped[-1]
    names = records(step)
    found = [name for name in names if name.endswith(f" {culprit}")]
    steps = ", ".join(str(at + 1) for at, _ in skipped[-5:])
    several = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
    what = f"the output for {found[0]}" if found else f"a gradient of {several}"
    return (
        f"loss or gradient of {len(skipped)} step(s) is not a finite number (the last: {steps}; "
        f"{what}): check these records, or lower optimizer.learning_rate or optimizer.clip"
    )
