"""Trains HDGNN on QM9, OC20 IS2RE, or a file that ASE reads.

    python -m experiments.train --config=experiments/configs/qm9.py:quick --workdir=runs/quick

Configs: qm9.py, is2re.py, ase.py (forces, dipole moments), ablations.py, each explained in itself.
Any field of the config can be set: --config.target=gap --config.model.channels=32. The same command
goes on with a run that was interrupted. What a run leaves in its folder: checkpoints/,
metrics.jsonl and TensorBoard curves, report/.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import program
from experiments.problem import (
    Predictor,
    Problem,
    best_results,
    check,
    from_section,
    part,
    print_results,
)
from experiments.sets import data_set
from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.evaluation import liveness
from hdgnn_jax.graphs import batching
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import hosts, loop, step
from hdgnn_jax.training.card import reproduction_card
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.report import write_report
from hdgnn_jax.training.workdir import occupied

TURNED = 256
"""First so many validation molecules are also predicted turned, each by a random rotation."""
MAX_SPIKES = 5
"""A run that goes back more often will not converge."""

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "one of several processes; Cloud TPU or Slurm says which"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT, of process 0, where nothing else says it"
)
PROCESSES = flags.DEFINE_integer("num_processes", None, "N, processes that train together")
PROCESS = flags.DEFINE_integer("process_id", None, "K, this one, from 0")
PATIENCE = flags.DEFINE_float(
    "patience", 300, "SECONDS, to wait until all processes are there", lower_bound=1
)
DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans", False, "stop at the first number that is not finite and name its layer; slower"
)


@dataclasses.dataclass(frozen=True)
class Training:
    """The course of a run.

    Attributes:
      batch_size: structures, over all devices.
      steps: of the run.
      validate_every: steps.
      first_validation: step of an early one.
      validation_size: first so many validation structures, while training.
      log_every: steps.
      n_budgets: padded shapes, that is compilations.
      ema: decay of the averaged weights.
      max_skipped: steps that may be skipped, since their loss or gradient is not finite, before the
        run stops.
      spike: where a logged loss is more than so many times the median of those before it, the run
        goes back to its last checkpoint and leaves out the batches since; 0: never.
      divide_state: whether each device holds but its part of weights and optimiser state (FSDP).
      auxiliary: whether the network also learns, with a second output and the same weight, what
        the composition leaves of the target. With `data.reference = linear` what is left is too
        little to find features by; those found for this output serve both.
      forces_weight: Å, of the error of forces in the loss, beside that of the target; 0: forces are
        not trained on.
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

    def __post_init__(self) -> None:
        free = ("max_skipped", "forces_weight", "spike")
        for name, value in dataclasses.asdict(self).items():
            if name in free and value < 0:
                raise ValueError(f"training.{name} must not be negative: {value}")
            if name not in (*free, "ema", "divide_state", "auxiliary") and value < 1:
                raise ValueError(f"training.{name} must be at least 1, not {value}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"training.ema must be at least 0 and less than 1, not {self.ema}")
        if 0 < self.spike <= 1:
            raise ValueError(f"training.spike must be 0 or more than 1, not {self.spike}")

    @property
    def validations(self) -> set[int]:
        """Steps after which to validate: an early one, then at equal distances, and the last."""
        return {self.first_validation, *range(self.validate_every, self.steps, self.validate_every),
                self.steps}  # fmt: skip


def main() -> None:
    """The program. SIGTERM, as schedulers send it, ends it after the step at hand."""
    place = COORDINATOR.value, PROCESSES.value, PROCESS.value
    if DISTRIBUTED.value or any(value is not None for value in place):
        hosts.connect(*place, PATIENCE.value)
        # JAX has a handler of its own by now, so that all processes stop after the same step.
        stop = hosts.preempted
        if not hosts.is_first():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, to the end of the process
            logging.getLogger("hdgnn_jax").setLevel(logging.ERROR)
    else:
        terminated = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: terminated.set())

        def stop(step: int) -> bool:
            return terminated.is_set()

    try:
        run(program.read_config(), program.workdir(), stop, DEBUG_NANS.value)
    except StoppedError as stopped:
        print(stopped)
        sys.exit(128 + signal.SIGTERM)


