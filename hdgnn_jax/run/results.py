"""What a network says of the parts of its data set, beside the truth and what there is to beat."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from hdgnn_jax.data import baselines, targets
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import liveness, symmetry
from hdgnn_jax.graphs import batching
from hdgnn_jax.inference.batches import nobody
from hdgnn_jax.inference.predictor import Predictor, restore_weights
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run.task import Examples, Task
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.report import print_table
from hdgnn_jax.training.result import SplitResult

LOOKED_AT = 16
"""Structures whose states are looked at."""


def restored(
    checkpoints: Checkpoints, data: Dataset | None = None
) -> tuple[Task, Predictor]:
    """The task of a run, and its weights that were best on validation, on all devices.

    Args:
      checkpoints: of the run.
      data: the same data where they lie now; None: where they lay then.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    record = Record.of(checkpoints, "best")
    task, mesh = Task.from_record(record), step.make_mesh()
    task = dataclasses.replace(task, data=data or task.data)
    params = restore_weights(checkpoints, task.model, mesh)
    return task, task.predictor(params, record.budget, mesh)


def reported_results(task: Task, predictor: Predictor) -> list[SplitResult]:
    """The results on the parts that a report has: the same numbers whenever they are asked for."""
    return results(task, predictor, task.data.reported)


def results(
    task: Task, predictor: Predictor, names: Sequence[str], hidden: bool = False
) -> list[SplitResult]:
    """The results on these parts of the data set.

    Args:
      task, predictor: of a run.
      names: of the parts.
      hidden: whether targets may be missing.

    Raises:
      InputError: before anything is predicted, for a part that is none or whose targets are hidden.
    """
    parts = {name: task.examples(name) for name in names}
    for name, examples in parts.items():
        if not hidden and np.isnan(examples.values).any():
            raise InputError(f"the targets of {name} are hidden: use --submission=FILE.npz")
    found = []
    for name, examples in parts.items():
        with progress_bar("molecules") as progress:
            advance = functools.partial(
                progress.advance, progress.add_task(name, total=len(examples))
            )
            alone = predicted(name, task, predictor, examples, advance)
            found.append(with_baselines(alone, task, examples))
    return found


def with_baselines(found: SplitResult, task: Task, examples: Examples) -> SplitResult:
    """What was `predicted` for the examples, beside what there is to beat."""
    structures, target = examples.structures, task.target
    to_beat = {
        k: targets.isotropic(b.predict(structures, examples.neighbors), target.rank)
        for k, b in task.baselines.items()
    }
    of_forces = found.forces
    if of_forces is not None:
        slopes = {
            k: b.forces(structures, examples.neighbors)
            for k, b in task.baselines.items()
            if isinstance(b, baselines.LinearFit)
        }
        of_forces = dataclasses.replace(of_forces, baselines={**of_forces.baselines, **slopes})
    return dataclasses.replace(found, baselines=to_beat, forces=of_forces)


def predicted(
    name: str,
    task: Task,
    predictor: Predictor,
    examples: Examples,
    advance: Callable[[int], object] = nobody,
) -> SplitResult:
    """Predictions and truth in the reported unit.

    Args:
      name: of the part.
      task, predictor: of a run.
      examples: the part.
      advance: told the number of structures after each batch (a progress bar).
    """
    structures, target, of_forces = examples.structures, task.target, None
    if examples.forces is None:
        prediction = predictor(examples, advance)
    else:
        slopes = predictor.slopes(examples, advance)
        prediction, truth = np.asarray(slopes.value), examples.forces * target.factor
        of_forces = SplitResult(
            split=name,
            ids=np.repeat(structures.ids, structures.n_atoms),
            truth=truth,
            prediction=np.asarray(slopes.forces),
            baselines={"no forces": np.zeros_like(truth)},
        )
    return SplitResult(
        split=name,
        ids=structures.ids,
        truth=examples.values * target.factor,
        prediction=prediction,
        baselines={},
        threshold=target.threshold,
        forces=of_forces,
    )


def rotation_error(predictor: Predictor, examples: Examples, seed: int) -> float:
    """Mean |Q E(x) - E(Qx)| in the reported unit, a random rotation Q for each structure.

    Of vectors and tensors, of a component; Q E = E of a number.
    """
    rotations = symmetry.random_rotations(len(examples), seed)
    turned = dataclasses.replace(examples, structures=examples.structures.turned(rotations))
    expected = targets.turned(predictor(examples), rotations, predictor.target.rank)
    return float(np.mean(np.abs(expected - predictor(turned))))


def alive(task: Task, predictor: Predictor, examples: Examples) -> dict[str, float]:
    """What of the network is alive: see `evaluation.liveness`.

    Args:
      task, predictor: of a run.
      examples: some; the changes are those of their predictions.
    """
    model, params, few = predictor.model, predictor.params, examples.first(LOOKED_AT)
    neighbors = few.neighbors.found()
    budget = batching.Budget(
        int(neighbors.n_edges.sum()), len(few.structures.tags) + 1, len(few) + 1
    )
    graph = batching.collate(
        few.structures, neighbors, few.values * 0, np.arange(len(few)), budget
    )
    found = liveness.sizes(model, jax.device_get(params), graph)

    def outputs(predictor: Predictor, examples: Examples) -> np.ndarray:
        """Of the network alone, in the reported unit."""
        whole = predictor(examples)
        known = predictor.reference.restore(examples.structures, np.zeros_like(whole))
        fit = task.baselines.get("linear")
        if predictor.reference.linear and isinstance(fit, baselines.LinearFit):
            known = known + fit.energies(examples.structures, examples.neighbors)
        return whole - known

    here = outputs(predictor, examples)
    spread = max(float(np.std(here)), 1e-12)
    alone = dataclasses.replace(examples, neighbors=examples.neighbors.found().none())
    others = {"surroundings": (predictor, alone)}
    if model.hyper.layer_norm and model.hyper.rescale and model.hyper.degree:
        scalar = predictor.with_params(liveness.without_degrees(model, params))
        others["degrees"] = scalar, examples
    for name, arguments in others.items():
        change = float(np.mean(np.abs(outputs(*arguments) - here)))
        found[f"change_without_{name}"] = change / spread
    return found


def print_results(task: Task, results: Sequence[SplitResult]) -> None:
    """The table at the end of training and of evaluation."""
    target = task.target
    paper, unit = task.data.paper(target), target.unit
    print_table(results, target=target.name, unit=unit, paper=paper, note=task.note)
