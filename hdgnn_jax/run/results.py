"""Predictions for the parts of a data set, beside the truth and the baselines."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np

from hdgnn_jax.data.baselines import LinearFit, geometry_of
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.labelled import labelled_rows
from hdgnn_jax.data.targets import isotropic
from hdgnn_jax.data.targets import turned as turn
from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.evaluation import liveness, symmetry
from hdgnn_jax.graphs import batching
from hdgnn_jax.inference.batches import nobody
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import load
from hdgnn_jax.models.forces import Derivatives
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.task import Task
from hdgnn_jax.training import step
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.report import TargetReport, print_tables
from hdgnn_jax.training.result import SplitResult

Results: TypeAlias = dict[str, list[SplitResult]]
"""The results of each target, one for each part."""
TURNED = 256
"""Number of validation molecules, the first, also predicted after a random rotation of each."""
LOOKED_AT = 16
"""Number of structures whose states are examined."""


def restored(
    path: str | os.PathLike[str], data: Dataset | None = None
) -> tuple[Task, Predictor]:
    """The task of a run, and its weights that were best on validation, on all devices.

    Args:
      path: folder of the run, or a file of `weights.pack`.
      data: the same data, if they have been moved; None: those that the config describes.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    mesh = step.make_mesh()
    record, params = load(path, mesh)
    task = Task.from_record(record)
    task = dataclasses.replace(task, data=data or task.data)
    return task, task.predictor(params, record.budget, mesh)


def refuse_changed_data(
    record: Record, data: Dataset, path: str | os.PathLike[str], way: str
) -> None:
    """Checks that the parts of a data set are those that a run had.

    Args:
      record: the run's.
      data: its data set, as it is now.
      path: the run's folder, or its file of weights.
      way: what a user can do besides restoring the data.

    Raises:
      CheckpointError: where they are not.
    """
    if record.split_digest != data.digest():
        raise CheckpointError(
            f"{data.title} has changed since {path} was trained on it, or an earlier version "
            f"divided it otherwise: restore the old data or version, or {way}"
        )


def results(
    task: Task,
    predictor: Predictor,
    names: Sequence[str] | None = None,
    hidden: bool = False,
) -> Results:
    """The results on these parts of the data set.

    Args:
      task, predictor: of a run.
      names: names of the parts; None: those that a report has.
      hidden: whether targets may be missing.

    Raises:
      InputError: before any prediction, for a part that does not exist or has hidden targets.
    """
    parts = {name: task.examples(name) for name in (task.data.reported if names is None else names)}
    for name, examples in parts.items():
        known = [len(examples.labelled(one.name)) for one in task.fitted]
        # A single target must be known for all structures, each of several for some.
        least = len(examples) if len(known) == 1 else 1
        if not hidden and min(known) < least:
            raise InputError(f"the targets of {name} are hidden: use --submission=FILE.npz")
    found: Results = {one.name: [] for one in task.fitted}
    for name, examples in parts.items():
        with progress_bar("structures") as progress:
            advance = functools.partial(
                progress.advance, progress.add_task(name, total=len(examples))
            )
            alone = predicted(name, task, predictor, examples, hidden, advance)
            for target, result in with_baselines(alone, task, examples, hidden).items():
                found[target].append(result)
    return found


def with_baselines(
    found: Mapping[str, SplitResult], task: Task, examples: Examples, hidden: bool = False
) -> dict[str, SplitResult]:
    """Adds the predictions of the baselines to the results of `predicted`, by target."""
    structures, beside = examples.structures, {}
    fits = {
        one.name: fit for one in task.fitted
        if isinstance(fit := one.baselines.get("linear"), LinearFit)
    }  # fmt: skip
    known = geometry_of(fits, structures, examples.neighbors)
    for one in task.fitted:
        result, rows = found[one.name], examples.places(one.name, hidden)
        to_beat = {}
        for name, baseline in one.baselines.items():
            if isinstance(baseline, LinearFit):
                values = baseline.composition.predict(structures) + known[one.name]
            else:
                values = baseline.predict(structures)
            to_beat[name] = isotropic(values[rows], one.target.rank)
        result = dataclasses.replace(result, baselines=to_beat)
        if result.slopes and one.name in fits:
            slopes = fits[one.name].slopes(structures, examples.neighbors)
            result = _with_linear(result, examples, slopes)
        beside[one.name] = result
    return beside


