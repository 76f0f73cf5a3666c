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
    task, sharding = workloads.task_of(config, molecules), step.sharded(workloads.mesh())
    loader = workloads.loader_of(task, molecules, report.quick)
    count = min(loader.steps, 30)
    batches = [loader.batch(k) for k in range(count)]
    stepper = workloads.Stepper(task, workloads.train_step_of(task), *batches)
    for _ in batches:
        jax.block_until_ready(stepper())

    made = itertools.count()
    times = timing.interleave(
        {
            "step": stepper,
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
