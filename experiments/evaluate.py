"""Reproduces the error of a trained model: the number in its report, to the last digit.

    python -m experiments.evaluate --workdir=runs/quick --split=test
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import program
from experiments.problem import Predictor, best_results, print_results
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints

SPLITS = ("train", "validation", "test")
SPLIT = flags.DEFINE_string("split", "test", ", ".join(SPLITS))


def main() -> None:
    """The program."""
    run(program.workdir(), SPLIT.value)


def run(workdir: pathlib.Path, split: str) -> None:
    """Prints the error on a split of the weights that were best on validation.

    Raises:
      ValueError, QM9Error, StructureError, CheckpointError: each with one line.
    """
    if split not in SPLITS:
        raise ValueError(f"--split must be one of {', '.join(SPLITS)}, not {split!r}")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        predictor = Predictor.from_record(checkpoints.record("best"), step.make_mesh())
        results = best_results(checkpoints, predictor, [split])
    print_results(predictor.problem, results)


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR])
