"""Predicts QM9's twelve properties, or those that runs were trained on, for structures.

    python -m experiments.predict smiles:CCO
    python -m experiments.predict --workdir=runs/quick smiles:CCO qm9:1-100 --output=out.csv

Without --workdir the weights are those that come with the package: one file for SMILES, one for all
else. With --forces or --relax the latter predicts SMILES too, with larger errors. Molecules whose
positions a force field made are better given as SMILES.

Inputs, any number and mixed:
  FILE          all structures of a file that ASE reads: xyz, extxyz, cif, db, traj, ...; also
                QM9's own xyz files, and all molecules of sdf files (RDKit reads them).
  FILE.lmdb     OC20's records.
  FILE.smi      a SMILES on each line; what follows it on the line is its name. The output has both.
  smiles:CCO    a SMILES. RDKit makes the positions, and the output says so. With --conformers=10
                the one of lowest MMFF94 energy is predicted; a further column has the spread of the
                prediction over all of them.
  qm9:1-100     QM9's molecules by index, from the package qm9pack.

The output is .csv, .json or .extxyz, with one row for each structure in the order of the inputs and
a unit with each quantity; without --output it is a table, or CSV where it goes into a pipe. An
input that cannot be used, such as a missing file, gets a row with the reason (but none in .extxyz
if it cannot be read); the others are predicted, and the exit code is 1. A warning says that a
structure is unlike all that the model was trained on, or has a charge. Comments of xyz files and
titles of sdf files are kept.

  --unit=eV gives energies in eV, or kcal/mol, kJ/mol, Ha, Ry; --unit=Å^3 a polarizability. A wrong
  unit is refused, with a list of the units there are. Predictions have as many decimals as
  the model's error on validation has when it is written with four digits.

  Several models: --workdir=runs/U0,runs/gap predicts both properties. Runs of the same property
  are an ensemble: mean and spread (standard deviation).
  --rolls=8 measures cheaply how sure a model with a learned pathway is: it gives mean and spread
  over the arbitrary roll of the edges' frames.
  --forces adds forces (eV/Å) to .json and .extxyz, where one run predicts an energy, which is then
  in eV too. --relax moves the atoms that are not fixed to a minimum of that energy first, all
  structures at once.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import flags

from experiments import program

UNIT = flags.DEFINE_string("unit", None, "UNIT of the predictions, if not that of training")
FORCES = flags.DEFINE_bool("forces", False, "add forces, eV/Å")
ROLLS = flags.DEFINE_integer("rolls", 1, "N, rolls of the edges' frames; adds the spread")
CONFORMERS = flags.DEFINE_integer("conformers", 1, "N, of each SMILES; the lowest is taken")
RELAX = flags.DEFINE_bool("relax", False, "relax first, with the run that predicts an energy")
FMAX = flags.DEFINE_float("fmax", 0.05, "F, eV/Å, largest force on an atom of a relaxed structure")
STEPS_OF_RELAX = flags.DEFINE_integer("relax_steps", 200, "N, most steps of --relax")

PROGRAM = program.Program(str(__doc__), [], [program.WORKDIR, program.OUTPUT], words=True)
if __name__ == "__main__":
    PROGRAM.begin()

from hdgnn_jax.data.units import KINDS, conversion
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.inference.inputs import rows_of
from hdgnn_jax.inference.predicted_rows import DEFAULTS, Options, predict_rows
from hdgnn_jax.inference.predictor import Predictor, PredictorError
from hdgnn_jax.inference.rows import FORMATS, Row, as_csv, print_rows
from hdgnn_jax.inference.weights import SHIPPED, SHIPPED_SMILES
from hdgnn_jax.progress import progress_bar


class Group(NamedTuple):
    """Rows that the same models predict.

    Attributes:
      workdirs: folders of runs, or files of weights.
      predictors: their models.
      rows: the rows.
    """

    workdirs: Sequence[pathlib.Path]
    predictors: Sequence[Predictor]
    rows: list[Row]


def main(*inputs: str) -> None:
    """The program."""
    if not inputs:
        raise InputError("name one or more inputs: files, smiles:SMILES, or qm9:INDEX")
    output = None if program.OUTPUT.value is None else pathlib.Path(program.OUTPUT.value)
    if output and output.suffix not in FORMATS:
        raise InputError(f"--output={output} must end in {', '.join(FORMATS)}")
    program.refuse_unwritable("output", output)
    named = program.WORKDIR.value or ""
    # A folder may have a comma in its name.
    names = [named] if pathlib.Path(named).exists() else named.split(",")
    workdirs = [pathlib.Path(name) for name in names] if named else []
    options = Options(
        FORCES.value, ROLLS.value, CONFORMERS.value, RELAX.value, FMAX.value, STEPS_OF_RELAX.value,
        UNIT.value,
    )  # fmt: skip
    if run(workdirs, inputs, output, options):
        sys.exit(1)


def run(
    workdirs: Sequence[pathlib.Path],
    inputs: Sequence[str],
    output: pathlib.Path | None,
    options: Options = DEFAULTS,
) -> int:
    """Predicts and writes; returns the number of structures that could not be used.

    Args:
      workdirs: folders of runs; empty: the weights that come with the package.
      inputs: words of the command line.
      output: a file; None: the standard output.
      options: those of the command line.

    Raises:
      InputError: as `refuse` does; for forces where no run, or several, predict an energy; for a
        unit that none of the runs' properties can have.
      CheckpointError: where a run cannot be read.
    """
    refuse(inputs, output, options)
    sources = [list(workdirs) or [SHIPPED]]
    if not (workdirs or options.forces or options.relax):
        smiles = [is_smiles(name) for name in inputs]
        sources = [[SHIPPED]] * (not all(smiles)) + [[SHIPPED_SMILES]] * any(smiles)
    groups = [Group(source, load(source, options), []) for source in sources]
    rows = read_inputs(inputs, options.conformers)
    for row in rows:
        groups[-1 if row.smiles else 0].rows.append(row)
    for said in itertools.chain.from_iterable(about(group, not workdirs) for group in groups):
        print(said, file=sys.stderr)
    with progress_bar("structures") as progress:
        n = sum(
            len(row.structures) * (len(group.predictors) + options.relax) + options.forces
            for group in groups for row in group.rows if row.reason is None
        )  # fmt: skip
        task = progress.add_task("predicting", total=n)
        for group in groups:
            runs = list(zip(map(str, group.workdirs), group.predictors, strict=True))
            predict_rows(group.rows, runs, options, functools.partial(progress.advance, task))
        # Some were refused.
        progress.update(task, completed=n)
    write(rows, output)
    done = f"{output}: " * bool(output) + summary(rows, groups[0].predictors)
    print(done, file=sys.stdout if output else sys.stderr)
    return sum(row.reason is not None for row in rows)


def about(group: Group, own: bool) -> Iterator[str]:
    """What the package's weights are for, with the errors to expect; doubts of positions.

    Args:
      group: models and the rows that they will predict.
      own: whether the models are the package's.
    """
    of_smiles = [bool(row.smiles) for row in group.rows if row.reason is None]
    if not of_smiles:
        return
    for workdir, predictor in zip(group.workdirs, group.predictors, strict=True):
        if own:
            what, how = ("relaxed molecules", "")
            if predictor.from_smiles:
                what, how = ("SMILES of molecules", ", learned from positions that RDKit makes")
            yield (
                f"weights that come with the package, for {what} of H, C, N, O and F like QM9's "
                f"(B3LYP/6-31G(2df,p){how}); mean absolute errors on QM9's validation part: "
                f"{listed(predictor, predictor.errors)}"
            )
        name = "the model" if own else workdir
        if predictor.from_smiles and not all(of_smiles):
            yield (
                f"warning: {name} learned from positions that RDKit made from SMILES: for others "
                "errors are larger than on its validation part"
            )
        elif any(of_smiles) and not (predictor.from_smiles or predictor.trained_on_forces):
            yield (
                f"warning: {name} learned from other positions than those that RDKit makes from a "
                "SMILES, for which errors are larger than on its validation part (for QM9 "
                "`evaluate --from_smiles=1000` measures them)"
            )


def is_smiles(name: str) -> bool:
    """Whether an input is a SMILES or a list of them."""
    return name.startswith("smiles:") or name.lower().endswith(".smi")


def refuse(inputs: Sequence[str], output: pathlib.Path | None, options: Options) -> None:
    """Raises InputError for what cannot be done, before anything is read.

    That is forces in a table, conformers without a SMILES, and an output that is an input. For
    relaxed structures in a table it says that their positions are not in it.
    """
    table = output is None or output.suffix == ".csv"
    for name in inputs:
        if output and output.exists() and pathlib.Path(name).exists() and output.samefile(name):
            raise InputError(f"--output={output} is an input, which it would replace")
    if options.forces and table:
        raise InputError("--forces needs --output=FILE.json or FILE.extxyz")
    if options.conformers > 1 and not any(map(is_smiles, inputs)):
        raise InputError("--conformers is for SMILES: other positions are taken as they are")
    if options.relax and table:
        print("relaxed positions are written to FILE.json or FILE.extxyz alone", file=sys.stderr)


def read_inputs(inputs: Sequence[str], conformers: int) -> list[Row]:
    """The structures of all inputs, with a bar where RDKit has many positions to make."""
    if conformers == 1 and not any(name.lower().endswith(".smi") for name in inputs):
        return rows_of(inputs)
    with progress_bar("structures") as progress:
        task = progress.add_task("reading, positions from SMILES", total=None)
        rows = rows_of(inputs, conformers, functools.partial(progress.advance, task))
        progress.update(task, total=len(rows), completed=len(rows))
    return rows


def listed(predictor: Predictor, errors: Mapping[str, float]) -> str:
    """The errors by target, with units and two digits."""
    return ", ".join(
        # Without an exponent.
        f"{one.name} {float(f'{errors[one.name]:.2g}'):g} {one.target.unit}"
        for one in predictor.fitted
    )


def summary(rows: Sequence[Row], predictors: Sequence[Predictor]) -> str:
    """How many rows have predictions of the models' properties, and how many have none."""
    names = ", ".join(dict.fromkeys(one.name for p in predictors for one in p.fitted))
    good = [row for row in rows if row.reason is None]
    bad, doubtful = len(rows) - len(good), sum(bool(row.warning) for row in good)
    moving = sum(not row.converged for row in good)
    return (
        f"{len(good):,} prediction{'s' * (len(good) != 1)} of {names}"
        + f", {doubtful:,} with a warning" * bool(doubtful)
        + f", {moving:,} NOT yet relaxed" * bool(moving)
        + f"; no prediction for {bad:,}, each with its reason" * bool(bad)
    )


