"""Runs a part of a group in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from experiments import program
from hdgnn_jax import cpu
from hdgnn_jax.errors import InputError


def alone(
    part: Callable[..., dict[str, float]], *arguments: str | bool, **environment: str
) -> dict[str, float]:
    """Calls a function of a module of this package there, with a program's settings.

    Args:
      part: the function.
      arguments: what it is called with.
      environment: variables added to those of this process.

    Raises:
      InputError: where the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "results.json"
        call = [part.__module__, part.__name__, json.dumps(arguments)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.benchmarks.processes", str(file), *call],
            cwd=pathlib.Path(__file__).parents[2],
            env={**os.environ, **environment},
            check=False,
        )
        if done.returncode:
            raise InputError(f"{' '.join(call)} ended with exit code {done.returncode}")
        measured: dict[str, float] = json.loads(file.read_text())
        return measured


if __name__ == "__main__":
    program.quiet()
    # JAX reads one of the settings when it starts its devices, so they come before the import.
    cpu.tune()
    file_name, module, name, words = sys.argv[1:]
    results = getattr(importlib.import_module(module), name)(*json.loads(words))
    pathlib.Path(file_name).write_text(json.dumps(results))
