"""Trains HDGNN on QM9, OC20 IS2RE, or a file that ASE reads.

    python -m experiments.train --config=experiments/configs/qm9.py:quick --workdir=runs/quick

Configs: qm9.py, is2re.py, ase.py (forces, dipole moments), ablations.py, each explained in itself.
Any field of the config can be set: --config.target=gap --config.model.channels=32. The same command
resumes a run that was interrupted, or, with --config.training.steps raised, one that is finished.
A run leaves checkpoints/, metrics.jsonl and TensorBoard curves, and report/ in its folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from absl import flags

from experiments import program

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "train as one of the processes that Cloud TPU or Slurm started"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, if the environment does not give it"
)
PROCESSES = flags.DEFINE_integer("num_processes", None, "N, processes that train together")
PROCESS = flags.DEFINE_integer("process_id", None, "K, number of this process, from 0")
PATIENCE = flags.DEFINE_float(
    "patience", 300, "SECONDS to wait for the other processes", lower_bound=1
)
DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans", False, "stop at the first number that is not finite and name its layer; slower"
)
FREE = (
    "data.cache", "data.path", "data.test_path", "data.validation_path",
    "training.log_every", "training.max_skipped",
)  # fmt: skip
"""No number depends on these fields, so a run can be continued with other values. A digest tells
whether the data are the same."""

PROGRAM = program.Program(str(__doc__), [program.CONFIG, program.WORKDIR], resumes=True)
if __name__ == "__main__":
    PROGRAM.begin()

import numpy as np

from hdgnn_jax.config import from_section, refuse_other_config
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs import batching
from hdgnn_jax.run.fit import Fit
from hdgnn_jax.run.results import print_results, restored, results
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import check
from hdgnn_jax.training import distributed, step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.workdir import occupied
from hdgnn_jax.types import Config, Fields, Json


def main() -> None:
    """The program. SIGTERM, as schedulers send it, ends it after the current step.

    So does Ctrl-C, where it is the only process.
    """
    config = program.read_config()
    place = COORDINATOR.value, PROCESSES.value, PROCESS.value
    stopping: AbstractContextManager[Callable[[int], bool]]
    if DISTRIBUTED.value or any(value is not None for value in place):
        distributed.connect(*place, PATIENCE.value)
        # JAX has a handler of its own by now, so that all processes stop after the same step.
        stopping = contextlib.nullcontext(distributed.preempted)
        if not distributed.is_first():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, to the end of the process
            logging.getLogger("hdgnn_jax").setLevel(logging.ERROR)
    else:
        stopping = stop_on_signals(config)
    with saying_that_it_stopped(), stopping as stop:
        run(config, program.workdir(), stop, DEBUG_NANS.value)


@contextlib.contextmanager
def saying_that_it_stopped() -> Iterator[None]:
    """Ends the program with 143 after a run that was asked to stop."""
    try:
        yield
    except StoppedError as stopped:
        print(stopped)
        sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals(config: Config) -> Iterator[Callable[[int], bool]]:
    """Lets SIGTERM and Ctrl-C end training after a step; a second Ctrl-C ends it at once.

    After the last step there is nothing to stop but the report. After the block they do what they
    did before.

    Yields:
      A function of the step: whether to stop. Before its first call Ctrl-C ends the program.
    """
    asked, reached = threading.Event(), 0

    def interrupt(*_: object) -> None:
        if asked.is_set() or not reached:
            raise KeyboardInterrupt
        asked.set()
        if reached < config["training"]["steps"]:
            said = "stopping after this step; Ctrl-C again stops without saving"
        else:
            said = "all steps are taken, the report follows; Ctrl-C again stops at once"
        print(said, file=sys.stderr)

    def stop(step: int) -> bool:
        nonlocal reached
        reached = step
        return asked.is_set()

    handlers = {signal.SIGTERM: lambda *_: asked.set(), signal.SIGINT: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    config: Json,
    workdir: pathlib.Path,
    stop: Callable[[int], bool] = lambda step: False,
    debug_nans: bool = False,
    report: bool = True,
) -> None:
    """Trains, validates, tests and reports; goes on where an earlier call stopped.

    Args:
      config: nested, JSON-able; see experiments/configs.
      workdir: folder of the run.
      stop: asked after each step whether to end, with the state saved.
      debug_nans: whether to stop at the first number that is not finite, and name its layer.
      report: whether to test and report; a later call that does has nothing left to train.

    Raises:
      ValueError, QM9Error, Is2reError, StructureError, CheckpointError, DivergedError: each
        with one line that says what to do.
      StoppedError: after `stop`.
    """
    began = time.monotonic()
    settings = from_section(config, "training", Training)
    check(config)
    config = {**config, "data": with_whole_paths(config["data"])}
    mesh, summary = step.make_mesh(), workdir / "report" / "summary.json"
    # Refuses a batch that cannot be dealt, before any data are read.
    batching.deal(np.zeros((1, settings.batch_size), int), mesh.size)
    with occupied(workdir):
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            record = Record.of(checkpoints) if checkpoints.exist() else None
            if record is not None:
                refuse_other_run(record, config, workdir)
                if settings.steps == record.steps and summary.exists():
                    print(f"finished already; report in {workdir / 'report'}")
                    task, predictor = restored(workdir, dataset(config))
                    print_results(task, results(task, predictor))
                    return
            fit = Fit.prepare(config, mesh, workdir, checkpoints, record, began)
            # The report of a run that is extended has the error of earlier weights.
            if distributed.is_first():
                summary.unlink(missing_ok=True)
            fit.announce()
            fit.fit(stop, debug_nans)
            if not report:
                return
            found = fit.results()
        if distributed.is_first():
            fit.report(found)


def with_whole_paths(data: Fields) -> Json:
    """The section `data` with absolute paths, so that a run can be evaluated from any folder."""
    paths = {name: data.get(name) for name in ("path", "validation_path", "test_path", "cache")}
    given = {name: pathlib.Path(path) for name, path in paths.items() if path}
    return {**data, **{name: str(path.expanduser().absolute()) for name, path in given.items()}}


def refuse_other_run(
    record: Record, config: Config, workdir: pathlib.Path
) -> None:
    """Checks that a folder's run is not continued with another config or on other data.

    `training.steps` may be raised, and the fields in `FREE` may differ.

    Raises:
      CheckpointError: naming what differs.
    """
    raised = config["training"]["steps"] > record.steps
    free = (*FREE, "training.steps") if raised else FREE
    if config["init"] is not None and record.config["init"] is not None:
        # The initial weights have been read; they may have been moved since.
        free = (*free, "init")
    refuse_other_config(record.config, config, workdir, free=free)
    if record.split_digest != dataset(config).digest():
        raise CheckpointError(
            f"{workdir} holds a run on other data: choose another --workdir (a file that an "
            "earlier version divided counts as other data)"
        )


if __name__ == "__main__":
    PROGRAM.run(main)