def load(workdirs: Sequence[pathlib.Path], options: Options) -> list[Predictor]:
    """Loads the models, and checks that they can do what is asked.

    Raises:
      As `run`.
    """
    places = set[pathlib.Path]()
    for workdir in workdirs:
        if (place := workdir.resolve()) in places:
            said = f"warning: --workdir names {workdir} twice: it counts twice in mean and spread"
            print(said, file=sys.stderr)
        places.add(place)
    # Forces are then of the same mean over rolls as the energies.
    frames = options.rolls if options.rolls > 1 else None
    predictors = [Predictor.load(workdir, frames) for workdir in workdirs]
    n = sum(predictor.has_forces for predictor in predictors)
    if (options.forces or options.relax) and n != 1:
        if not n:
            predictors[0].energy()  # says why
        raise PredictorError(
            f"--forces and --relax need one run that predicts an energy; {n} of these do"
        )
    unit, own = options.unit, dict.fromkeys(one.target.unit for p in predictors for one in p.fitted)
    if unit and all(conversion(name, unit) is None for name in own):
        known = dict.fromkeys(other for kind in KINDS if own.keys() & kind for other in kind)
        raise InputError(f"--unit={unit} must be one of {', '.join(known or own)}")
    return predictors


def write(rows: Sequence[Row], output: pathlib.Path | None) -> None:
    """Writes the rows into a file; without one, as a table to a terminal, else as CSV."""
    if output:
        write_atomically(output, FORMATS[output.suffix](rows).encode())
    elif sys.stdout.isatty():
        print_rows(rows)
    else:
        sys.stdout.write(as_csv(rows))


if __name__ == "__main__":
    PROGRAM.run(main)
