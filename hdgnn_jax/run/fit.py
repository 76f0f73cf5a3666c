"""One run of training: its parts, steps, validations and report."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from contextlib import nullcontext

import jax
import numpy as np

from hdgnn_jax.config import from_section, with_tuples
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import names_of
from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.evaluation import liveness
from hdgnn_jax.graphs import batching
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import restore_weights
from hdgnn_jax.models import nonfinite
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run import results
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.pretrained import Pretrained
from hdgnn_jax.run.results import Results, print_results, report_of
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training import distributed, leaves, loop, losses, step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.optimizer import learning_rate_at
from hdgnn_jax.training.provenance import reproduction_card
from hdgnn_jax.training.record import Course, Record
from hdgnn_jax.training.report import write_report
from hdgnn_jax.types import Config, Fields, Params

MAX_SPIKES = 5
"""A run that goes back more often will not converge."""


@dataclasses.dataclass
class Fit:
    """A run, ready to go on.

    Attributes:
      task: targets, data and network.
      settings: the section `training` of its config.
      workdir, checkpoints: its folder and its checkpoints.
      predictor: predicts with the network; `validate` and `results` give it other weights.
      train: the training structures.
      validation: the structures that it validates on during training.
      loader: makes the batches.
      train_step: the jitted training step.
      key: the root of the run's random numbers.
      digest: digest of the data when this process took the run up.
      state: weights, averages, optimiser state, number of steps.
      began: when this process took it up, on the monotonic clock.
      source: the run whose weights it has just taken.
      course: time and resumptions of earlier processes.
      memory: memory of the loop between steps.
      errors: errors of the last validation, by target.
    """

    task: Task
    settings: Training
    workdir: pathlib.Path
    checkpoints: Checkpoints
    predictor: Predictor
    train: Examples
    validation: Examples
    loader: Loader
    train_step: jax.stages.Wrapped
    key: jax.Array
    digest: str
    state: step.TrainState
    began: float
    source: Pretrained | None = None
    course: Course = dataclasses.field(default_factory=Course)
    memory: loop.Memory = dataclasses.field(default_factory=loop.Memory)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        config: Config,
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        record: Record | None,
        began: float,
    ) -> Fit:
        """Reads the data, fits references and baselines, and makes or restores the state.

        `record` is that of the run's last checkpoint; None: it has none.

        Raises:
          As `experiments.train.run`.
        """
        settings, data = from_section(config, "training", Training), dataset(config)
        source = None if record is not None else Pretrained.of(config)
        # The test parts are read too, so that bad data are found before training.
        parts = {name: examples(config, data, name) for name in ("train", *data.reported)}
        train, validation = parts["train"], parts["validation"]
        task, learned = Task.of_run(config, data, train, source, record)
        loader = loader_of(task, settings, train, learned, mesh)
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        state = task.init_state(mesh, settings.divide_state, source)
        run = cls(
            task,
            settings,
            workdir,
            checkpoints,
            task.predictor(state.ema, loader.budgets[-1], mesh),
            train,
            validation.first(settings.validation_size),
            loader,
            step.make_train_step(
                task.apply, task.optimizer, mesh, key, settings.ema, task.weights,
                settings.divide_state,
            ),
            key,
            data.digest(),
            state,
            began,
            source,
        )  # fmt: skip
        if record is not None:
            run.resume()
        elif source is not None:
            run.course.init_digest = source.digest
        return run

    @property
    def n_parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def resume(self) -> None:
        """Takes the last checkpoint's state, and the course of the run until then."""
        record, at = self.restore()
        course = record.course
        self.course = dataclasses.replace(course, resumed=[*course.resumed, at])
        if record.steps < self.settings.steps:
            extension = {"at_step": at, "of_steps": record.steps}
            self.course.extended = [*course.extended, extension]

    def restore(self) -> tuple[Record, int]:
        """Takes the last checkpoint's state and memory; gives its record and step."""
        # Arrays whose buffers the step has taken still have shapes.
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            self.state,
        )
        restored = self.checkpoints.restore(like)
        record = Record.from_dict(restored.record)
        self.state, self.memory = restored.state, record.memory
        self.errors = dict(record.errors)
        return record, restored.step

    def announce(self) -> None:
        """Prints a summary of the run and its data, with warnings."""
        loader, settings, fitted = self.loader, self.settings, self.task.fitted
        units = {one.target.unit for one in fitted}
        unit = f" [{units.pop()}]" if len(units) == 1 else ""
        start = int(self.state.step)
        print(
            f"HDGNN, {self.n_parameters:,} parameters, for {names_of(fitted)}{unit} on "
            f"{len(self.train):,} structures of {self.task.data.title}: "
            f"{settings.steps:,} steps of {settings.batch_size} on {self.predictor.mesh.size} "
            f"device(s), {len(loader.budgets)} shapes, padding efficiency "
            f"{loader.padding_efficiency:.1%}" + (f"; goes on from step {start:,}" if start else "")
        )
        if self.course.extended and self.course.extended[-1]["at_step"] == start:
            print(self.of_extension(**self.course.extended[-1]))
        if self.source is not None:
            print(self.source.told(self.task.config, fitted, self.task.model.hyper))
        names, data = [one.name for one in fitted], self.task.data
        for line in dict.fromkeys(data.how_divided(name) for name in names):
            print(line, end="\n" * bool(line))
        for line in dict.fromkeys(line for name in names for line in data.summary(name)):
            print(line)
        for warning in self.task.warnings(self.train):
            print(f"warning: {warning}")

    def of_extension(self, at_step: int, of_steps: int) -> str:
        """A sentence on the learning rate before and after the number of steps was raised."""

        def rate(k: int, steps: int) -> str:
            section = with_tuples(self.task.config["optimizer"])
            return f"{learning_rate_at(k, steps=steps, **section):.2g}"

        steps = self.settings.steps
        return (
            f"training.steps was {of_steps:,}: the learning rate was {rate(at_step - 1, of_steps)} "
            f"at step {at_step:,}; from here on it is that of a run of {steps:,} steps, "
            f"{rate(at_step, steps)} now and {rate(steps - 1, steps)} at the end"
        )

    def fit(self, stop: Callable[[int], bool], debug_nans: bool) -> None:
        """Takes the remaining steps; after a spike of the loss, goes on from the last checkpoint.

        Raises:
          DivergedError, StoppedError: as `loop.Loop.train` does.
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
                self.course.left_out += spike.step - start
                print(f"{spike}: back to step {start:,}; the batches since then are left out")
        raise loop.DivergedError(
            f"{MAX_SPIKES} spikes of the loss: lower optimizer.learning_rate or optimizer.clip"
        )

    def go_on(self, start: int, stop: Callable[[int], bool], debug_nans: bool) -> None:
        """Trains from a step to the last one, with curves and a progress bar."""
        settings, sharding = self.settings, step.sharded(self.predictor.mesh)
        batches = prefetch(
            lambda k: self.loader.batch(self.batch_of(k)), start, settings.steps, sharding
        )
        first = distributed.is_first()
        writing = MetricWriter(self.workdir, start or None) if first else nullcontext()
        with writing as writer, progress_bar("structures") as progress:
            task = progress.add_task(
                "compiling", total=settings.steps, completed=start, per=settings.batch_size
            )

            # Of several targets it is a mean over them: see `results.overall`.
            (unit, *others) = (one.target.unit for one in self.task.fitted)
            error = "error / spread {:.4g}" if others else f"MAE {{:.4g}} {unit}"

            def show(done: int, loss: float, mae: float | None) -> None:
                text = f"loss {loss:.4f}" + ("" if mae is None else f", {error.format(mae)}")
                progress.update(task, completed=done, description=text)

            def write(at: int, row: Fields) -> None:
                if writer:
                    writer.write(at, {**row, "seconds": self.so_far().seconds})

            self.state = loop.Loop(
                train_step=self.train_step,
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
                memory=self.memory,
                locate=self.locate if debug_nans else None,
            ).train(self.state, batches)

    def validate(self, params: Params) -> dict[str, float]:
        """Measures error, rotation error and live parts of the network with averaged weights."""
        predictor = self.predictor.with_params(self.whole(params))
        row, self.errors = results.validated(self.task, predictor, self.validation)
        for line in liveness.dead_parts(row):
            print(f"warning: {line}")
        return row

    def so_far(self) -> Course:
        """The course of the run in all its processes, this one included."""
        before = self.course
        return dataclasses.replace(
            before,
            seconds=before.seconds + time.monotonic() - self.began,
            # A process that goes on with a run compiles the same shapes again.
            compilations=max(before.compilations, step.compilations(self.train_step)),
        )

    def save(self, state: step.TrainState, at: int, mae: float, memory: loop.Memory) -> None:
        """Writes a checkpoint, with all that resuming and prediction need."""
        task = self.task
        record = Record(
            config=task.config,
            model=task.model.hyper.to_dict(),
            fitted=task.fitted,
            errors=self.errors,
            domain=task.domain,
            budget=self.loader.budgets[-1],
            split_digest=self.digest,
            course=self.so_far(),
            memory=memory,
        )
        self.checkpoints.save(at, state, record.to_dict(), mae)

    def whole(self, params: Params) -> Params:
        """The weights, whole on every device; a state may be divided among several processes."""
        return leaves.everywhere(params, step.replicated(self.predictor.mesh))

    def locate(self, state: step.TrainState, batch: batching.MolecularGraph) -> str:
        """Finds where the first number that is not finite arises in the step just taken.

        Args:
          state: the state after the step, which did not change the weights.
          batch: the step's batch, on the devices.
        """
        task, key = self.task, jax.random.fold_in(self.key, int(state.step) - 1)
        params = jax.device_get(self.whole(state.params))
        found = None
        for shard in range(len(batch.n_node.addressable_shards)):
            graph = jax.tree.map(
                lambda leaf, k=shard: np.asarray(leaf.addressable_shards[k].data)[0], batch
            )

            def loss(params: Params, graph: batching.MolecularGraph = graph) -> jax.Array:
                outputs = task.apply({"params": params}, graph, train=True, rngs={"frame": key})
                return losses.l1(outputs, graph, losses.count(graph), task.weights)

            found = found or nonfinite.locate(task.model, params, graph, key, loss)
        return (
            distributed.first_said(found)
            or "a number that is finite where each device's part is computed alone"
        )

    def batch_of(self, k: int) -> int:
        """Number of step k's batch. After spikes the first batches come again: their shapes fit."""
        return (k + self.course.left_out) % self.settings.steps

    def records(self, k: int) -> dict[int, str]:
        """Id to name of the structures in the batch of step k."""
        drawn, structures = self.loader.molecules(self.batch_of(k)).ravel(), self.train.structures
        return {int(structures.ids[m]): structures.name(m) for m in drawn}

    def results(self) -> Results:
        """The results on the reported parts, of the weights that were best on validation."""
        params = restore_weights(self.checkpoints, self.task.model, self.predictor.mesh)
        return results.results(self.task, self.predictor.with_params(params))

    def report(self, results: Results) -> None:
        """Writes the report, and prints its table."""
        task, done, folder = self.task, self.so_far(), self.workdir / "report"
        write_report(
            folder,
            [report_of(task, one, results[one.name]) for one in task.fitted],
            history=read_metrics(self.workdir),
            note=task.note,
            run={
                "seconds": done.seconds,
                "compilations": done.compilations,
                "padding_efficiency": self.loader.padding_efficiency,
                "parameters": self.n_parameters,
            },
            card=reproduction_card(
                task.config, done, split_digest=self.digest, parameters=self.n_parameters
            ),
        )
        print_results(task, results)
        print(f"{done.seconds:.0f} s, {done.compilations} compilations; report in {folder}")


def loader_of(
    task: Task,
    settings: Training,
    train: Examples,
    learned: Examples,
    mesh: jax.sharding.Mesh,
) -> Loader:
    """The batches of a run.

    Args:
      task, settings: those of the run.
      train: the training structures.
      learned: `Task.to_learn` of these structures.
      mesh: devices that share a batch.
    """
    return Loader(
        train.structures,
        train.neighbors,
        task.training_targets(train, learned),
        settings.batch_size,
        task.config["seed"],
        settings.steps,
        mesh.size,
        settings.n_budgets,
        *task.standardised_slopes(learned),
        batching.own_shards(step.sharded(mesh)),
    )
