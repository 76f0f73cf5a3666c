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
from hdgnn_jax.data.is2re import IS2RE
from hdgnn_jax.errors import InputError
from hdgnn_jax.run.results import print_results, restored, results
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
        task, predictor = restored(checkpoints)
    names = task.data.reported if split is None else [split]
    print_results(task, results(task, predictor, names))


def submit(workdir: pathlib.Path, file: pathlib.Path) -> None:
    """Writes the ids and energies (eV) of each test part: `id_ids`, `id_energy`, `ood_ads_ids`, ...

    Raises:
      ValueError: where the run is not of IS2RE, or the file is not an .npz.
      Is2reError, StructureError, CheckpointError: each with one line.
    """
    if file.suffix != ".npz" or not file.absolute().parent.is_dir():
        raise InputError(f"--submission={file} must end in .npz and lie in an existing folder")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        task, predictor = restored(checkpoints)
    data = task.data
    if not isinstance(data, IS2RE):
        raise InputError(f"{workdir} was trained on {data.title}: no leaderboard takes it")
    found = results(task, predictor, list(data.submitted.values()), hidden=True)
    arrays: dict[str, Any] = {}
    for name, result in zip(data.submitted, found, strict=True):
        arrays[f"{name}_ids"] = result.ids.astype(str)
        arrays[f"{name}_energy"] = result.prediction / task.target.factor
    np.savez_compressed(file, **arrays)
    counts = ", ".join(f"{result.split} {len(result.ids):,}" for result in found)
    print(f"{file}: {counts}")


if __name__ == "__main__":
    program.run(main, str(__doc__), [program.WORKDIR])
