"""Measures how far a model is from rotation invariance, and through what.

    python -m experiments.symmetry --workdir=runs/quick --plot=symmetry.png

It uses the weights that were best on validation, or untrained ones (--config=FILE.py instead of
--workdir), on test molecules. It prints mean |E(x) - E(Qx)| over random rotations Q and molecules,
its standard error, the same for a component of the forces -dE/dx, and the relative change of the
node states after each layer:

    rotation  the molecule turned: all below at once
    roll      other rolls of the edges' frames
    sphere    the points of the sphere turned: aliasing
    axes      the global axes turned, in which eq. 9 and 10 see the rows |m| <= m_max of x

Then it prints the weights a1, a2, ... that attention gives the terms of eq. 11 (`attention`, by
distance in --json and --plot), and the rotation error against the number of averaged frames, and of
points on the sphere.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

from absl import flags

from experiments import program

MOLECULES = flags.DEFINE_integer("molecules", 32, "N, drawn at random from the first test part")
ROTATIONS = flags.DEFINE_integer("rotations", 8, "N, rotations of each molecule")

PROGRAM = program.Program(
    str(__doc__), [], [program.WORKDIR, program.CONFIG, program.JSON, program.PLOT],
)
if __name__ == "__main__":
    PROGRAM.begin()

import jax
import numpy as np

from experiments import symmetry_view
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import FittedTarget, columns, potential
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import symmetry
from hdgnn_jax.evaluation.attention import attention_weights
from hdgnn_jax.files import write_json
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighborhoods
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run.results import restored
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.so3 import sphere
from hdgnn_jax.training import step
from hdgnn_jax.types import Json, Params

FRAMES = (1, 2, 4, 8, 16)
SPHERES = 6
"""Number of Lebedev rules on the plot, from the smallest that is exact for the degree."""


def main() -> None:
    """The program."""
    config = program.read_config() if program.CONFIG.value else None
    run(
        pathlib.Path(program.WORKDIR.value) if program.WORKDIR.value else None,
        config, MOLECULES.value, ROTATIONS.value, program.JSON.value, program.PLOT.value,
    )  # fmt: skip


def run(
    workdir: pathlib.Path | None,
    config: Json | None,
    n_molecules: int,
    n_rotations: int,
    file: str | None,
    plot: str | None,
) -> Json:
    """Measures, prints, and writes what was asked for.

    Raises:
      ValueError: where there is not exactly one of workdir and config, or a number is too small.
      QM9Error, CheckpointError: each with one line.
    """
    if min(n_molecules, n_rotations) < 2:
        raise InputError("--molecules and --rotations must be at least 2: there is an error bar")
    if workdir is not None and config is None:
        task, params, maes = trained(workdir)
    elif workdir is None and config is not None:
        task, params, maes = *untrained(config), {}
    else:
        raise InputError("give --workdir=DIR, of a trained model, or --config=FILE, but not both")
    where = task.data.first_test
    graph = sample(task.examples(where), n_molecules, where)
    energy = sloped(task)
    found = {
        "target": task.fitted[0].name,
        "unit": task.fitted[0].target.unit,
        "forces_of": {"target": energy.name, "unit": energy.target.unit},
        "molecules": int(batching.graph_mask(graph).sum()),
        "rotations": n_rotations,
        "test_mae": maes.get(task.fitted[0].name),
        "targets": {
            one.name: {"unit": one.target.unit, "test_mae": maes.get(one.name)}
            for one in task.fitted
        },
    }

    def write() -> None:
        if file:
            write_json(file, found)

    rotations = symmetry.random_rotations(n_rotations, seed=0)
    for part, show in PARTS:
        found |= part(task, params, graph, rotations)
        show(found)
        write()
    if plot:
        symmetry_view.draw(pathlib.Path(plot), found)
    return found


def trained(workdir: pathlib.Path) -> tuple[Task, Params, dict[str, float]]:
    """The task of a run, its weights that were best on validation, and its test errors if known."""
    task, predictor = restored(workdir)
    report = workdir / "report" / "summary.json"
    maes = errors_of(json.loads(report.read_text())) if report.exists() else {}
    return task, predictor.params, maes


def untrained(config: Json) -> tuple[Task, Params]:
    """The task that the config describes, and initial weights."""
    data = dataset(config)
    task, _ = Task.prepare(config, data, examples(config, data, "train"))
    return task, task.init_state(step.make_mesh()).params


def errors_of(summary: Json) -> dict[str, float]:
    """The MAE in a report, by target."""
    targets = summary.get("targets", {summary.get("target"): summary})
    return {name: of_target["mae"] for name, of_target in targets.items()}


def sample(graphs: Neighborhoods, n: int, part: str) -> batching.MolecularGraph:
    """n molecules of a part, drawn with a fixed seed, as one graph.

    Raises:
      InputError: where there are fewer than two, which have no error bar.
    """
    if (size := len(graphs)) < 2:
        raise InputError(f"{part}, the part for this test, has one structure: two are needed")
    rows = np.sort(np.random.default_rng(0).choice(size, min(n, size), replace=False))
    few = graphs.take(rows)
    return batching.one_graph(few.structures, few.neighbors)


def sloped(task: Task) -> FittedTarget:
    """The target whose slopes are measured: the potential energy, or the first without one."""
    return potential(task.fitted) or task.fitted[0]


def changes(
    task: Task,
    model: HDGNN,
    params: Params,
    graph: batching.MolecularGraph,
    **how: Any,
) -> dict[str, Json]:
    """For each choice, the mean changes of predictions, and of slopes, in the targets' units."""
    # The network alone, because a linear reference is invariant and changes nothing here.
    energy = sloped(task)
    places = columns(task.fitted)
    found = symmetry.prediction_changes(
        model, params, graph, columns=places,
        energy=places[task.fitted.index(energy)].start, **how,
    )  # fmt: skip
    scale = energy.reference.scale
    rows = {}
    for choice, (values, force) in found.items():
        each = {
            one.name: {
                "mad": one.reference.scale * value.mean, "error": one.reference.scale * value.error
            }
            for one, value in zip(task.fitted, values, strict=True)
        }  # fmt: skip
        forces = {"forces_mad": scale * force.mean, "forces_error": scale * force.error}
        rows[choice] = {**each[task.fitted[0].name], **forces, "targets": each}
    return rows


