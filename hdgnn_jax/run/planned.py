"""From a config to its training step for chips that need not exist: shapes, no arrays."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import jax
import numpy as np

from hdgnn_jax.config import from_section
from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.loader import Loader
from hdgnn_jax.data.targets import Reference
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import neighbors_of
from hdgnn_jax.inference.weights import smallest_structure
from hdgnn_jax.models import heads
from hdgnn_jax.run.chosen import head_of, targets_of
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import Task, examples, model_of
from hdgnn_jax.training import plan as plans
from hdgnn_jax.training import step
from hdgnn_jax.training.chips import Chip
from hdgnn_jax.types import Config, Json

SOME_STEPS = 1000
"""Of a batch size that is tried, so many steps tell its padded shapes."""


KEPT = 50
"""Shapes of arrays in a plan's JSON."""


class Structured(NamedTuple):
    """What structures a run has, where its data are not read.

    Attributes:
      atoms: of the mean structure.
      edges: of the mean structure, both directions counted.
    """

    atoms: float
    edges: float


@dataclasses.dataclass(frozen=True)
class Batch:
    """The largest padded batch of a run, as one device gets it.

    Attributes:
      graph: shapes of its arrays.
      budget: its padded shape.
      atoms, edges: real ones, on average over the run's batches and devices.
      padded_edges: of the run's batches, on average; others than the largest have fewer.
    """

    graph: batching.MolecularGraph
    budget: batching.Budget
    atoms: float
    edges: float
    padded_edges: float

    @property
    def share(self) -> float:
        """The cost of the run's mean batch over that of this one, which has the most edges."""
        return self.padded_edges / self.budget.n_edge


def task_of(config: Config, neighbors: float) -> Task:
    """The config's task with nothing fitted: what is fitted does not change the step's program.

    Args:
      config: nested.
      neighbors: mean number of neighbours of an atom.
    """
    fitted = tuple(
        FittedTarget(
            target,
            head_of(config, target),
            Reference(target.factor, Composition((), (), 0.0), 1.0, target.rank),
            {},
        )
        for target in targets_of(config)
    )
    unknown = Domain((1, 1), (False, False), {}, ())
    return Task(config, dataset(config), fitted, model_of(config, neighbors), unknown)


def batch_of_data(task: Task, train: Examples, shards: int, largest: bool = False) -> Batch:
    """The largest batch of a run on these structures.

    Args:
      task: of the run.
      train: its training structures.
      shards: number of devices.
      largest: whether another batch size is tried; then some of its steps tell its shapes.

    Raises:
      InputError: where the batch cannot be dealt to so many devices.
    """
    settings = from_section(task.config, "training", Training)
    steps = min(settings.steps, SOME_STEPS) if largest else settings.steps
    structures, neighbors = train.structures, train.neighbors
    forces, virials = task.standardised_slopes(train)
    targets = np.zeros((len(train), _columns(task)))
    loader = Loader(
        structures, neighbors, targets, settings.batch_size, task.config["seed"], steps, shards,
        settings.n_budgets, forces, virials,
    )  # fmt: skip
    budget, few = loader.budgets[-1], np.array([np.argmin(neighbors.n_edges)])
    graph = batching.collate(structures, neighbors, targets, few, budget, forces, virials)
    size = settings.batch_size / shards
    edges = size * float(neighbors.n_edges.mean())
    return Batch(
        graph,
        budget,
        size * float(structures.n_atoms.mean()),
        edges,
        edges / loader.padding_efficiency,
    )


def batch_of_sizes(task: Task, mean: Structured, shards: int) -> Batch:
    """The batch of structures that are all alike, without data.

    Raises:
      InputError: where the batch cannot be dealt to so many devices.
    """
    settings, hyper = from_section(task.config, "training", Training), task.model.hyper
    batching.deal(np.zeros((1, settings.batch_size), int), shards)
    size = settings.batch_size // shards
    atoms, edges = size * mean.atoms, size * mean.edges
    (budget,) = batching.choose_budgets(
        np.array([round(atoms)]), np.array([round(edges)]), size, 1
    )
    atom = smallest_structure(hyper.elements)
    one = Examples(
        atom,
        neighbors_of(atom, hyper.cutoff, hyper.max_neighbors, hyper.neighborhood),
        {},
        np.zeros((1, 3)) if settings.forces_weight else None,
        np.zeros((1, 3, 3)) if settings.stress_weight else None,
    )
    graph = batching.collate(
        one.structures,
        one.neighbors,
        np.zeros((1, _columns(task))),
        np.zeros(1, int),
        budget,
        *task.standardised_slopes(one),
    )
    return Batch(graph, budget, atoms, edges, budget.n_edge)


