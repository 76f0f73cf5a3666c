"""The training loop. All that it uses is passed to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from hdgnn_jax.errors import HDGNNError
from hdgnn_jax.graphs import batching
from hdgnn_jax.training.step import StepMetrics, TrainState
from hdgnn_jax.types import Fields, Json, Params


class DivergedError(HDGNNError):
    """The loss is not finite too often; the message says when, for which records, what to do."""


RECENT = 10
"""Number of logged losses that a spike is compared with."""


class SpikeError(RuntimeError):
    """The loss has risen far above its usual value; the message has both.

    Attributes:
      step: the step after which the spike was seen. States since the last checkpoint are unusable.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class StoppedError(RuntimeError):
    """The run was asked to stop and has saved its state; the message says how to resume it."""


@dataclasses.dataclass
class Memory:
    """The loop's memory besides the state; saved with it, so that a resumed run has it too.

    Attributes:
      waiting: metrics of the steps since the last row of the curve.
      skipped: (step, counted from 0; id of the structure at fault) of each skipped step.
      recent: the last logged losses.
    """

    waiting: list[StepMetrics] = dataclasses.field(default_factory=list)
    skipped: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    recent: list[float] = dataclasses.field(default_factory=list)

    def note(self, loss: float) -> None:
        """Takes note of a logged loss and clears `waiting`."""
        self.waiting = []
        if math.isfinite(loss):
            self.recent = [*self.recent, loss][-RECENT:]

    def to_dict(self) -> Json:
        """A dictionary that JSON can store."""
        waiting = [[np.asarray(value).item() for value in metrics] for metrics in self.waiting]
        return {"waiting": waiting, "skipped": self.skipped, "recent": self.recent}

    @classmethod
    def from_dict(cls, content: Fields) -> Memory:
        """The exact inverse of `to_dict`."""
        waiting = [
            StepMetrics(jnp.float32(loss), jnp.float32(norm), jnp.bool_(bad), jnp.int32(culprit))
            for loss, norm, bad, culprit in content["waiting"]
        ]
        return cls(waiting, [tuple(pair) for pair in content["skipped"]], list(content["recent"]))


@dataclasses.dataclass(kw_only=True)
class Loop:
    """The loop over the steps of a run.

    Attributes:
      train_step: (state, batch) -> (state, metrics).
      steps: the last step.
      log_every: steps between two reads of the losses. Only then, and when it validates or saves,
        the host waits for the devices.
      validate_at: steps after which to validate and save.
      validate: averaged weights -> a row with `validation_mae` and other scalars to log.
      save: (state, step, validation error, memory) -> anything.
      write: (step, scalars) -> anything; writes the curves.
      show: (step, mean loss since the last call, last validation error), for a progress bar.
      max_skipped: how many steps may be skipped because loss or gradient is not finite.
      records: step, counted from 0 -> {id: name} of the structures in its batch.
      stop: step -> whether to save and end after this step.
      spike: a logged loss above this factor times the median of the last `RECENT` ones is a spike;
        0: no loss is.
      memory: an empty one, or that of a resumed run.
      locate: (state, batch) -> text on what is not finite. With it the loss is read after each
        step, and the first step that is skipped ends the run.
    """

    train_step: Callable[[TrainState, batching.MolecularGraph], tuple[TrainState, StepMetrics]]
    steps: int
    log_every: int
    validate_at: set[int]
    validate: Callable[[Params], dict[str, float]]
    save: Callable[[TrainState, int, float, Memory], object]
    write: Callable[[int, Fields], object]
    show: Callable[[int, float, float | None], object]
    max_skipped: int
    records: Callable[[int], Mapping[int, str]]
    stop: Callable[[int], bool] = lambda step: False
    spike: float = 0.0
    memory: Memory = dataclasses.field(default_factory=Memory)
    locate: Callable[[TrainState, batching.MolecularGraph], str] | None = None

    def train(self, state: TrainState, batches: Iterable[batching.MolecularGraph]) -> TrainState:
        """Takes the steps from `state.step` to `steps`.

        Args:
          state: the state to start from; its buffers are donated.
          batches: the batches of the remaining steps, in order.

        Raises:
          DivergedError: when more than `max_skipped` steps are skipped, or one with `locate`.
          SpikeError: on a spike, before the state is saved.
          StoppedError: after `stop`, when the state is saved.
        """
        step, memory = int(state.step), self.memory
        validation: float | None = None
        for batch in batches:
            state, metrics = self.train_step(state, batch)
            memory.waiting.append(metrics)
            step += 1
            if self.locate is not None and metrics.skipped:
                where = self.locate(state, batch)
                whose = _blamed(int(metrics.culprit), self.records(step - 1))
                raise DivergedError(f"step {step}: not finite: {where}; {whose}")
            stopping = self.stop(step) and step < self.steps
            validating = step in self.validate_at
            regular = step % self.log_every == 0 or validating or step == self.steps
            if regular or stopping:
                # Checked before any save: a run resumed from such a state would always diverge.
                row = _row(memory, step)
                self._refuse_divergence(step, row["train_loss"])
            if regular:
                memory.note(row["train_loss"])
                if validating:
                    row |= self.validate(state.ema)
                    validation = row["validation_mae"]
                # Written before the save: a run that is killed in between then misses no row.
                self.write(step, row)
                self.show(step, row["train_loss"], validation)
            if validating or stopping:
                self.save(state, step, row.get("validation_mae", math.nan), memory)
            if stopping:
                raise StoppedError(
                    f"asked to stop: step {step} is saved; the same command goes on from there"
                )
        return state

    def _refuse_divergence(self, step: int, loss: float) -> None:
        memory = self.memory
        if len(memory.skipped) > self.max_skipped:
            raise DivergedError(_diverged(memory.skipped, self.records))
        usual = np.median(memory.recent or [math.inf])
        if self.spike and len(memory.recent) == RECENT and loss > self.spike * usual:
            raise SpikeError(step, f"step {step}: loss {loss:.4g}, usually {usual:.4g}")


def _row(memory: Memory, step: int) -> dict[str, float]:
    """The curve's next row: means over waiting steps, without the skipped ones, which it counts."""
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
    """Names the structure whose output is not finite, or else the structures of the batch."""
    if culprit in names:
        return f"the output for {names[culprit]}"
    some = list(names.values())
    return f"a gradient of {', '.join(some[:8])}" + ", ..." * (len(some) > 8)