def usual_frames(task: Task) -> int:
    """The number of frames that the model averages over in evaluation."""
    frames = task.model.hyper.evaluation_frame
    return frames if isinstance(frames, int) else 1


def measure_choices(
    task: Task, params: Params, graph: batching.MolecularGraph, rotations: np.ndarray
) -> Json:
    """The effect of each choice on predictions, forces and the states after each layer."""
    model, frames = task.model, usual_frames(task)
    with progress_bar("settings") as progress:
        total = 1 + len(symmetry.CHOICES) * len(rotations)
        bar = progress.add_task("predictions", total=total)
        of_choices = changes(
            task, model, params, graph, frames=frames, rotations=rotations,
            advance=lambda n: progress.update(bar, advance=n),
        )  # fmt: skip
        bar = progress.add_task("states", total=model.hyper.layers)
        layers = symmetry.state_changes(
            model, params, graph, rotations=rotations,
            advance=lambda n: progress.update(bar, advance=n),
        )  # fmt: skip
    return {
        "frames": frames,
        "points": model.hyper.points().n_points,
        "choices": of_choices,
        "layers": [
            {choice: {"relative": c.mean, "error": c.error} for choice, c in layer.items()}
            for layer in layers
        ],
    }


def measure_attention(
    task: Task, params: Params, graph: batching.MolecularGraph, rotations: np.ndarray
) -> Json:
    """The weights of the terms, for each layer; None by distance where there is no edge."""
    return {"attention": attention_weights(task.model, params, graph)}


def measure_curves(
    task: Task, params: Params, graph: batching.MolecularGraph, rotations: np.ndarray
) -> Json:
    """The rotation error against the number of frames and of points.

    A model that does not depend on the rolls is measured with one frame.
    """
    model, usual = task.model, usual_frames(task)
    frames = FRAMES if model.hyper.sees_rolls else FRAMES[:1]
    rules = itertools.islice(sphere.lebedev_rules(model.hyper.degree), SPHERES)
    orders = [order for order, *_ in rules]
    against_frames, against_points = [], []
    with progress_bar("settings") as progress:
        count = len(rotations)
        bar = progress.add_task("frames", total=len(frames) * (1 + count))
        of_points = progress.add_task("points", total=len(orders) * (1 + 2 * count))
        for n in frames:
            found = changes(
                task, model, params, graph, frames=n, rotations=rotations, choices=("rotation",),
                advance=lambda n: progress.update(bar, advance=n),
            )  # fmt: skip
            against_frames.append({"n": n, **found["rotation"]})
        for order in orders:
            other = model.changed(sphere_rule="lebedev", sphere_order=order, sphere_error=None)
            both = changes(
                task, other, params, graph, frames=usual, rotations=rotations,
                choices=("rotation", "sphere"),
                advance=lambda n: progress.update(of_points, advance=n),
            )  # fmt: skip
            row = {"order": order, "n": other.hyper.points().n_points, **both["rotation"]}
            row |= {"sphere_mad": both["sphere"]["mad"], "sphere_error": both["sphere"]["error"]}
            against_points.append(row)
            jax.clear_caches()
    return {"against_frames": against_frames, "against_points": against_points}


PARTS = (
    (measure_choices, symmetry_view.show_choices),
    (measure_attention, symmetry_view.show_attention),
    (measure_curves, symmetry_view.show_curves),
)
"""Each is shown and written once it is done, since the last takes several times as long."""


if __name__ == "__main__":
    PROGRAM.run(main)
