"""The models, molecules and compiled steps that are measured."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.configs import qm9 as configs
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.loader import Loader
from hdgnn_jax.data.qm9pack import QM9Error
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training import step
from hdgnn_jax.types import Apply, Config, Json, PyTree

_SHARED = {"cutoff": 5.0, "m_max": 1, "tensor_product": "metp", "product_degree": 2,
           "n_gaussians": 250}  # fmt: skip
MODELS: dict[str, Json] = {
    "a": {**_SHARED, "layers": 4, "degree": 4, "channels": 32, "hidden": 64,
          "edge_channels": 32, "invariant_channels": 64},
    "b": {**_SHARED, "layers": 6, "degree": 6, "channels": 64, "hidden": 128,
          "edge_channels": 64, "invariant_channels": 128},
    "quick": {**_SHARED, "layers": 1, "degree": 1, "product_degree": 1, "channels": 4,
              "hidden": 8, "edge_channels": 4, "invariant_channels": 8, "sphere_order": None},
}  # fmt: skip

BATCH, ATOMS, EDGES = 32, 497, 6776
"""The batch of configs a and b: number of molecules, and the totals that they should have."""


class Counts(NamedTuple):
    """XLA's counts for one run of a program."""

    flops: float
    bytes: float


class Compiled(NamedTuple):
    """A compiled program, seconds of compilation, and the bytes that it allocates at its peak."""

    call: jax.stages.Compiled
    seconds: float
    temporary: int
    buffers: int


def config_of(variant: str = "full", **model: object) -> Json:
    """A config of experiments/configs/qm9.py with some fields of its model replaced."""
    config: Json = json.loads(configs.get_config(variant).to_json())
    config["model"] |= model
    return config


def training_molecules(config: Config, count: int) -> Examples:
    """The first molecules of the training split; random ones where QM9 is not installed."""
    try:
        few = {**config, "data": {**config["data"], "train_size": count}}
        return examples(few, dataset(few), "train")
    except QM9Error as error:
        print(f"random molecules instead of QM9: {error}")
        sizes = np.random.default_rng(0).integers(9, 27, count)
        return random_molecules(config, sizes.tolist())


def random_molecules(config: Config, sizes: list[int]) -> Examples:
    """Random molecules of given sizes, grown atom by atom, as dense as organic ones."""
    rng = np.random.default_rng(1)
    structures = []
    for size in sizes:
        positions = np.zeros((1, 3))
        while len(positions) < size:
            move = rng.normal(size=3)
            new = positions[rng.integers(len(positions))] + 1.3 * move / np.linalg.norm(move)
            if np.linalg.norm(positions - new, axis=-1).min() > 1:
                positions = np.vstack([positions, new])
        structures.append(Structure(rng.choice([1, 6, 7, 8], size), positions))
    packed = Structures.pack(structures)
    neighbors = find_neighbors(packed, config["model"]["cutoff"])
    labels = {"U0": packed.n_atoms + rng.normal(size=len(sizes))}
    return Examples(packed, neighbors, labels)


def nearest_batch(molecules: Examples, size: int, atoms: float, edges: float) -> np.ndarray:
    """[size] indices of molecules whose totals single exchanges cannot bring nearer to these."""
    counts = np.stack([molecules.structures.n_atoms, molecules.neighbors.n_edges], -1)
    wanted = np.array([atoms, edges])
    chosen, rest = np.arange(size), np.arange(size, len(counts))
    distance = np.inf
    while True:
        totals = counts[chosen].sum(0) + counts[rest][:, None] - counts[chosen][None]
        misses = np.abs(totals / wanted - 1).sum(-1)
        r, c = np.unravel_index(misses.argmin(), misses.shape)
        if misses[r, c] >= distance:
            return np.sort(chosen)
        distance = misses[r, c]
        chosen[c], rest[r] = rest[r], chosen[c]


def one_batch(molecules: Examples, places: np.ndarray) -> batching.MolecularGraph:
    """The batch of the molecules at `places` for one device, padded to multiples of 16."""
    nodes = molecules.structures.n_atoms[places].sum(keepdims=True)
    edges = molecules.neighbors.n_edges[places].sum(keepdims=True)
    (budget,) = batching.choose_budgets(nodes, edges, len(places), 1)
    nothing = np.zeros((len(molecules), 1))
    graph = batching.collate(molecules.structures, molecules.neighbors, nothing, places, budget)
    return batching.stack([graph])


