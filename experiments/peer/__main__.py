"""Writes what a peer needs to train on the molecules of a study, for the same time.

    python -m experiments.peer --workdir=runs/study

For each target a file runs/study/peer/TARGET.npz: molecules, edges and standardised targets of
the study's baseline, and the seconds its runs took. What trains on it is
`experiments/peer/painn.py`, in an environment of its own. `experiments.study` then has it on its
page.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from experiments import program, study_page
from experiments.problem import Molecules, Problem, part
from hdgnn_jax.training.checkpoint import Checkpoints


def main() -> None:
    """The program."""
    run(program.workdir())


def run(workdir: pathlib.Path, variant: str = study_page.BASELINE) -> None:
    """Writes a file for each target that the variant has a finished run of.

    Raises:
      ValueError: where there is none.
      QM9Error, CheckpointError: each with one line.
    """
    folders = sorted(f for f in workdir.glob(f"*/{variant}/0") if study_page.finished(f))
    if not folders:
        raise ValueError(f"{workdir} holds no finished run of {variant}: run experiments.study")
    for folder in folders:
        with Checkpoints(folder / "checkpoints") as checkpoints:
            problem = Problem.from_record(checkpoints.record("best"))
        seconds = [
            json.loads(path.read_text())["seconds"]
            for path in sorted(folder.parent.glob("*/report/summary.json"))
        ]
        validation = part(problem.config, "validation")
        parts = {
            "train": part(problem.config, "train"),
            "validation": validation.first(problem.config["training"]["validation_size"]),
            "test": part(problem.config, "test"),
        }
        arrays: dict[str, Any] = {
            f"{name}_{key}": value
            for name, molecules in parts.items()
            for key, value in columns(problem, molecules).items()
        }
        out = workdir / "peer" / f"{problem.target.name}.npz"
        out.parent.mkdir(exist_ok=True)
        np.savez(
            out,
            seconds=np.mean(seconds),
            scale=problem.reference.scale,
            cutoff=problem.model.cutoff,
            batch_size=problem.config["training"]["batch_size"],
            **arrays,
        )
        print(f"{out}: {np.mean(seconds):.0f} s")


def columns(problem: Problem, molecules: Molecules) -> dict[str, np.ndarray]:
    """Arrays end to end: molecule k has atoms and edges `offsets[k]` to `offsets[k + 1]`."""
    structures, neighbors = molecules.structures, molecules.neighbors.found()
    return {
        "atoms": structures.offsets,
        "numbers": structures.atomic_numbers,
        "positions": structures.positions.astype(np.float32),
        "edges": neighbors.offsets,
        "receivers": neighbors.receivers,
        "senders": neighbors.senders,
        "target": problem.reference.standardise(structures, molecules.raw),
    }


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR])
