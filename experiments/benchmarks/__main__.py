"""Measures speed and memory; prints tables and writes a flat JSON file.

    python -m experiments.benchmarks wigner train --json=results.json

The words are groups of measurements; without any, all run: wigner, sphere, products, train,
compile, memory, plan, pipeline, scaling, is2re, predict, quick. README.md beside this file explains
each key. --plot is for scaling.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import platform

from absl import flags

from experiments import program

COMPARE = flags.DEFINE_string("compare", None, "REV, a git revision that runs too, in turns")
QUICK = flags.DEFINE_bool("quick", False, "toy sizes, to see that everything runs")

GROUPS = (
    "wigner", "sphere", "products", "train", "compile", "memory", "plan", "pipeline", "scaling",
    "is2re", "predict", "quick",
)  # fmt: skip

PROGRAM = program.Program(str(__doc__), [], [program.JSON, program.PLOT], words=True)
if __name__ == "__main__":
    PROGRAM.begin()

import jax

from experiments.benchmarks.compare import compare
from experiments.benchmarks.report import Report
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_json
from hdgnn_jax.types import Json


def main(*groups: str) -> None:
    """The program: runs the groups and writes the JSON file after each."""
    for name in groups:
        if name not in GROUPS:
            raise InputError(f"{name!r} is no benchmark; there are {', '.join(GROUPS)}")
    jax.config.update("jax_enable_compilation_cache", False)
    report = Report(QUICK.value, pathlib.Path(program.PLOT.value) if program.PLOT.value else None)
    names = groups or GROUPS
    results: Json = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "quick": QUICK.value,
    }

    def add(more: dict[str, float]) -> None:
        results.update({key: float(value) for key, value in more.items()})
        if program.JSON.value:
            write_json(program.JSON.value, results)

    if COMPARE.value:
        add(compare(COMPARE.value, names, report))
        return
    for name in names:
        add(importlib.import_module(f"experiments.benchmarks.{name}").run(report))


if __name__ == "__main__":
    PROGRAM.run(main)
