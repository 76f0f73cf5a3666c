"""Trains HDGNN on QM9, OC20 IS2RE, or a file that ASE reads.

    python -m experiments.train --config=experiments/configs/qm9.py:quick --workdir=runs/quick

Configs: qm9.py, is2re.py, ase.py (forces, dipole moments), ablations.py, each explained in itself.
Any field of the config can be set: --config.target=gap --config.model.channels=32. The same command
goes on with a run that was interrupted. What a run leaves in its folder: checkpoints/,
metrics.jsonl and TensorBoard curves, report/.
"""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

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
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import loop, step
from hdgnn_jax.training.card import reproduction_card
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.report import write_report
from hdgnn_jax.training.workdir import occupied

TURNED = 256
"""First so many validation molecules are also predicted turned, each by a random rotation."""


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
    forces_weight: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name in ("max_skipped", "forces_weight") and value < 0:
                raise ValueError(f"training.{name} must not be negative: {value}")
            if name not in ("max_skipped", "forces_weight", "ema") and value < 1:
                raise ValueError(f"training.{name} must be at least 1, not {value}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"training.ema must be at least 0 and less than 1, not {self.ema}")

    @property
    def validations(self) -> set[int]:
        """Steps after which to validate: an early one, then at equal distances, and the last."""
        return {self.first_validation, *range(self.validate_every, self.steps, self.validate_every),
                self.steps}  # fmt: skip


def main() -> None:
    """The program. SIGTERM, as schedulers send it, ends it after the step at hand."""
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        run(program.read_config(), program.workdir(), terminated.is_set)
    except StoppedError as stopped:
        print(stopped)
        sys.exit(128 + signal.SIGTERM)


def run(
    config: dict[str, Any], workdir: pathlib.Path, stop: Callable[[], bool] = lambda: False
) -> None:
    """Trains, validates, tests and reports; goes on where an earlier call stopped.

    Args:
      config: nested, JSON-able; see experiments/configs.
      workdir: folder of the run.
      stop: asked after each step whether to end, with the state saved.

    Raises:
      ValueError, QM9Error, Is2reError, StructureError, CheckpointError, DivergedError: each
        with one line that says what to do.
      StoppedError: after `stop`.
    """
    with occupied(workdir):
        _run(config, workdir, stop)


def _run(config: dict[str, Any], workdir: pathlib.Path, stop: Callable[[], bool]) -> None:
    began = time.monotonic()
    settings = from_section(config, "training", Training)
    check(config)
    mesh = step.make_mesh()
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
        problem = Problem.from_training_set(config, train)
        loader = Loader(
            train.structures,
            train.neighbors,
            problem.reference.standardise(train.structures, train.raw),
            settings.batch_size,
            config["seed"],
            settings.steps,
            mesh.size,
            settings.n_budgets,
            problem.standardised_forces(train),
        )

        # Model
        predictor = Predictor(problem, mesh, loader.budgets[-1])
        state = problem.init_state(mesh)
        n_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        train_step = step.make_train_step(
            problem.apply, problem.optimizer, mesh, key, settings.ema, settings.forces_weight
        )

        # Where an interrupted run stopped
        seconds_before, compilations_before, resumed = 0.0, 0, []
        if past is not None:
            restored = checkpoints.restore(state)
            state, past = restored.state, restored.record
            seconds_before, compilations_before = past["seconds"], past["compilations"]
            resumed = [*past["resumed"], restored.step]
        start = int(state.step)

        few = some.first(TURNED)

        def validate(params: step.Params) -> dict[str, float]:
            found = predictor.result("validation", some, params, show=False)
            return {
                "validation_mae": found.mae,
                **({} if found.forces is None else {"validation_mae_forces": found.forces.mae}),
                "rotation_error": predictor.rotation_error(few, params, config["seed"]),
            }

        def course() -> dict[str, Any]:
            return {
                "seconds": seconds_before + time.monotonic() - began,
                # A process that goes on with a run compiles the same shapes again.
                "compilations": max(compilations_before, step.compilations(train_step)),
                "resumed": resumed,
            }

        def save(state: step.TrainState, at: int, mae: float) -> None:
            record = {
                **predictor.record(),
                **course(),
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
        with (
            MetricWriter(workdir, start if past is not None else None) as writer,
            progress_bar("molecules") as progress,
        ):
            task = progress.add_task(
                "compiling", total=steps, completed=start, per=settings.batch_size
            )

            def show(done: int, loss: float, mae: float | None) -> None:
                text = f"loss {loss:.4f}" + ("" if mae is None else f", MAE {mae:.4g}")
                progress.update(task, completed=done, description=text)

            loop.train(
                state,
                prefetch(loader.batch, start, steps, step.sharded(mesh)),
                train_step,
                steps=steps,
                log_every=settings.log_every,
                validate_at=settings.validations,
                validate=validate,
                save=save,
                writer=writer,
                show=show,
                max_skipped=settings.max_skipped,
                records=lambda k: [train.structures.name(m) for m in loader.molecules(k).ravel()],
                stop=stop,
            )

        # Report, from the weights that were best on validation
        results = best_results(checkpoints, predictor, problem.data.reported)
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
