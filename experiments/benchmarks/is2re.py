"""Measures OC20: records into the cache; building graphs against a training step; its memory."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import processes, timing, workloads
from experiments.benchmarks.report import Report
from experiments.configs.is2re import get_config
from hdgnn_jax.data import is2re_build
from hdgnn_jax.data.oc20_lmdb import Record, write_lmdb
from hdgnn_jax.graphs.neighbors import NeighborSearch
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.run.examples import Examples

SLABS = 8
"""Number of slabs, of 90 atoms each, in a batch."""
LARGE = {"channels": 64, "hidden": 256, "layers": 8}
"""Fields that differ from `is2re.py:full`: the size of the paper's ablations."""


def run(report: Report) -> dict[str, float]:
    """Reads here; trains in a process of its own, to measure its peak memory."""
    count = 50 if report.quick else 5000
    results = {"is2re_records_per_second": reading(count)}
    results |= processes.alone(training, report.quick)
    report.table("OC20 IS2RE", ["", ""], list(results.items()))
    return results


def reading(count: int) -> float:
    """Records of 80 atoms per second, from LMDB into the cache, with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "source" / "train"
        source.mkdir(parents=True)
        write_lmdb(source / "data.lmdb", records(count))
        began = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            is2re_build.build(source.parent, pathlib.Path(folder) / "cache")
        return count / (time.perf_counter() - began)


def records(count: int) -> Iterator[Record]:
    """Yields slabs of 80 atoms, all different."""
    rng = np.random.default_rng(0)
    for k in range(count):
        slab = copper((4, 5, 4), rng)
        x = slab.positions.astype(np.float32).astype(float)
        tags = rng.integers(0, 3, len(x)).astype(np.int8)
        cell = np.array(slab.cell, np.float32).astype(float)
        yield Record(k, slab.atomic_numbers, x, cell, tags, tags == 0, x + 0.125, 0.0, float(k))


def copper(size: tuple[int, int, int], rng: np.random.Generator) -> Structure:
    """A slab in 20 Å of vacuum: shifted square layers, atoms displaced at random."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3)
    positions = (grid + (grid[:, 2:] % 2) * [0.5, 0.5, 0]) * [2.55, 2.55, 1.8]
    cell = np.diag([2.55 * size[0], 2.55 * size[1], 1.8 * size[2] + 20])
    positions = positions + rng.normal(scale=0.05, size=positions.shape)
    return Structure(np.full(len(grid), 29, np.int32), positions, cell=cell)


def training(quick: bool) -> dict[str, float]:
    """Seconds of a training step and of building its batch; peak memory of the process."""
    config = json.loads(get_config("full").to_json())
    config["model"] |= {**workloads.MODELS["quick"], "cutoff": 8.0} if quick else LARGE
    rng = np.random.default_rng(0)
    slabs = Structures.pack(copper((5, 6, 3), rng) for _ in range(2 if quick else SLABS))
    search = NeighborSearch(slabs, config["model"]["cutoff"], config["model"]["max_neighbors"])
    labels = {"relaxed_energy": rng.normal(size=len(slabs))}
    molecules = Examples(slabs, search, labels)
    task, places = workloads.task_of(config, molecules), np.arange(len(slabs))
    batch = workloads.one_batch(molecules, places)
    calls: dict[str, timing.Call] = {
        "step": workloads.Stepper(task, workloads.train_step_of(task), batch),
        "graphs": lambda: workloads.one_batch(molecules, places),
    }
    times = timing.interleave(calls, 1)
    stepping, building = (float(times[name].min()) for name in calls)
    return {
        "is2re_step_seconds": stepping,
        "is2re_graphs_seconds": building,
        "is2re_step_over_graphs": stepping / building,
        "is2re_peak_gib": timing.peak_memory() / timing.GIB,
    }
