"""The programs as shell commands: `hdgnn-train` is `python -m experiments.train`."""

from __future__ import annotations

import runpy
from collections.abc import Callable

NAMES = (
    "benchmarks", "doctor", "evaluate", "export", "expressiveness", "peer", "plan", "predict",
    "prepare", "scaling", "search", "selftest", "soak", "study", "symmetry", "train",
)  # fmt: skip
"""Names of programs; setup.cfg has a command for each."""


def __getattr__(name: str) -> Callable[[], None]:
    """The function that runs a program."""
    if name not in NAMES:
        raise AttributeError(name)

    def run() -> None:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)

    return run
