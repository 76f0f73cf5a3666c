"""Runs a part of a group in a process of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile


def alone(module: str, *words: str, **environment: str) -> dict[str, float]:
    """Runs a module of this package, and returns the content of the JSON file that it writes.

    Args:
      module: name of the module.
      words: arguments after the path of the file.
      environment: variables added to those of this process.

    Raises:
      ValueError: where the module fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "results.json"
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.benchmarks.{module}", str(file), *words],
            cwd=pathlib.Path(__file__).parents[2],
            env={**os.environ, **environment},
            check=False,
        )
        if done.returncode:
            what = " ".join((module, *words))
            raise ValueError(f"{what} ended with exit code {done.returncode}")
        measured: dict[str, float] = json.loads(file.read_text())
        return measured
