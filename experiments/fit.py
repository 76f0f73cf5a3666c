"""One run of training: what it is made of, its steps, its validations and its report."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from experiments.problem import Molecules, Predictor, Problem, part, print_results
from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import liveness
from hdgnn_jax.graphs import batching
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import hosts, loop, step
from hdgnn_jax.training.card import reproduction_card
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.report import SplitResult, write_report

TURNED = 256
"""First so many validation molecules are also predicted turned, each by a random rotation."""
MAX_SPIKES = 5
"""A run that goes back more often will not converge."""


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


@dataclasses.dataclass
class Past:
    """How far a run has come.

    Attributes:
      began: when this process took it up, on the monotonic clock.
      seconds, compilations: of the processes before.
      resumed: steps that it went on from.
      left_out: batches that a spike of the loss made it leave out.
      memory: of the training loop.
    """

    began: float
    seconds: float = 0.0
    compilations: int = 0
    resumed: list[int] = dataclasses.field(default_factory=list)
    left_out: int = 0
    memory: loop.Memory = dataclasses.field(default_factory=loop.Memory)


@dataclasses.dataclass
class Fit:
    """A run, ready to go on.

    Attributes:
      settings: its course.
      workdir, checkpoints: where it is kept.
      predictor: problem, model and devices.
      train: the training molecules.
      validation: those that it validates on while it trains.
      loader: of batches.
      train_step: jitted.
      key: the root of the run's random numbers.
      digest: of the data, as they were when the run was taken up.
      state: weights, averages, optimiser state, number of steps.
      past: how far it has come.
    """

    settings: Training
    workdir: pathlib.Path
    checkpoints: Checkpoints
    predictor: Predictor
    train: Molecules
    validation: Molecules
    loader: Loader
    train_step: jax.stages.Wrapped
    key: jax.Array
    digest: str
    state: step.TrainState
    past: Past

    @classmethod
    def prepare(
        cls,
        config: Mapping[str, Any],
        settings: Training,
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        record: Mapping[str, Any] | None,
        began: float,
    ) -> Fit:
        """Reads the data, fits what is fitted before training, and makes or restores the state.

        `record` is that of the run's last checkpoint; None: it has none.

        Raises:
          As `train.run`.
        """
        train, validation = part(config, "train"), part(config, "validation")
        if record is None:
            problem, learned = Problem.fitted(config, train)
        else:
            # What was fitted then: elsewhere the same fit can end in other digits.
            problem = Problem.from_record(record)
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
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        train_step = step.make_train_step(
            problem.apply, problem.optimizer, mesh, key, settings.ema, settings.forces_weight,
            settings.divide_state,
        )  # fmt: skip
        run = cls(
            settings,
            workdir,
            checkpoints,
            Predictor(problem, mesh, loader.budgets[-1]),
            train,
            validation.first(settings.validation_size),
            loader,
            train_step,
            key,
            problem.data.digest(),
            problem.init_state(mesh, settings.divide_state),
            Past(began),
        )
        if record is not None:
            run.resume()
        return run

    @property
    def problem(self) -> Problem:
        """What is trained."""
        return self.predictor.problem

    @property
    def n_parameters(self) -> int:
        """Of the network."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def resume(self) -> None:
        """Takes the last checkpoint's state, and what it says of the run."""
        record, at = self.restore()
        past = self.past
        past.seconds, past.compilations = record["seconds"], record["compilations"]
        past.resumed, past.left_out = [*record["resumed"], at], record["left_out"]

    def restore(self) -> tuple[Mapping[str, Any], int]:
        """Takes the last checkpoint's state and memory; gives its record and step."""
        # Of arrays that the step has given away, shapes are left.
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            self.state,
        )
        restored = self.checkpoints.restore(like)
        self.state = restored.state
        self.past.memory = loop.Memory.from_dict(restored.record["memory"])
        return restored.record, restored.step

    def announce(self) -> None:
        """Prints what is trained on what."""
        loader, settings, target = self.loader, self.settings, self.problem.target
        start = int(self.state.step)
        print(
            f"HDGNN, {self.n_parameters:,} parameters, for {target.name} [{target.unit}] on "
            f"{len(self.train.structures):,} structures of {self.problem.data.title}: "
            f"{settings.steps:,} steps of {settings.batch_size} on {self.predictor.mesh.size} "
            f"device(s), {len(loader.budgets)} shapes, padding efficiency "
            f"{loader.padding_efficiency:.1%}" + (f"; goes on from step {start:,}" if start else "")
        )

    def fit(self, stop: Callable[[int], bool], debug_nans: bool) -> None:
        """Takes the steps that are left; after a spike of the loss, from the last checkpoint on.

        Raises:
          DivergedError, StoppedError: of `loop.train`.
        """
        start = int(self.state.step)
        for _ in range(MAX_SPIKES):
            try:
                self.go_on(start, stop, debug_nans)
                return
            except loop.SpikeError as spike:
                if not self.checkpoints.steps():
                    raise loop.DivergedError(
                        f"{spike}, before the first checkpoint: lower optimizer.learning_rate or "
                        "optimizer.clip"
                    ) from spike
                _, start = self.restore()
                self.past.left_out += spike.step - start
                print(f"{spike}: back to step {start:,}, without the batches since")
        raise loop.DivergedError(
            f"{MAX_SPIKES} spikes of the loss: lower optimizer.learning_rate or optimizer.clip"
        )

    def go_on(self, start: int, stop: Callable[[int], bool], debug_nans: bool) -> None:
        """From a step to the last one, with curves and a progress bar."""
        settings, sharding = self.settings, step.sharded(self.predictor.mesh)
        batches = prefetch(
            lambda k: self.loader.batch(self.batch_of(k)), start, settings.steps, sharding
        )
        writing = MetricWriter(self.workdir, start or None) if hosts.is_first() else nullcontext()
        with writing as writer, progress_bar("molecules") as progress:
            task = progress.add_task(
                "compiling", total=settings.steps, completed=start, per=settings.batch_size
            )

            def show(done: int, loss: float, mae: float | None) -> None:
                text = f"loss {loss:.4f}" + ("" if mae is None else f", MAE {mae:.4g}")
                progress.update(task, completed=done, description=text)

            def write(at: int, row: Mapping[str, Any]) -> None:
                if writer:
                    writer.write(at, {**row, "seconds": self.course()["seconds"]})

            self.state = loop.train(
                self.state,
                batches,
                self.train_step,
                steps=settings.steps,
                log_every=settings.log_every,
                validate_at=settings.validations,
                validate=self.validate,
                save=self.save,
                write=write,
                show=show,
                max_skipped=settings.max_skipped,
                records=self.records,
                stop=stop,
                spike=settings.spike,
                memory=self.past.memory,
                locate=self.locate if debug_nans else None,
            )

    def validate(self, params: step.Params) -> dict[str, float]:
        """Error, rotation error and what is alive, of averaged weights."""
        predictor, few = self.predictor, self.validation.first(TURNED)
        found = predictor.result("validation", self.validation, params, final=False)
        alive = predictor.liveness(few, params)
        for line in liveness.obituary(alive):
            print(f"warning: {line}")
        return {
            "validation_mae": found.mae,
            **({} if found.forces is None else {"validation_mae_forces": found.forces.mae}),
            "rotation_error": predictor.rotation_error(few, params, self.problem.config["seed"]),
            **alive,
        }

    def course(self) -> dict[str, Any]:
        """How long the run has taken, in all its processes, and what happened to it."""
        past = self.past
        return {
            "seconds": past.seconds + time.monotonic() - past.began,
            # A process that goes on with a run compiles the same shapes again.
            "compilations": max(past.compilations, step.compilations(self.train_step)),
            "resumed": past.resumed,
            "left_out": past.left_out,
        }

    def save(self, state: step.TrainState, at: int, mae: float, memory: loop.Memory) -> None:
        """Writes a checkpoint, with all that is needed to go on and to predict."""
        record = {
            **self.predictor.record(),
            **self.course(),
            "memory": memory.to_dict(),
            "split_digest": self.digest,
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
        }
        self.checkpoints.save(at, state, record, mae)

    def locate(self, state: step.TrainState, batch: batching.MolecularGraph) -> str:
        """Where the first number arises that is not finite, in the step just taken."""
        key = jax.random.fold_in(self.key, int(state.step) - 1)
        return self.problem.locate(state, batch, key)

    def batch_of(self, k: int) -> int:
        """The batch of step k. Their padded shapes are those of one pass: a few come twice."""
        return (k + self.past.left_out) % self.settings.steps

    def records(self, k: int) -> dict[int, str]:
        """Id to name of the structures in the batch of step k."""
        drawn, structures = self.loader.molecules(self.batch_of(k)).ravel(), self.train.structures
        return {int(structures.ids[m]): structures.name(m) for m in drawn}

    def report(self, results: Sequence[SplitResult]) -> None:
        """Writes the report, and prints its table."""
        problem, done, folder = self.problem, self.course(), self.workdir / "report"
        write_report(
            folder,
            target=problem.target.name,
            unit=problem.target.unit,
            results=results,
            history=read_metrics(self.workdir),
            paper=problem.data.paper(problem.target),
            note=problem.note,
            run={
                "seconds": done["seconds"],
                "compilations": done["compilations"],
                "padding_efficiency": self.loader.padding_efficiency,
                "parameters": self.n_parameters,
            },
            card=reproduction_card(
                problem.config,
                seed=problem.config["seed"],
                split_digest=self.digest,
                parameters=self.n_parameters,
                seconds=done["seconds"],
                resumed=done["resumed"],
                left_out=done["left_out"],
            ),
        )
        print_results(problem, results)
        print(f"{done['seconds']:.0f} s, {done['compilations']} compilations; report in {folder}")
