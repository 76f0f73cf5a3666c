"""Reproduces the error of a trained model: the number in its report, to the last digit.

    python -m experiments.evaluate --workdir=runs/quick --split=test

With --submission=FILE.npz instead, predictions for OC20's four test parts as its leaderboard takes
them.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import flags

from experiments import program
from experiments.problem import Predictor, best_results, print_results
from experiments.sets import IS2RE
from hdgnn_jax.errors import InputError
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints

SPLIT = flags.DEFINE_string("split", None, "NAME of a part, if not those of the report")
SUBMISSION = flags.DEFINE_string("submission", None, "FILE.npz, for OC20's leaderboard")


def main() -> None:
    """The program."""
    if SUBMISSION.value:
        submit(program.workdir(), pathlib.Path(SUBMISSION.value))
    else:
        run(program.workdir(), SPLIT.value)


def run(workdir: pathlib.Path, split: str | None) -> None:
    """Prints the error on a split of the weights that were best on validation.

    Raises:
      ValueError, QM9Error, Is2reError, StructureError, CheckpointError: each with one line.
    """
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        predictor = Predictor.from_record(checkpoints.record("best"), step.make_mesh())
        names = predictor.problem.data.reported if split is None else [split]
        results = best_results(checkpoints, predictor, names)
    print_results(predictor.problem, results)


def submit(workdir: pathlib.Path, file: pathlib.Path) -> None:
    """Writes the ids and energies (eV) of each test part: `id_ids`, `id_energy`, `ood_ads_ids`, ...

    Raises:
      ValueError: where the run is not of IS2RE, or the file is not an .npz.
      Is2reError, StructureError, CheckpointError: each with one line.
    """
    if file.suffix != ".npz" or not file.absolute().parent.is_dir():
        raise InputError(f"--submission={file} must end in .npz and lie in an existing folder")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        predictor = Predictor.from_record(checkpoints.record("best"), step.make_mesh())
        data, factor = predictor.problem.data, predictor.problem.target.factor
        if not isinstance(data, IS2RE):
            raise InputError(f"{workdir} was trained on {data.title}: no leaderboard takes it")
        names = list(data.submitted.values())
        results = best_results(checkpoints, predictor, names, hidden=True)
    arrays: dict[str, Any] = {}
    for name, result in zip(data.submitted, results, strict=True):
        arrays[f"{name}_ids"] = result.ids.astype(str)
        arrays[f"{name}_energy"] = result.prediction / factor
    np.savez_compressed(file, **arrays)
    counts = ", ".join(f"{result.split} {len(result.ids):,}" for result in results)
    print(f"{file}: {counts}")


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR])