def _with_linear(result: SplitResult, examples: Examples, linear: Derivatives) -> SplitResult:
    """The result, with forces and stress of the linear model as a baseline."""

    def beside(of: SplitResult | None, values: np.ndarray) -> SplitResult | None:
        return of and dataclasses.replace(of, baselines={**of.baselines, "linear": values})

    stress = None
    if examples.virials is not None:
        rows = labelled_rows(examples.virials)
        stress = beside(result.stress, _stress(examples, linear.virial, rows))
    return dataclasses.replace(
        result, forces=beside(result.forces, np.asarray(linear.forces)), stress=stress
    )


def _stress(
    examples: Examples, virials: np.ndarray | jax.Array, rows: np.ndarray
) -> np.ndarray:
    """[m, 3, 3] stress of the structures at these rows."""
    volume = np.abs(np.linalg.det(examples.structures.cells[rows]))
    stress: np.ndarray = np.asarray(virials)[rows] / volume[:, None, None]
    return stress


def predicted(
    name: str,
    task: Task,
    predictor: Predictor,
    examples: Examples,
    hidden: bool = False,
    advance: Callable[[int], object] = nobody,
) -> dict[str, SplitResult]:
    """Predictions and truth in the reported unit, by target, where the truth is known.

    Args:
      name: name of the part.
      task, predictor: of a run.
      examples: the part.
      hidden: whether structures whose truth is unknown are predicted too.
      advance: told the number of structures after each batch (a progress bar).
    """
    found, slopes = {}, None
    if examples.forces is None and examples.virials is None:
        predictions = predictor(examples, advance)
    else:
        predictions, slopes = predictor.slopes(examples, advance)
    for one in task.fitted:
        factor, of_forces, of_stress = one.target.factor, None, None
        rows = examples.places(one.name, hidden)
        if slopes is not None and one.target.potential:
            of_forces, of_stress = _of_slopes(name, examples, slopes, factor)
        found[one.name] = SplitResult(
            split=name,
            ids=examples.structures.ids[rows],
            truth=examples.labels[one.name][rows] * factor,
            prediction=predictions[one.name][rows],
            baselines={},
            threshold=one.target.threshold,
            forces=of_forces,
            stress=of_stress,
        )
    return found


def _of_slopes(
    name: str, examples: Examples, slopes: Derivatives, factor: float
) -> tuple[SplitResult | None, SplitResult | None]:
    """Forces and stress on a part, where they are known, times the factor of the energy's unit."""
    structures = examples.structures

    def result(
        ids: np.ndarray, truth: np.ndarray, prediction: np.ndarray, baseline: str
    ) -> SplitResult:
        return SplitResult(name, ids, truth, prediction, {baseline: np.zeros_like(truth)})

    forces = stress = None
    if examples.forces is not None:
        forces = result(
            np.repeat(structures.ids, structures.n_atoms),
            examples.forces * factor,
            np.asarray(slopes.forces),
            "no forces",
        )
    if examples.virials is not None:
        rows = labelled_rows(examples.virials)
        stress = result(
            structures.ids[rows],
            _stress(examples, examples.virials * factor, rows),
            _stress(examples, slopes.virial, rows),
            "no stress",
        )
    return forces, stress


