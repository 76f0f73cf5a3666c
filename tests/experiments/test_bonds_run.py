"""A run of a network that sees bonds: what it predicts and cannot do. None of it needs training."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from runs import untrained

from experiments import predict
from hdgnn_jax.config import with_fields
from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.inference.predictor import PredictorError
from hdgnn_jax.run.results import predicted, restored, with_baselines
from hdgnn_jax.run.score import score


@pytest.fixture(scope="module")
def of_bonds(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bonds")
    untrained(with_fields(config, {"model.neighborhood": "bonds"}), workdir)
    return workdir


@pytest.fixture(scope="module")
def bonds_in_use(of_bonds):
    """Its task and its predictor."""
    return restored(of_bonds)


def test_it_stands_beside_the_same_linear_model(bonds_in_use, in_use):
    """Which sees all pairs."""
    errors = []
    for task, predictor in (bonds_in_use, in_use):
        few = task.examples("validation").first(20)
        alone = predicted("validation", task, predictor, few)
        (found,) = with_baselines(alone, task, few).values()
        errors.append([np.abs(found.baselines["linear"] - found.truth).mean(), found.mae])
    (linear, ours), (same, theirs) = errors
    assert linear == pytest.approx(same, rel=1e-5)
    assert ours != theirs


def test_atoms_have_fewer_neighbours_than_within_the_cutoff(bonds_in_use, in_use):
    networks = [task.model.hyper for task, _ in (bonds_in_use, in_use)]
    assert [hyper.neighborhood for hyper in networks] == ["bonds", "cutoff"]
    assert networks[0].neighbors < networks[1].neighbors


def test_it_predicts_and_has_no_forces(of_bonds, tmp_path, capsys):
    ase.io.write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    inputs, output = ["smiles:CCO", str(tmp_path / "ethanol.xyz")], tmp_path / "out.json"
    assert predict.run([of_bonds], inputs, output, predict.Options()) == 0
    rows = json.loads(output.read_text())
    values = [row["U0 [meV]"] for row in rows]
    assert abs(values[0] - values[1]) < 1000
    # An energy of ASE is one that atoms move in.
    assert not [row for row in rows if "energy [eV]" in row]
    for options in (predict.Options(forces=True), predict.Options(relax=True)):
        with pytest.raises(PredictorError, match=r"U0 has no forces .*where a bond breaks"):
            predict.run([of_bonds], inputs, output, options)


def test_of_a_file_with_forces_its_energies_are_scored(bonds_in_use, tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-2000.0, forces=water.positions)
    ase.io.write(tmp_path / "file.extxyz", water)
    task, predictor = bonds_in_use
    found = score(task, predictor, ASEFile(), tmp_path / "file.extxyz").errors
    assert set(found) == {"U0 [meV]", "U0 [meV/atom]"}
