"""Measures the cost of QM9's `quick` config in training and inference, by operation."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import jax
import numpy as np

from experiments.benchmarks import operations, processes, timing, workloads
from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import milliseconds
from hdgnn_jax.cpu import cores
from hdgnn_jax.graphs import batching


def run(report: Report) -> dict[str, float]:
    """Measures in a process of its own, as a run has it."""
    found = processes.alone(measure, report.quick)
    return {f"quick_{key}": value for key, value in found.items()}


def measure(quick: bool) -> dict[str, float]:
    """Measures in this process, on the run's first batches, those with the commonest shape."""
    report = Report(quick)
    # So that all that is timed is compiled here, not by another process with other settings.
    jax.config.update("jax_enable_compilation_cache", False)
    config = workloads.config_of("quick", **(workloads.MODELS["quick"] if report.quick else {}))
    molecules = workloads.training_molecules(
        config, 500 if report.quick else config["data"]["train_size"]
    )
    task = workloads.task_of(config, molecules)
    loader = workloads.loader_of(task, molecules, report.quick)
    batches = of_commonest_shape([loader.batch(k) for k in range(min(loader.steps, 16))])

    training = workloads.compile_step(task, batches[0]).call
    stepper = workloads.Stepper(task, training, *batches)
    predicting = workloads.Predicting(task, *batches)
    calls: dict[str, timing.Call] = {"train": stepper, "inference": predicting}
    times, peak = timing.with_peak(calls, 2 if report.quick else 20, report.quick)

    outside, layer = workloads.count_step(task, batches[0])
    flops = outside.flops + config["model"]["layers"] * layer.flops
    graph = jax.tree.map(lambda leaf: leaf[0], batches[0])
    sizes = operations.Sizes(
        len(graph.senders), len(graph.nodes.atomic_numbers), len(task.model.hyper.points().weights)
    )
    share = {name: 1e3 * cores() / loader.batch_size * times[name] for name in calls}
    results = {
        "step_ms_per_molecule_core": float(np.median(share["train"])),
        "step_ms_per_molecule_core_best": float(share["train"].min()),
        "inference_ms_per_molecule_core": float(np.median(share["inference"])),
        "inference_ms_per_molecule_core_best": float(share["inference"].min()),
        "utilisation": float(np.median(flops / times["train"] / peak)),
        "bytes_per_edge_layer": layer.bytes / sizes.edges,
    }
    report.table(
        f"The quick config: {loader.batch_size} molecules in a batch, padded to {sizes.nodes:,} "
        f"atoms and {sizes.edges:,} edges; {cores()} cores",
        ["", ""],
        [
            ["training step, ms", milliseconds(times["train"])],
            ["inference of a batch, ms", milliseconds(times["inference"])],
            ["matrix-product peak, GFLOP/s", float(np.median(peak) / 1e9)],
            *([key, value] for key, value in results.items()),
        ],
        f"Times: best / median of {len(peak)}.",
    )
    # On other devices the profiler's names of operations differ from the program's.
    if jax.default_backend() == "cpu":
        programs = {"train": training, "inference": predicting.compiled}
        for name, call in calls.items():
            costs = operations.profile(call, programs[name].as_text(), 2 if report.quick else 10)
            report.table(
                f"The quick config's {name}: its costliest operations in one batch",
                ["", "ms", "kind", "array", "shape"],
                operations.rows(costs[:10], sizes),
            )
            found = operations.shares(costs, sizes)
            results |= {f"profile_{name}_{key}": value for key, value in found.items()}
    return results


def of_commonest_shape(
    batches: Sequence[batching.MolecularGraph],
) -> list[batching.MolecularGraph]:
    """The batches with the commonest padded shape."""
    shapes = [(batch.senders.shape, batch.nodes.atomic_numbers.shape) for batch in batches]
    ((commonest, _),) = collections.Counter(shapes).most_common(1)
    return [batch for batch, shape in zip(batches, shapes, strict=True) if shape == commonest]
