"""Measures training step and inference of the two reference configs."""

from __future__ import annotations

import tempfile

import jax
import numpy as np

from experiments.benchmarks import processes, timing, workloads
from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import milliseconds
from hdgnn_jax.graphs import batching
from hdgnn_jax.run.task import Task


def run(report: Report) -> dict[str, float]:
    """Runs each config in two processes of its own, to measure their peak memory.

    The first compiles; the second finds its programs in JAX's persistent cache.
    """
    results: dict[str, float] = {}
    for name in ("a", "b"):
        with tempfile.TemporaryDirectory() as folder:
            for part in (compile_first, measure):
                found = processes.alone(part, name, report.quick, JAX_COMPILATION_CACHE_DIR=folder)
                results |= {f"train_{name}_{key}": value for key, value in found.items()}
    return results


def compile_first(name: str, quick: bool) -> dict[str, float]:
    """Compiles the training step of one config and takes its first steps."""
    _, given, batch = workloads.standard(name, quick)
    compiled, _ = first_steps(given, batch)
    results = {
        "compile_seconds": compiled.seconds,
        "compiling_peak_gib": timing.peak_memory() / timing.GIB,
    }
    Report(quick).table(f"Config {name}, compiled", ["", ""], list(results.items()))
    return results


def first_steps(
    given: Task, batch: batching.MolecularGraph
) -> tuple[workloads.Compiled, workloads.Stepper]:
    """The compiled training step, after two steps."""
    compiled = workloads.compile_step(given, batch)
    stepper = workloads.Stepper(given, compiled.call, batch)
    for _ in range(2):
        jax.block_until_ready(stepper())
    return compiled, stepper


def measure(name: str, quick: bool) -> dict[str, float]:
    """Measures one config in this process."""
    config, given, batch = workloads.standard(name, quick)
    compiled, stepper = first_steps(given, batch)
    peak_memory = timing.peak_memory()

    predicting = workloads.Predicting(given, batch)
    calls: dict[str, timing.Call] = {"step": stepper, "inference": predicting}
    times, peak = timing.with_peak(calls, 2 if quick else 10, quick)
    outside, layer = workloads.count_step(given, batch)
    layers = config["model"]["layers"]
    flops, moved = (o + layers * l for o, l in zip(outside, layer, strict=True))

    graph = jax.tree.map(lambda leaf: leaf[0], batch)
    atoms, edges = int(graph.n_node[:-1].sum()), int(graph.n_edge[:-1].sum())
    molecules = len(graph.n_node) - 1
    seconds = times["step"]
    results = {
        "step_seconds": float(np.median(seconds)),
        "step_seconds_best": float(seconds.min()),
        "inference_ms_per_molecule": float(1e3 * np.median(times["inference"]) / molecules),
        "gflop_equivalents": float(np.median(seconds * peak) / 1e9),
        "utilisation": float(np.median(flops / seconds / peak)),
        "gflop": flops / 1e9,
        "gbytes": moved / 1e9,
        "peak_gib": peak_memory / timing.GIB,
        "buffers_gib": compiled.buffers / timing.GIB,
        "matrix_gflops": float(np.median(peak) / 1e9),
    }
    Report(quick).table(
        f"Config {name}: {molecules} molecules, {atoms:,} atoms, {edges:,} edges, padded to "
        f"{graph.senders.size:,}",
        ["", ""],
        [
            ["training step, ms", milliseconds(seconds)],
            ["inference of the batch, ms", milliseconds(times["inference"])],
            *([key, value] for key, value in results.items()),
        ],
        f"Times: best / median of {len(seconds)}.",
    )
    return results
