"""Compares the loader of the `quick` config with its training step."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from experiments.benchmarks import timing, workloads
from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import milliseconds
from hdgnn_jax.training import step


def run(report: Report) -> dict[str, float]:
    """Times building a batch and moving it to the device, as `prefetch` does, against a step."""
    config = workloads.config_of("quick")
    molecules = workloads.training_molecules(
        config, 500 if report.quick else config["data"]["train_size"]
    )
    task, mesh = workloads.task_of(config, molecules), workloads.mesh()
    loader, sharding = workloads.loader_of(task, molecules, report.quick), step.sharded(mesh)
    count = min(loader.steps, 30)
    batches = [jax.device_put(loader.batch(k), sharding) for k in range(count)]
    train_step = workloads.train_step_of(task)
    state = task.init_state(mesh)
    for batch in batches:
        state, _ = train_step(state, batch)

    taken = itertools.count()

    def run_step() -> step.StepMetrics:
        nonlocal state
        metrics: step.StepMetrics
        state, metrics = train_step(state, batches[next(taken) % count])
        return metrics

    made = itertools.count()
    times = timing.interleave(
        {
            "step": run_step,
            "batch": lambda: jax.device_put(loader.batch(next(made) % loader.steps), sharding),
        },
        count,
    )
    one_step, one_batch = (float(np.median(times[name])) for name in ("step", "batch"))
    report.table(
        f"Input of the quick config: {loader.batch_size} molecules in a batch",
        ["", "ms", "per second"],
        [
            ["training step", milliseconds(times["step"]), 1 / one_step],
            ["batch, built and on the device", milliseconds(times["batch"]), 1 / one_batch],
            ["ratio", "", one_step / one_batch],
        ],
        "Times: best / median.",
    )
    return {
        "pipeline_step_seconds": one_step,
        "pipeline_batches_per_second": 1 / one_batch,
        "pipeline_over_step": one_step / one_batch,
    }
