"""Measures the time to compile the training step, against the number of layers."""

from __future__ import annotations

from experiments.benchmarks import workloads
from experiments.benchmarks.report import Report

LAYERS = (6, 12)


def run(report: Report) -> dict[str, float]:
    """Times compilations of config b's step, the best of two, after one that is not counted."""
    _, problem, batch = workloads.standard("b", report.quick)
    seconds = dict.fromkeys(LAYERS, float("inf"))
    workloads.compile_step(workloads.with_model(problem, layers=1), batch)
    for _ in range(1 if report.quick else 2):
        for layers in LAYERS:
            model = workloads.with_model(problem, layers=layers)
            seconds[layers] = min(seconds[layers], workloads.compile_step(model, batch).seconds)
    report.table("Compilation of b's training step", ["layers", "s"], list(seconds.items()))
    return {
        **{f"compile_k{layers}_seconds": value for layers, value in seconds.items()},
        "compile_k12_over_k6": seconds[12] / seconds[6],
    }
