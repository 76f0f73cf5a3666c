"""The training loop: it receives every part and builds none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hdgnn_jax.errors import HDGNNError
from hdgnn_jax.graphs import batching
from hdgnn_jax.training.step import Params, StepMetrics, TrainState


class DivergedError(HDGNNError):
    """The loss is too often no number; the message says when, for which records, what to do."""


RECENT = 10
"""Logged losses that a spike is measured against."""


class SpikeError(RuntimeError):
    """The loss has risen far above what it was; the message says by how much.

    Attributes:
      step: after which it was seen; nothing later than the last checkpoint is worth keeping.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class StoppedError(RuntimeError):
    """The run was asked to end and saved its state; the message says how it goes on."""


@dataclasses.dataclass
class Memory:
    """What the loop knows besides the state, saved with it: a run that goes on knows the same.

    Attributes:
      waiting: metrics of the steps since the last row of the curve.
      skipped: steps that were skipped, from 0, and ids to blame.
      recent: the last logged losses.
    """

    waiting: list[StepMetrics] = dataclasses.field(default_factory=list)
    skipped: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    recent: list[float] = dataclasses.field(default_factory=list)

    def note(self, loss: float) -> None:
        """A loss that was logged: nothing waits for its row any more."""
        self.waiting = []
        if math.isfinite(loss):
            self.recent = [*self.recent, loss][-RECENT:]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        waiting = [[np.asarray(value).item() for value in metrics] for metrics in self.waiting]
        return {"waiting": waiting, "skipped": self.skipped, "recent": self.recent}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Memory:
        """The inverse of `to_dict`, to the bit."""
        waiting = [
            StepMetrics(jnp.float32(loss), jnp.float32(norm), jnp.bool_(bad), jnp.int32(culprit))
            for loss, norm, bad, culprit in content["waiting"]
        ]
        return cls(waiting, [tuple(pair) for pair in content["skipped"]], list(content["recent"]))


def train(
    state: TrainState,
    batches: Iterable[batching.MolecularGraph],
    train_step: Callable[[TrainState, batching.MolecularGraph], tuple[TrainState, StepMetrics]],
    *,
    steps: int,
    log_every: int,
    validate_at: set[int],
    validate: Callable[[Params], dict[str, float]],
    save: Callable[[TrainState, int, float, Memory], Any],
    write: Callable[[int, Mapping[str, Any]], Any],
    show: Callable[[int, float, float | None], Any],
    max_skipped: int,
    records: Callable[[int], Mapping[int, str]],
    stop: Callable[[int], bool] = lambda step: False,
    spike: float = 0.0,
    memory: Memory | None = None,
    locate: Callable[[TrainState, batching.MolecularGraph], str] | None = None,
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
      save: (state, step, validation error, what to go on with).
      write: (step, scalars), for the curves.
      show: (step, mean loss since the last call, last validation error), for a progress bar.
      max_skipped: steps that may be skipped, since their loss or gradient is not finite.
      records: id to name of the structures in the batch of a step, counted from 0.
      stop: whether to end after this step, with its state saved.
      spike: times the median of the last `RECENT` logged losses above which one is a spike; 0: none
        is.
      memory: of a run that goes on.
      locate: what is not finite in a step that was skipped. Then the loss is read after each step,
        and the first that is skipped ends the run.

    Raises:
      DivergedError: when more steps are skipped.
      SpikeError: before a state is saved that such a loss came from.
      StoppedError: after `stop`.
    """
    step = int(state.step)
    memory = Memory() if memory is None else memory
    validation: float | None = None
    for batch in batches:
        state, metrics = train_step(state, batch)
        memory.waiting.append(metrics)
        step += 1
        if locate is not None and metrics.skipped:
            where, whose = locate(state, batch), _blamed(int(metrics.culprit), records(step - 1))
            raise DivergedError(f"step {step}: not finite is {where}; {whose}")
        stopping = stop(step) and step < steps
        regular = step % log_every == 0 or step in validate_at or step == steps
        if regular or stopping:
            # Before any save: a run that went on from such a state would diverge for ever.
            row = _row(memory, step)
            _refuse_divergence(memory, step, row["train_loss"], max_skipped, spike, records)
        if regular:
            memory.note(row["train_loss"])
            if step in validate_at:
                row |= validate(state.ema)
                validation = row["validation_mae"]
            # Before the save: a run that is killed in between finds no row missing.
            write(step, row)
            show(step, row["train_loss"], validation)
            if step in validate_at:
                save(state, step, row["validation_mae"], memory)
        if stopping:
            if step not in validate_at:
                save(state, step, math.nan, memory)
            raise StoppedError(
                f"asked to stop: step {step} is saved; the same command goes on from there"
            )
    return state


def _refuse_divergence(
    memory: Memory,
    step: int,
    loss: float,
    max_skipped: int,
    spike: float,
    records: Callable[[int], Mapping[int, str]],
) -> None:
    if len(memory.skipped) > max_skipped:
        raise DivergedError(_diverged(memory.skipped, records))
    usual = np.median(memory.recent or [math.inf])
    if spike and len(memory.recent) == RECENT and loss > spike * usual:
        raise SpikeError(step, f"step {step}: loss {loss:.4g}, usually {usual:.4g}")


def _row(memory: Memory, step: int) -> dict[str, float]:
    """Of the steps that wait for it, those that were not skipped; the others are counted."""
    bad = np.array([m.skipped for m in memory.waiting], bool)
    first = step - len(bad)
    known = {at for at, _ in memory.skipped}
    memory.skipped += [
        (first + int(k), int(memory.waiting[k].culprit))
        for k in np.flatnonzero(bad)
        if first + int(k) not in known
    ]
    good = [m for m, skipped in zip(memory.waiting, bad, strict=True) if not skipped]
    row = {
        name: float(np.mean([getattr(m, of) for m in good])) if good else math.nan
        for name, of in (("train_loss", "loss"), ("gradient_norm", "gradient_norm"))
    }
    return row | ({"skipped": len(memory.skipped)} if memory.skipped else {})


def _diverged(
    skipped: Sequence[tuple[int, int]], records: Callable[[int], Mapping[int, str]]
) -> str:
    step, culprit = skipped[-1]
    steps = ", ".join(str(at + 1) for at, _ in skipped[-5:])
    return (
        f"loss or gradient of {len(skipped)} step(s) is not a finite number (the last: {steps}; "
        f"{_blamed(culprit, records(step))}): check these records, or lower "
        "optimizer.learning_rate or optimizer.clip"
    )


def _blamed(culprit: int, names: Mapping[int, str]) -> str:
    """The structure of a batch whose output is not finite, or those that have a gradient."""
    if culprit in names:
        return f"the output for {names[culprit]}"
    some = list(names.values())
    return f"a gradient of {', '.join(some[:8])}" + ", ..." * (len(some) > 8)
