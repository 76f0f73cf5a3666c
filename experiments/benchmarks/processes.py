"""A part of a group in a process of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile


def alone(module: str, *words: str, **environment: str) -> dict[str, float]:
    """Runs a module of this package; what it leaves in the JSON file it is given.

    Args:
      module: its name.
      words: its arguments, after the file.
      environment: variables beside those of this process.

    Raises:
      ValueError: where it fails.
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
        return json.loads(file.read_text())