def standard(name: str, quick: bool) -> tuple[Json, Task, batching.MolecularGraph]:
    """Config, task and batch of `a` or `b`."""
    config = config_of(**MODELS["quick" if quick else name])
    molecules = training_molecules(config, 64 if quick else 2048)
    size = 2 if quick else BATCH
    places = nearest_batch(molecules, size, ATOMS * size / BATCH, EDGES * size / BATCH)
    return config, task_of(config, molecules), one_batch(molecules, places)


def task_of(config: Config, molecules: Examples) -> Task:
    """The task of a config with these training molecules."""
    return Task.prepare(config, dataset(config), molecules)[0]


def with_model(given: Task, **model: object) -> Task:
    """The same task for a model with some fields replaced."""
    config = {**given.config, "model": {**given.config["model"], **model}}
    return dataclasses.replace(given, config=config, model=given.model.changed(**model))


def mesh() -> jax.sharding.Mesh:
    """The mesh of one device."""
    return step.make_mesh(jax.devices()[:1])


def loader_of(given: Task, molecules: Examples, quick: bool) -> Loader:
    """The loader of a run on QM9, which has no forces, with the batches that training draws."""
    training = given.config["training"]
    return Loader(
        molecules.structures,
        molecules.neighbors,
        given.training_targets(molecules, given.to_learn(molecules)),
        4 if quick else training["batch_size"],
        given.config["seed"],
        8 if quick else training["steps"],
        n_budgets=training["n_budgets"],
    )


def train_step_of(given: Task) -> jax.stages.Wrapped:
    """The training step as in training; only this function depends on its signature."""
    training = given.config["training"]
    return step.make_train_step(
        given.apply, given.optimizer, mesh(), jax.random.key(0), training["ema"],
        given.weights,
    )  # fmt: skip


def compile_step(given: Task, batch: batching.MolecularGraph) -> Compiled:
    """Compiles the training step; seconds include tracing."""
    state = given.state_shapes(mesh())
    start = time.perf_counter()
    call = train_step_of(given).lower(state, batch).compile()
    seconds = time.perf_counter() - start
    memory: Any = call.memory_analysis()
    # Donated buffers are both argument and output.
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    return Compiled(call, seconds, temporary, temporary + kept)


class Stepper:
    """Takes training steps, one per call, on one batch or on several in turn."""

    def __init__(self, given: Task, call: Apply, *batches: batching.MolecularGraph):
        self._call, self._state = call, given.init_state(mesh())
        placed = [jax.device_put(batch, step.sharded(mesh())) for batch in batches]
        self._batches = itertools.cycle(placed)

    def __call__(self) -> step.StepMetrics:
        metrics: step.StepMetrics
        self._state, metrics = self._call(self._state, next(self._batches))
        return metrics


class Predicting:
    """Predicts several batches of one shape, one per call, with fresh weights."""

    def __init__(self, given: Task, *batches: batching.MolecularGraph):
        self._params = given.init_state(mesh()).params
        placed = [jax.device_put(batch, step.sharded(mesh())) for batch in batches]
        predict: Any = step.make_predict_step(given.apply, mesh())
        self.compiled = predict.lower(self._params, placed[0]).compile()
        self._batches = itertools.cycle(placed)

    def __call__(self) -> PyTree:
        return self.compiled(self._params, next(self._batches))


def count_step(given: Task, batch: batching.MolecularGraph) -> tuple[Counts, Counts]:
    """XLA's counts for a training step without its layers, and for one layer.

    XLA counts the body of a loop once, however often it turns, so the layers are written out here.
    One layer is the difference between a step with two layers and a step with one.
    """
    found = []
    for layers in (1, 2):
        with unrolled_loops():
            call = compile_step(with_model(given, layers=layers), batch).call
        cost: Any = call.cost_analysis()
        found.append(np.array([cost["flops"], cost["bytes accessed"]]))
    layer = found[1] - found[0]
    return Counts(*map(float, found[0] - layer)), Counts(*map(float, layer))


@contextlib.contextmanager
def unrolled_loops() -> Iterator[None]:
    """Writes out every `jax.lax.scan` that is traced in the block."""
    scan = jax.lax.scan
    jax.lax.scan = lambda *args, **kwargs: scan(*args, **{**kwargs, "unroll": True})
    try:
        yield
    finally:
        jax.lax.scan = scan
