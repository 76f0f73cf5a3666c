"""Measures the memory that each layer adds, with and without rematerialisation."""

from __future__ import annotations

import numpy as np

from experiments.benchmarks import workloads
from experiments.benchmarks.report import Report
from experiments.benchmarks.timing import GIB


def run(report: Report) -> dict[str, float]:
    """Reads XLA's temporary buffers of config b's compiled training step; nothing is run."""
    _, problem, batch = workloads.standard("b", report.quick)
    layers = (2, 3, 4) if report.quick else (2, 4, 6, 8)

    def temporary(remat: bool) -> list[float]:
        models = (workloads.with_model(problem, layers=k, remat=remat) for k in layers)
        return [workloads.compile_step(model, batch).temporary / GIB for model in models]

    plain, remat = temporary(False), temporary(True)
    slopes = [float(np.polyfit(layers, sizes, 1)[0]) for sizes in (plain, remat)]
    report.table(
        "Temporary buffers of b's training step, GiB",
        ["layers", "remat off", "remat on"],
        [*zip(layers, plain, remat, strict=True), ["per layer", *slopes]],
    )
    return {
        "memory_per_layer_gib": slopes[0],
        "remat_per_layer_gib": slopes[1],
        "remat_growth_per_layer": slopes[1] / slopes[0],
    }
