"""Checkpoints: the state of a run on disk, verified to the bit when it is read back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training import leaves
from hdgnn_jax.types import Fields, Json, PyTree

Which = Literal["latest", "best"]
T = TypeVar("T")

NEWEST_KEPT = 2
"""Steps kept besides the best one. Two, so that a damaged newest step has one to fall back on even
while every validation is the best so far."""

PATIENCE = 300
"""Seconds after which a process gives up others that do not finish their part of a save."""

_AS_BYTES = ocp.args.ArrayRestore(restore_args=ocp.RestoreArgs(restore_type=np.ndarray))

logger = logging.getLogger(__name__)


class _Damaged(Exception):
    """A step whose files are not what was saved; the message names it."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """The content of a checkpoint.

    Attributes:
      step: training steps done when it was saved.
      state: the saved pytree, placed like the leaves it was restored onto.
      record: the JSON-able record saved beside it.
    """

    step: int
    state: PyTree
    record: Json


class Checkpoints:
    """The checkpoints of one run: its newest steps, and the step best on validation.

    Orbax writes them in the background, each under its final name only once it is complete; of
    several processes each writes a part, to a folder that all of them see. It keeps no checksum of
    the arrays, and a flipped bit would restore without a word: so the SHA-256 of every array is
    saved in the step's record and verified when the step is restored.

    A step has two items: `record`, JSON with the name, type and digest of every array, and `state`,
    their bytes end to end. It is one array, because a damaged step with hundreds would
    leave hundreds of reads unfinished, each of which prints a traceback.

    A context manager; leaving it (or `close`) waits for the last save.
    """

    def __init__(self, directory: str | pathlib.Path):
        """Opens a folder of checkpoints; the first save creates it.

        Args:
          directory: the folder, empty, missing, or holding the steps of a run to go on from.
        """
        logging.getLogger("absl").addFilter(_is_not_orbax_chatter)
        self.directory = pathlib.Path(directory).absolute()
        self._retention = _NewestAndBest()
        self._position: int | None = None  # the step this run last saved or restored
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("state", "record"),
            options=ocp.CheckpointManagerOptions(
                create=False,
                preservation_policy=self._retention,
                async_options=ocp.AsyncOptions(timeout_secs=PATIENCE),
            ),
        )

    def steps(self) -> list[int]:
        """The kept steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: PyTree, record: Fields, metric: float | None
    ) -> None:
        """Saves a step. The state is copied before this returns, so its buffers may be donated.

        Steps beyond the one this run last saved or restored are removed first: it computes them
        again, or it restored an older step because they were damaged.

        Args:
          step: training steps done.
          state: pytree of arrays, however they are divided among devices and processes.
          record: JSON-able content that the run is rebuilt from (configuration, references, ...).
          metric: validation error, lower is better; None if this step was not validated.

        Raises:
          CheckpointError: if the folder holds steps of a run that was not restored from it, or if
            the step before could not be written; those already written are whole.
          TypeError: if the record cannot be written as JSON.
        """
        if self._position is None and self.steps():
            raise CheckpointError(
                f"{self.directory} already holds step {self.steps()[-1]} of another run: "
                "resume that run, or choose an empty folder"
            )
        arrays = {name: leaves.whole(leaf) for name, leaf in leaves.named_leaves(state).items()}
        contents = {
            "step": step,
            "record": json.loads(json.dumps(record)),
            "metric": None if metric is None or math.isnan(metric) else float(metric),
            "arrays": {name: leaves.describe(array) for name, array in arrays.items()},
        }
        self._wait()
        for kept in self.steps():
            if kept >= step or (self._position is not None and kept > self._position):
                self._manager.delete(kept)
        self._position = step
        self._retention.metrics = self._kept_metrics() | {step: contents["metric"]}
        with self._writing():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.ArraySave(leaves.spread(leaves.pack(arrays.values()))),
                    record=ocp.args.JsonSave(
                        {"contents": contents, "sha256": leaves.digest_of(contents)}
                    ),
                ),
            )

    def restore(self, like: PyTree, which: Which = "latest", part: str = "") -> Restored:
        """Reads a step back, bit for bit.

        Args:
          like: pytree with the structure, shapes, dtypes and shardings of the state; its leaves are
            arrays or `jax.ShapeDtypeStruct`s. The devices need not be those of the save.
          part: path of the part of the state that `like` stands for, as ".ema"; "": all of it.
          which: "latest" falls back on the next older step where one is damaged, with a logged
            warning that names it; "best" means the step of the lowest metric and no other.

        Raises:
          CheckpointError: if there is no such step, if it (for "latest": every step) is damaged, or
            if `like` is not the state of the model that was saved.
        """

        def read(step: int) -> Restored:
            contents = self._read_contents(step)
            arrays = self._read_arrays(step, contents["arrays"], like, part)
            return Restored(step, jax.tree.map(leaves.place, arrays, like), contents["record"])

        restored = self._read_first_sound(which, read)
        self._position = restored.step
        return restored

    def record(self, which: Which = "latest") -> Json:
        """Reads the record alone, from which the model to restore into is built.

        Args:
          which: as in `restore`.

        Raises:
          CheckpointError: if there is no such step, or its record is damaged.
        """
        record: Json = self._read_first_sound(which, self._read_contents)["record"]
        return record

    def verify(self, step: int) -> None:
        """Reads all of a kept step and compares it with its digests.

        Raises:
          CheckpointError: naming what is damaged.
        """
        try:
            saved = self._read_contents(step)["arrays"]
            for _ in self._verified(step, saved, saved):
                pass
        except _Damaged as damage:
            raise CheckpointError(f"{damage}: delete its folder") from damage

    def close(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          CheckpointError: where it cannot be written.
        """
        with self._writing():
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait(self) -> None:
        """Waits until the last save is on disk, so that its error is not taken for a later one."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        # Tensorstore raises ValueError for a full disk.
        except Exception as error:
            found = re.search(r"os_error_code='(\d+)'", str(error))
            reason = os.strerror(int(found[1])) if found else _first_line(error)
            raise CheckpointError(
                f"step {self._position} cannot be written to {self.directory} ({reason}); the "
                "steps before it are whole: mend that, and the same command goes on from them"
            ) from error

    def _read_first_sound(self, which: Which, read: Callable[[int], T]) -> T:
        """`read(step)` of the first step that `which` allows and that is not damaged."""
        self._wait()
        steps = self.steps()
        if not steps and self.directory.parent.is_file():
            raise CheckpointError(
                f"{self.directory.parent} is a file, and this needs the folder of a run"
            )
        if not steps:
            raise CheckpointError(f"{self.directory} holds no checkpoint: check the path")
        if which == "best":
            try:
                return self._same(best := self._best_step(), read(best))
            except _Damaged as damage:
                raise CheckpointError(
                    f"{damage}: bring it back from a copy, or delete its folder and the next best "
                    "step is used"
                ) from damage
        for step in reversed(steps):
            try:
                return self._same(step, read(step))
            except _Damaged as damage:
                logger.warning("%s; trying the next older step", damage)
        raise CheckpointError(
            f"every step in {self.directory} is damaged ({', '.join(map(str, steps))}): "
            "bring one back from a copy, or train again in an empty folder"
        )

    def exist(self) -> bool:
        """Whether there are any; all processes call it.

        Raises:
          CheckpointError: where processes do not find the same last step.
        """
        steps = self.steps()
        return bool(self._same(max(steps, default=-1), steps))

    def _same(self, step: int, found: T) -> T:
        """Returns `found`, if every process found it in the same step.

        Raises:
          CheckpointError: where processes found different steps: their weights would differ.
        """
        if jax.process_count() > 1:
            steps = multihost_utils.process_allgather(np.int32(step)).tolist()
            if len(set(steps)) > 1:
                raise CheckpointError(
                    f"processes can read different steps in {self.directory} ({steps}): give "
                    "all of them the same folder, and start again"
                )
        return found

    def _best_step(self) -> int:
        best = _lowest({step: self._read_contents(step)["metric"] for step in self.steps()})
        if best is None:
            raise CheckpointError(
                f"no step in {self.directory} was validated "
                f"({', '.join(map(str, self.steps()))}): train to its first validation"
            )
        return best

    def _kept_metrics(self) -> dict[int, float | None]:
        """The metric of each kept step; None where it has none or its record is damaged."""
        metrics = {}
        for step in self.steps():
            try:
                metrics[step] = self._read_contents(step)["metric"]
            except _Damaged as damage:
                logger.warning("%s; it no longer counts as the best one", damage)
                metrics[step] = None
        return metrics

    def _read_contents(self, step: int) -> Json:
        """The contents that `save` wrote into a step's record, verified."""
        stored = self._read(step, "record", ocp.args.JsonRestore())
        if not isinstance(stored, dict) or stored.keys() != {"contents", "sha256"}:
            raise self._damaged(step, "its record is incomplete")
        if leaves.digest_of(stored["contents"]) != stored["sha256"]:
            raise self._damaged(step, "its record differs from its digest")
        contents: Json = stored["contents"]
        # Files copied from another step agree with each other. Early revisions kept no step.
        if contents.get("step", step) != step:
            raise self._damaged(step, f"its record is that of step {contents['step']}")
        return contents

    def _read_arrays(
        self, step: int, saved: Fields, like: PyTree, part: str
    ) -> PyTree:
        """The arrays of a step on the host, in the structure of `like`, verified."""
        named = {part + name: leaf for name, leaf in leaves.named_leaves(like).items()}
        there = {k: v for k, v in saved.items() if k.startswith(part)}
        differences = leaves.differences(named, there)
        if differences:
            raise CheckpointError(
                f"step {step} in {self.directory} holds another model, with {differences[0]}; "
                "build the model from the checkpoint's record"
            )
        contents = self._verified(step, saved, named)
        arrays = [
            content.view(leaf.dtype).reshape(leaf.shape)
            for content, leaf in zip(contents, named.values(), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(like), arrays)

    def _verified(self, step: int, saved: Fields, names: Iterable[str]) -> Iterator[np.ndarray]:
        """The bytes of some of a step's arrays, each compared with its digest."""
        packed = self._read(step, "state", _AS_BYTES)
        sizes = [leaves.size_of(entry["type"]) for entry in saved.values()]
        ends = dict(zip(saved, np.cumsum(sizes), strict=True))
        for name in names:
            size = leaves.size_of(saved[name]["type"])
            # A slice may start at any byte; a copy is aligned for its dtype.
            content = packed[ends[name] - size : ends[name]].copy()
            if hashlib.sha256(content.tobytes()).hexdigest() != saved[name]["sha256"]:
                raise self._damaged(step, f"{name} differs from its digest")
            yield content

    def _read(self, step: int, item: str, args: ocp.args.CheckpointArgs) -> PyTree:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        # Orbax documents no error for damaged files, and raises anything from KeyError to a bare
        # Exception, with messages of many lines.
        except Exception as error:
            raise self._damaged(step, _first_line(error)) from error

    def _damaged(self, step: int, reason: str) -> _Damaged:
        return _Damaged(f"checkpoint step {step} in {self.directory} is damaged ({reason})")


class _NewestAndBest:
    """The steps that outlive a save; Orbax asks after each one.

    Attributes:
      metrics: by kept step; None for a step that cannot be the best.
    """

    def __init__(self) -> None:
        self.metrics: dict[int, float | None] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Whether to keep each of Orbax's checkpoints, which come oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        keep = {*steps[-NEWEST_KEPT:], _lowest(self.metrics)}
        return [step in keep for step in steps]


def _lowest(metrics: Mapping[int, float | None]) -> int | None:
    """The step with the lowest metric, the earliest of equals; None if no step has one."""
    validated = {step: metric for step, metric in metrics.items() if metric is not None}
    return min(validated, key=lambda step: (validated[step], step), default=None)


def _first_line(error: Exception) -> str:
    """The type of an error and the beginning of its message, which may be long, or empty."""
    return f"{type(error).__name__} {(str(error).splitlines() or [''])[0][:120]}".strip()


def _is_not_orbax_chatter(entry: logging.LogRecord) -> bool:
    """Drops Orbax's entries in absl's log, with tracebacks: errors that matter are raised here."""
    return "orbax" not in pathlib.Path(entry.pathname).parts