def run(
    config: dict[str, Any],
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
    with occupied(workdir):
        _run(config, workdir, stop, debug_nans, report)


def _run(
    config: dict[str, Any],
    workdir: pathlib.Path,
    stop: Callable[[int], bool],
    debug_nans: bool,
    report: bool,
) -> None:
    began = time.monotonic()
    settings = from_section(config, "training", Training)
    check(config)
    mesh = step.make_mesh()
    # Refuses a batch that cannot be dealt, before any data are read.
    batching.deal(np.zeros((1, settings.batch_size), int), mesh.size)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        past = checkpoints.record() if checkpoints.steps() else None
        if past is not None:
            refuse_other_config(past["config"], config, workdir)
        if past is not None and past["split_digest"] != data_set(config).digest():
            raise CheckpointError(
                f"{workdir} holds a run on other data of the same name: choose another --workdir"
            )
        if past is not None and (workdir / "report" / "summary.json").exists():
            print(f"finished already; report in {workdir / 'report'}")
            predictor = Predictor.from_record(past, mesh)
            names = predictor.problem.data.reported
            results = best_results(checkpoints, predictor, names)
            print_results(predictor.problem, results)
            return

        # Data
        train, validation = part(config, "train"), part(config, "validation")
        some = validation.first(settings.validation_size)
        if past is None:
            problem, learned = Problem.fitted(config, train)
        else:
            # What was fitted then: elsewhere the same fit can end in other digits.
            problem = Problem.from_record(past)
            learned = problem.to_learn(train)
        loader = Loader(
            train.structures,
            train.neighbors,
            problem.training_targets(train, learned),
            settings.batch_size,
            config["seed"],
            settings.steps,
            mesh.size,
            settings.n_budgets,
            problem.standardised_forces(learned),
            batching.own_shards(step.sharded(mesh)),
        )

        # Model
        predictor = Predictor(problem, mesh, loader.budgets[-1])
        state = problem.init_state(mesh, settings.divide_state)
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        n_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        train_step = step.make_train_step(
            problem.apply, problem.optimizer, mesh, key, settings.ema, settings.forces_weight,
            settings.divide_state,
        )  # fmt: skip

        # Where an interrupted run stopped
        seconds_before, compilations_before, resumed, left_out = 0.0, 0, [], 0
        memory = loop.Memory()
        if past is not None:
            restored = checkpoints.restore(like)
            state, past = restored.state, restored.record
            seconds_before, compilations_before = past["seconds"], past["compilations"]
            resumed, left_out = [*past["resumed"], restored.step], past["left_out"]
            memory = loop.Memory.from_dict(past["memory"])
        start = int(state.step)

        few = some.first(TURNED)

        def validate(params: step.Params) -> dict[str, float]:
            found = predictor.result("validation", some, params, final=False)
            alive = predictor.liveness(few, params)
            for line in liveness.obituary(alive):
                print(f"warning: {line}")
            return {
                "validation_mae": found.mae,
                **({} if found.forces is None else {"validation_mae_forces": found.forces.mae}),
                "rotation_error": predictor.rotation_error(few, params, config["seed"]),
                **alive,
            }

        def course() -> dict[str, Any]:
            return {
                "seconds": seconds_before + time.monotonic() - began,
                # A process that goes on with a run compiles the same shapes again.
                "compilations": max(compilations_before, step.compilations(train_step)),
                "resumed": resumed,
                "left_out": left_out,
            }

        def locate(state: step.TrainState, batch: batching.MolecularGraph) -> str:
            return problem.locate(state, batch, jax.random.fold_in(key, int(state.step) - 1))

        def save(state: step.TrainState, at: int, mae: float, memory: loop.Memory) -> None:
            record = {
                **predictor.record(),
                **course(),
                "memory": memory.to_dict(),
                "split_digest": split_digest,
                "key": np.asarray(jax.random.key_data(key)).tolist(),
            }
            checkpoints.save(at, state, record, mae)

        # Training
        split_digest = problem.data.digest()
        steps, unit = settings.steps, problem.target.unit
        print(
            f"HDGNN, {n_parameters:,} parameters, for {problem.target.name} [{unit}] on "
            f"{len(train.structures):,} structures of {problem.data.title}: {steps:,} steps of "
            f"{settings.batch_size} on {mesh.size} device(s), {len(loader.budgets)} shapes, "
            f"padding efficiency {loader.padding_efficiency:.1%}"
            + (f"; goes on from step {start:,}" if start else "")
        )
        first = hosts.is_first()

        def of_step(k: int) -> int:
            # The budgets are those of the run's own batches; a few of them come twice.
            return (k + left_out) % steps

        def names_of(k: int) -> list[str]:
            return [train.structures.name(m) for m in loader.molecules(of_step(k)).ravel()]

        def go_on(state: step.TrainState, start: int, memory: loop.Memory) -> None:
            batches = prefetch(
                lambda k: loader.batch(of_step(k)), start, steps, step.sharded(mesh)
            )
            with (
                MetricWriter(workdir, start or None) if first else nullcontext() as writer,
                progress_bar("molecules") as progress,
            ):
                task = progress.add_task(
                    "compiling", total=steps, completed=start, per=settings.batch_size
                )

                def show(done: int, loss: float, mae: float | None) -> None:
                    text = f"loss {loss:.4f}" + ("" if mae is None else f", MAE {mae:.4g}")
                    progress.update(task, completed=done, description=text)

                def write(at: int, row: Mapping[str, Any]) -> None:
                    if writer:
                        writer.write(at, {**row, "seconds": course()["seconds"]})

                loop.train(
                    state,
                    batches,
                    train_step,
                    steps=steps,
                    log_every=settings.log_every,
                    validate_at=settings.validations,
                    validate=validate,
                    save=save,
                    write=write,
                    show=show,
                    max_skipped=settings.max_skipped,
                    records=names_of,
                    stop=stop,
                    spike=settings.spike,
                    memory=memory,
                    locate=locate if debug_nans else None,
                )

        for _ in range(MAX_SPIKES):
            try:
                go_on(state, start, memory)
                break
            except loop.SpikeError as spike:
                if not checkpoints.steps():
                    raise loop.DivergedError(
                        f"{spike}, before the first checkpoint: lower optimizer.learning_rate or "
                        "optimizer.clip"
                    ) from spike
                restored = checkpoints.restore(like)
                state, start = restored.state, restored.step
                memory = loop.Memory.from_dict(restored.record["memory"])
                left_out += spike.step - start
                print(f"{spike}: back to step {start:,}, without the batches since")
        else:
            raise loop.DivergedError(
                f"{MAX_SPIKES} spikes of the loss: lower optimizer.learning_rate or optimizer.clip"
            )

        # Report, from the weights that were best on validation
        if not report:
            return
        results = best_results(checkpoints, predictor, problem.data.reported)
    if not first:
        return
    done = course()
    write_report(
        workdir / "report",
        target=problem.target.name,
        unit=unit,
        results=results,
        history=read_metrics(workdir),
        paper=problem.data.paper(problem.target),
        note=problem.note,
        run={
            "seconds": done["seconds"],
            "compilations": done["compilations"],
            "padding_efficiency": loader.padding_efficiency,
            "parameters": n_parameters,
        },
        card=reproduction_card(
            config,
            seed=config["seed"],
            split_digest=split_digest,
            parameters=n_parameters,
            seconds=done["seconds"],
            resumed=resumed,
            left_out=left_out,
        ),
    )
    print_results(problem, results)
    print(
        f"{done['seconds']:.0f} s, {done['compilations']} compilations; "
        f"report in {workdir / 'report'}"
    )


def refuse_other_config(
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    workdir: pathlib.Path,
    of_both: bool = False,
) -> None:
    """Stops before a run is continued, or compared, with other settings than it began with.

    Args:
      saved, asked: nested configs.
      workdir: of the run.
      of_both: leaves aside the fields that one of them has not, being of another revision.

    Raises:
      CheckpointError: naming the fields that differ.
    """
    old, new = flatten(saved), flatten(asked)
    names = old.keys() & new.keys() if of_both else old.keys() | new.keys()
    differing = sorted(k for k in names if old.get(k) != new.get(k))
    if differing:
        shown = ", ".join(f"{k} = {old.get(k)} there, {new.get(k)} here" for k in differing[:4])
        raise CheckpointError(
            f"{workdir} holds a run with another config ({shown}): choose another --workdir"
        )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as {dotted name: value}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.CONFIG, program.WORKDIR])
