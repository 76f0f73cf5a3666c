"""Reproduces the error of a trained model: the number in its report, to the last digit.

    python -m experiments.evaluate --workdir=runs/quick --split=test

With files that ASE reads, it gives the errors of energies, forces and stress, or of dipole moments,
on all their structures:

    python -m experiments.evaluate --workdir=runs/forces FILE.extxyz

Units and names in a file are those of config.data, or given here. Structures that cannot be scored
are named and left out, and the exit code is 1.

Without --workdir the weights are those that come with the package.

With --from_smiles=N it compares the error on N molecules of QM9 (of its test part, or --split=NAME)
with that on positions which RDKit makes from their SMILES, as `experiments.predict` does.

With --submission=FILE.npz it writes predictions for OC20's four test parts, for its leaderboard.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments import program

SPLIT = flags.DEFINE_string("split", None, "NAME of a part; not given: those of the report")
OF_FILES = {
    "energy_unit": flags.DEFINE_string("energy_unit", None, "UNIT of a file's energies"),
    "length_unit": flags.DEFINE_string("length_unit", None, "UNIT of a file's lengths"),
    "energy_key": flags.DEFINE_string("energy_key", None, "NAME of energies in a file"),
    "forces_key": flags.DEFINE_string("forces_key", None, "NAME of forces in a file"),
    "stress_key": flags.DEFINE_string("stress_key", None, "NAME of the stress in a file"),
    "dipole_key": flags.DEFINE_string("dipole_key", None, "NAME of dipole moments in a file"),
}
"""Flags by field of `ASEFile`."""
FROM_SMILES = flags.DEFINE_integer(
    "from_smiles", None, "N, molecules of the part, drawn at random", lower_bound=1
)
SUBMISSION = flags.DEFINE_string("submission", None, "FILE.npz, for OC20's leaderboard")

PROGRAM = program.Program(str(__doc__), [], [program.WORKDIR], words=True)
if __name__ == "__main__":
    PROGRAM.begin()

import numpy as np

from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.is2re import IS2RE
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.data.qm9pack import package_folder, read_smiles
from hdgnn_jax.data.targets import RELAXED_ENERGY
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import StructureError
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import record_of
from hdgnn_jax.run.results import print_results, refuse_changed_data, restored, results
from hdgnn_jax.run.score import errors_from_smiles, score
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.result import format_mae
from hdgnn_jax.training.tables import print_table
from hdgnn_jax.types import Fields, Json

SHOWN = 20
"""Largest number of structures that are named because they cannot be scored."""


def main(*files: str) -> None:
    """The program."""
    how = {name: flag.value for name, flag in OF_FILES.items() if flag.value is not None}
    of_parts = bool(SPLIT.value or FROM_SMILES.value)
    if bool(files) + bool(SUBMISSION.value) + of_parts > 1 or (how and not files):
        raise InputError(
            "give files, --submission, or parts of the data (--split, --from_smiles); units and "
            "keys need files"
        )
    if files:
        if score_files(program.trained(), [pathlib.Path(file) for file in files], how):
            sys.exit(1)
    elif SUBMISSION.value:
        submit(program.trained(), pathlib.Path(SUBMISSION.value))
    elif FROM_SMILES.value:
        compare_smiles(program.trained(), SPLIT.value, FROM_SMILES.value)
    else:
        run(program.trained(), SPLIT.value)


def run(workdir: pathlib.Path, split: str | None) -> None:
    """Prints the error on a split of the weights that were best on validation.

    Raises:
      ValueError, QM9Error, Is2reError, StructureError, CheckpointError: each with one line.
    """
    task, predictor = restored_beside_its_data(workdir)
    print_results(task, results(task, predictor, None if split is None else [split]))


def restored_beside_its_data(workdir: pathlib.Path) -> tuple[Task, Predictor]:
    """What `restored` gives, where the parts of the data are those that the run had.

    Raises:
      CheckpointError: where they are not, or the run cannot be restored.
    """
    task, predictor = restored(workdir)
    refuse_changed_data(record_of(workdir), task.data, workdir, "name a file to score")
    return task, predictor


def compare_smiles(workdir: pathlib.Path, split: str | None, n: int) -> None:
    """Prints the errors on n molecules of a part of QM9, also from their SMILES alone.

    Raises:
      InputError: where the run is not of QM9's scalars.
      QM9Error, StructureError, CheckpointError: each with one line.
    """
    task, predictor = restored_beside_its_data(workdir)
    if not isinstance(task.data, QM9) or any(one.target.rank for one in task.fitted):
        raise InputError(f"{workdir} does not predict numbers of QM9, whose SMILES are known")
    # A run from SMILES has the errors with QM9's positions beside its own, too.
    task = dataclasses.replace(task, data=dataclasses.replace(task.data, positions=None))
    examples = task.examples(split or task.data.first_test)
    drawn = np.random.default_rng(0).permutation(len(examples))[:n]
    errors, left_out = errors_from_smiles(
        task, predictor, examples.take(np.sort(drawn)), read_smiles(package_folder())
    )
    if left_out:
        print(f"left out: {len(left_out):,} of {len(drawn):,}; the first: {left_out[0]}")
    print_table(
        f"Mean absolute errors on {len(drawn) - len(left_out):,} molecules",
        ("", "QM9's positions", "from SMILES"),
        [
            (f"{one.name} [{one.target.unit}]", *map(format_mae, errors[one.name]))
            for one in task.fitted
        ],
    )


def score_files(
    workdir: pathlib.Path, files: Sequence[pathlib.Path], how: Fields | None = None
) -> int:
    """Prints the errors on files, of the weights that were best on validation.

    Args:
      workdir: folder of the run, or its file of weights.
      files: files that ASE reads.
      how: fields of `ASEFile` that replace those of the run's config.

    Returns:
      The number of structures that could not be scored.

    Raises:
      InputError, StructureError, CheckpointError: each with one line.
    """
    if absent := [str(file) for file in files if not file.exists()]:
        raise StructureError(f"{', '.join(absent)}: there is no file")
    task, predictor = restored(workdir)
    of_run = task.data if isinstance(task.data, ASEFile) else ASEFile()
    source, bad = dataclasses.replace(of_run, **(how or {})), 0
    rows = []
    for file in files:
        try:
            found = score(task, predictor, source, file)
        except StructureError as reason:
            # Those of the other files are worth having.
            if len(files) == 1:
                raise
            print(f"left out: {reason}")
            bad += 1
            continue
        for name, errors in found.errors.items():
            numbers = format_mae(errors.mae), format_mae(errors.rmse)
            rows.append((file.name, name, f"{len(errors.ids):,}", *numbers))
        for note in found.notes:
            print(f"{file.name}: {note}")
        for doubt in found.doubts:
            print(f"warning: {file.name}: {doubt}")
        for error in found.left_out[:SHOWN]:
            print(f"left out: {error}")
        if (more := len(found.left_out) - SHOWN) > 0:
            print(f"left out: {more:,} more")
        bad += len(found.left_out)
    if rows:
        print_table("Errors on files", ("file", "", "n", "MAE", "RMSE"), rows, left=(0, 1))
        print(f"n counts structures, for forces atoms; energies were read in {source.energy_unit}")
    return bad


def submit(workdir: pathlib.Path, file: pathlib.Path) -> None:
    """Writes the ids and energies (eV) of each test part: `id_ids`, `id_energy`, `ood_ads_ids`, ...

    Raises:
      InputError: where the run is not of IS2RE, or the file is not an .npz or cannot be written.
      Is2reError, StructureError, CheckpointError: each with one line.
    """
    if file.suffix != ".npz":
        raise InputError(f"--submission={file} must end in .npz")
    program.refuse_unwritable("submission", file)
    task, predictor = restored(workdir)
    data = task.data
    if not isinstance(data, IS2RE):
        raise InputError(f"{workdir} was trained on {data.title}: no leaderboard takes it")
    one = next((one for one in task.fitted if one.target == RELAXED_ENERGY), None)
    if one is None:
        raise InputError(f"{workdir} does not predict {RELAXED_ENERGY.name}, which is submitted")
    found = results(task, predictor, list(data.submitted.values()), hidden=True)[one.name]
    arrays: Json = {}
    for name, result in zip(data.submitted, found, strict=True):
        arrays[f"{name}_ids"] = result.ids.astype(str)
        arrays[f"{name}_energy"] = result.prediction / one.target.factor
    np.savez_compressed(file, **arrays)
    counts = ", ".join(f"{result.split} {len(result.ids):,}" for result in found)
    print(f"{file}: {counts}")
    if data.stand_in:
        print(f"warning: {data.title}: no leaderboard takes it", file=sys.stderr)


if __name__ == "__main__":
    PROGRAM.run(main)
