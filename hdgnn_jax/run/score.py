"""Errors of a trained model on any file with labels, and on positions made from SMILES."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from hdgnn_jax.data import plausible
from hdgnn_jax.data.ase_dataset import ASEFile, lines_on_atoms, without_atoms
from hdgnn_jax.data.fitted import FittedTarget, names_of
from hdgnn_jax.data.partition import fingerprints
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.data.targets import CALCULATED
from hdgnn_jax.data.units import ENERGIES
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.results import predicted
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.result import SplitResult, format_mae


@dataclasses.dataclass(frozen=True)
class Score:
    """The errors of a model on a file.

    Attributes:
      errors: results of each quantity, by its name and unit.
      left_out: why structures of the file are left out.
      doubts: lines on what makes the errors doubtful.
      notes: other lines on the file, for example on charges, which no model sees.
    """

    errors: dict[str, SplitResult]
    left_out: list[StructureError]
    doubts: list[str]
    notes: list[str]


def score(task: Task, predictor: Predictor, source: ASEFile, file: pathlib.Path) -> Score:
    """Predicts the structures of a file that the model can use.

    Args:
      task, predictor: of a run that predicts a potential energy or a dipole moment.
      source: how the file is read: units and names.
      file: a file that ASE reads.

    Raises:
      InputError: where the run predicts neither.
      StructureError: where no structure of the file can be scored for any of its targets.
    """
    labels = {"energy" if one.target.potential else one.name: one for one in task.fitted}
    if not (known := [label for label in labels if label in CALCULATED]):
        raise InputError(
            f"the run predicts {names_of(task.fitted)}; files are scored on "
            f"{' and '.join(CALCULATED)} alone"
        )
    errors: dict[str, SplitResult] = {}
    left_out: dict[str, StructureError] = {}
    notes: dict[str, None] = {}
    doubtful: dict[str, None] = {}
    unscored: list[tuple[str, StructureError]] = []
    seen = np.zeros(0, int)
    for label in known:
        one, reasons = labels[label], list[StructureError]()
        try:
            examples, said, of_values = labelled(predictor, source, file, one, label, reasons)
        except StructureError as error:
            unscored.append((one.name, error))
            continue
        notes |= dict.fromkeys(said)
        left_out |= {str(error): error for error in reasons}
        errors |= errors_of(task, predictor, file, one, examples)
        doubtful |= dict.fromkeys(of_values)
        if one.target.potential:
            doubtful |= dict.fromkeys(of_shift(errors[named(one)], examples, one.target.unit))
        new = np.flatnonzero(~np.isin(examples.structures.ids, seen))
        if len(new):
            doubtful |= dict.fromkeys(doubts(task, predictor, examples.take(new)))
        seen = np.union1d(seen, examples.structures.ids)
    if not errors:
        raise unscored[0][1]
    notes |= dict.fromkeys(f"{name} is not scored: {error}" for name, error in unscored)
    weights = {"forces": task.weights.forces, "stress": task.weights.stress}
    for name, weight in weights.items():
        if not weight and any(quantity.startswith(name) for quantity in errors):
            doubtful[f"the run was not trained on {name}: expect large errors"] = None
    return Score(errors, list(left_out.values()), list(doubtful), list(notes))


def labelled(
    predictor: Predictor,
    source: ASEFile,
    file: pathlib.Path,
    one: FittedTarget,
    label: str,
    left_out: list[StructureError],
) -> tuple[Examples, tuple[str, ...], list[str]]:
    """The structures of a file that have the label and that the model can use.

    As in training, isolated atoms are no examples.

    Args:
      label: name of the target in files.
      left_out: gets the reasons why other structures are left out.

    Returns:
      The structures, notes on the file, and doubts about its units.
    """
    try:
        whole = source.labelled(file, label, left_out)
    except StructureError as error:
        # The reason of a structure names the file, too.
        raise (left_out[0] if left_out else StructureError(f"{file}: {error}")) from error
    read = without_atoms(whole)
    if not len(read):
        raise StructureError(f"{file} holds isolated atoms alone, which are no examples")
    graphs, reasons = predictor.usable(read.structures)
    left_out += [StructureError(why, read.structures.name(k)) for k, why in reasons.items()]
    if not len(graphs):
        raise left_out[0]
    kept = read.take(np.setdiff1d(np.arange(len(read)), list(reasons)))
    # From eV to the unit that the run's data store.
    unit = ENERGIES[one.target.unit] * one.target.factor if one.target.potential else 1.0
    if not predictor.has_forces:
        kept = dataclasses.replace(kept, forces=None, virials=None)
    forces = None if kept.forces is None else kept.forces / unit
    of_one = {one.name: kept.labels[label] / unit}
    virials = None if kept.virials is None else kept.virials / unit
    notes = (*whole.notes, *lines_on_atoms(whole, read))
    doubts = [
        doubt.replace("config.data.", "--").replace("and length_unit", "and --length_unit")
        for doubt in plausible.doubts(kept, label, {}, source.energy_unit)
    ]
    return Examples(graphs.structures, graphs.neighbors, of_one, forces, virials), notes, doubts


def errors_of(
    task: Task, predictor: Predictor, file: pathlib.Path, one: FittedTarget, examples: Examples
) -> dict[str, SplitResult]:
    """Results of a target, per atom too if it is extensive, and of forces and stress."""
    target = one.target
    with progress_bar("structures") as progress:
        bar = progress.add_task(file.name, total=len(examples))
        advance = functools.partial(progress.advance, bar)
        alone = dataclasses.replace(task, fitted=(one,))
        found = predicted(file.name, alone, predictor, examples, advance=advance)[one.name]
    errors = {named(one): found}
    if target.size == "extensive":
        n = examples.structures.n_atoms
        each = dataclasses.replace(found, truth=found.truth / n, prediction=found.prediction / n)
        errors[f"{target.name} [{target.unit}/atom]"] = each
    for (name, per), result in found.slopes.items():
        errors[f"{name} [{target.unit}/{per}]"] = result
    return errors


def named(one: FittedTarget) -> str:
    """A target with its unit."""
    return f"{one.name} [{one.target.unit}]"


def of_shift(result: SplitResult, examples: Examples, unit: str) -> list[str]:
    """A line where nearly all of the errors of energies is a constant for each element."""
    errors = result.prediction - result.truth
    shift = plausible.shift(examples.structures, errors * ENERGIES[unit])
    if shift is None:
        return []
    mae = format_mae(float(np.abs(errors - shift / ENERGIES[unit]).mean()))
    return [
        "the file's energies and the model's differ by a constant for each element "
        f"({np.mean(shift / examples.structures.n_atoms):+.3g} eV an atom), as those of two "
        f"methods do: without it the MAE is {mae} {unit}"
    ]


def doubts(task: Task, predictor: Predictor, examples: Examples) -> list[str]:
    """Lines on examples that are unlike the training structures, or among them."""
    structures, said = examples.structures, []
    unlike = ["; ".join(doubts) for doubts in predictor.doubts(examples)]
    for what, lines in (
        ("unlike those trained on", unlike),
        ("small molecules, as few in training are", predictor.rare_sizes(examples)),
    ):
        if concerned := [k for k, line in enumerate(lines) if line]:
            first = concerned[0]
            said.append(
                f"{len(concerned):,} of {len(lines):,} structures are {what}, first "
                f"{structures.name(first)}: {lines[first]}"
            )
    if predictor.from_smiles:
        said.append("the run was trained on positions that RDKit made from SMILES, not on others")
    try:
        trained = set(fingerprints(task.data.part("train", task.fitted[0].name).structures))
    except (HDGNNError, OSError) as error:
        said.append(f"whether structures were trained on is not known: {error}")
    else:
        if shared := sum(key in trained for key in fingerprints(structures)):
            said.append(f"{shared:,} of {len(structures):,} structures were trained on")
    return said


def errors_from_smiles(
    task: Task, predictor: Predictor, examples: Examples, smiles: Mapping[int, str]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Errors with the examples' own positions, and with those that are made from their SMILES.

    Args:
      task, predictor: of a run.
      examples: molecules.
      smiles: by the molecules' ids.

    Raises:
      StructureError: where no molecule is left; the reason is that of the last.

    Returns:
      The mean absolute errors, by target, in its unit; and why molecules are left out of both.
    """
    made, rows, left_out = [], [], []
    with progress_bar("molecules") as progress:
        bar = progress.add_task("positions from SMILES", total=len(examples))
        for row, index in enumerate(examples.structures.ids.tolist()):
            try:
                if index not in smiles:
                    raise StructureError("has no SMILES", examples.structures.name(row))
                made.append(conformers(smiles[index])[0][0])
                rows.append(row)
            except StructureError as error:
                left_out.append(error)
            progress.advance(bar)
    if made:
        graphs, reasons = predictor.usable(Structures.pack(made))
        left_out += [StructureError(reason, made[k].name) for k, reason in reasons.items()]
        rows = np.delete(rows, list(reasons)).tolist()
    if not rows:
        raise left_out[-1]
    few = examples.take(np.array(rows))
    of_own = predicted("own", task, predictor, few)
    remade = Examples(graphs.structures, graphs.neighbors, few.labels)
    of_made = predicted("made", task, predictor, remade)
    errors = {name: (of_own[name].mae, of_made[name].mae) for name in of_own}
    return errors, list(map(str, left_out))