def validated(
    task: Task, predictor: Predictor, examples: Examples
) -> tuple[dict[str, float], dict[str, float]]:
    """A row of the curves: errors, rotation errors and live parts; and the errors by target."""
    found, few = predicted("validation", task, predictor, examples), examples.first(TURNED)
    errors = {name: result.mae for name, result in found.items()}
    slopes = {
        f"validation_mae_{slope}": of.mae
        for result in found.values()
        for (slope, _), of in result.slopes.items()
    }
    turned = rotation_error(task, predictor, few, task.config["seed"])
    row = {
        "validation_mae": overall(task, found),
        **slopes,
        **(_of_each("validation_mae", errors) if len(found) > 1 else {}),
        **_of_each("rotation_error", turned),
        **alive(task, predictor, few),
    }
    return row, errors


def _of_each(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """The values as columns of the curves; a single target's name is left out."""
    if len(values) == 1:
        return {name: next(iter(values.values()))}
    return {f"{name}_{target}": value for target, value in values.items()}


def overall(task: Task, found: Mapping[str, SplitResult]) -> float:
    """One number for all targets: the error of one, or the mean of error / scale of several."""
    if len(task.fitted) == 1:
        return found[task.fitted[0].name].mae
    return float(np.mean([found[one.name].mae / one.reference.scale for one in task.fitted]))


def rotation_error(
    task: Task, predictor: Predictor, examples: Examples, seed: int
) -> dict[str, float]:
    """Mean |Q E(x) - E(Qx)| by target, in its unit; each structure has a random rotation Q.

    The mean includes components of vectors and tensors. For numbers, Q E = E.
    """
    rotations = symmetry.random_rotations(len(examples), seed)
    turned = dataclasses.replace(examples, structures=examples.structures.turned(rotations))
    here, there = predictor(examples), predictor(turned)
    return {
        one.name: float(
            np.mean(np.abs(turn(here[one.name], rotations, one.target.rank) - there[one.name]))
        )
        for one in task.fitted
    }


def alive(task: Task, predictor: Predictor, examples: Examples) -> dict[str, float]:
    """Measures which parts of the network contribute: see `evaluation.liveness`.

    Args:
      task, predictor: of a run.
      examples: structures whose predictions are compared.
    """
    model, params, few = predictor.model, predictor.params, examples.first(LOOKED_AT)
    graph = batching.one_graph(few.structures, few.neighbors)
    found = liveness.sizes(model, jax.device_get(params), graph)

    def outputs(predictor: Predictor, examples: Examples) -> np.ndarray:
        """[n, F] of the network alone, standardised."""
        whole, columns = predictor(examples), []
        fits = {one.name: one.linear for one in task.fitted if one.linear}
        of_fits = geometry_of(fits, examples.structures, examples.neighbors)
        for one in task.fitted:
            values = whole[one.name]
            known = one.reference.restore(examples.structures, np.zeros_like(values))
            known = known + of_fits.get(one.name, 0.0)
            columns.append(((values - known) / one.reference.scale).reshape(len(values), -1))
        return np.concatenate(columns, 1)

    here = outputs(predictor, examples)
    spread = np.maximum(np.std(here, 0), 1e-12)
    alone = dataclasses.replace(examples, neighbors=examples.neighbors.found().none())
    others = {"surroundings": (predictor, alone)}
    if model.hyper.layer_norm and model.hyper.rescale and model.hyper.degree:
        scalar = predictor.with_params(liveness.without_degrees(model, params))
        others["degrees"] = scalar, examples
    for name, arguments in others.items():
        change = np.abs(outputs(*arguments) - here).mean(0) / spread
        # The median: an output that hardly varies yet would hide all others in a mean.
        found[f"change_without_{name}"] = float(np.median(change))
    return found


def print_results(task: Task, results: Results) -> None:
    """The tables at the end of training and of evaluation."""
    print_tables([report_of(task, one, results[one.name]) for one in task.fitted], task.note)


def report_of(task: Task, one: FittedTarget, results: Sequence[SplitResult]) -> TargetReport:
    """The report of one target."""
    paper = task.data.paper(one.target)
    return TargetReport(one.name, one.target.unit, tuple(results), paper)