def lowered_step(task: Task, batch: Batch, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The run's training step for the devices of a mesh, to be compiled; of shapes alone.

    Args:
      task: of the run.
      batch: of each device.
      mesh: devices, of which none need exist.
    """
    settings = from_section(task.config, "training", Training)
    key = jax.random.fold_in(jax.random.key(task.config["seed"]), 1)
    train_step = step.make_train_step(
        task.apply, task.optimizer, mesh, key, settings.ema, task.weights, settings.divide_state
    )
    here = step.make_mesh(jax.devices("cpu")[:1])
    state = task.state_shapes(here, settings.divide_state)
    placed = step.shardings(state, mesh, settings.divide_state)
    state = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state, placed,
    )  # fmt: skip
    graph = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (mesh.size, *leaf.shape), leaf.dtype, sharding=step.sharded(mesh)
        ),
        batch.graph,
    )
    return train_step.lower(state, graph)


def _columns(task: Task) -> int:
    """Numbers that the network predicts of a structure, auxiliary ones included."""
    count: int = heads.columns(task.model.hyper.heads)[-1].stop
    return count


class Planner:
    """Plans a config, and others like it, for some chips.

    Attributes:
      config: nested.
      devices: none need exist.
      chip: what one of them can do.
      mean: what to plan with instead of data; None: the data are read.
      thorough: see `plans.plan`.

    Raises:
      InputError: where the data are not there; the message names the command that prepares them,
        and what to give instead.
    """

    def __init__(
        self,
        config: Config,
        devices: list[jax.Device],
        chip: Chip,
        mean: Structured | None,
        thorough: bool = False,
    ):
        self.config, self.chip, self.mean, self.thorough = config, chip, mean, thorough
        self.mesh = step.make_mesh(devices)
        self.train: Examples | None = None
        if mean is None:
            try:
                self.train = examples(config, dataset(config), "train")
            except HDGNNError as error:
                raise InputError(
                    f"{error}; or plan without data: --atoms=N --edges=N, of the mean structure"
                ) from error

    def plan(
        self, config: Config, largest: bool = False
    ) -> tuple[plans.Plan, Batch, float]:
        """The plan of a config like this run's, its batch, and the seconds of compilation."""
        task, batch = self._batch(config, largest)
        start = time.monotonic()
        lowered = lowered_step(task, batch, self.mesh)
        found = plans.plan(lowered, self.chip, self.mesh.size, self.thorough)
        found.check_memory()
        return found, batch, time.monotonic() - start

    def _batch(self, config: Config, largest: bool) -> tuple[Task, Batch]:
        if self.train is None:
            assert self.mean is not None
            task = task_of(config, self.mean.edges / self.mean.atoms)
            return task, batch_of_sizes(task, self.mean, self.mesh.size)
        edges = self.train.neighbors.n_edges.sum()
        task = task_of(config, float(edges / len(self.train.structures.atomic_numbers)))
        return task, batch_of_data(task, self.train, self.mesh.size, largest)


def numbers(
    found: plans.Plan, batch: Batch, config: Config, topology: str
) -> Json:
    """The plan as JSON: bytes and seconds, of each chip and step unless said otherwise."""
    training = config["training"]
    seconds = found.step_seconds * batch.share
    return {
        "topology": topology,
        "chip": found.chip.name,
        "chips": found.devices,
        "jax": jax.__version__,
        "memory": {
            "available": found.chip.memory, "needed": found.memory, "arguments": found.arguments,
            "outputs": found.outputs, "temporary": found.temporary, "code": found.code,
            "process": found.process,
        },
        "flop": found.flop,
        "flop_of_products": found.product_flop,
        "bytes_moved": found.moved,
        "bytes_of_padding": found.padding,
        "bytes_on_chip": found.on_chip,
        "seconds": found.seconds,
        "bound": found.bound,
        "step_seconds": found.step_seconds,
        "structures_per_second": training["batch_size"] / seconds,
        "hours": training["steps"] * seconds / 3600,
        "operations": found.operations,
        "unknown_loops": found.unknown_loops,
        "collectives": {
            kind: {"count": count, "bytes": size} for kind, (count, size) in found.exchanges.items()
        },
        "batch": {
            "structures": training["batch_size"] // found.devices, "atoms": batch.atoms,
            "edges": batch.edges, "padded_atoms": batch.budget.n_node,
            "padded_edges": batch.budget.n_edge, "mean_padded_edges": batch.padded_edges,
        },
        "arguments": [one._asdict() for one in found.given],
        "arrays": [one._asdict() for one in found.arrays[:KEPT]],
    }  # fmt: skip
