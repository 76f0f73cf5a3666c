"""Stress of crystals is read as ASE has it, learned, reported and scored."""

from __future__ import annotations

import copy
import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from experiments import train
from experiments.configs.ase import get_config
from hdgnn_jax.data.ase_files import read_labelled
from hdgnn_jax.run.results import restored
from hdgnn_jax.run.score import score


@pytest.fixture(scope="module")
def crystals():
    """Strained and shaken copper and aluminium, with EMT's energies, forces and stress."""
    rng, made = np.random.default_rng(0), []
    for k in range(60):
        atoms = bulk(("Cu", "Al")[k % 2], cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.04 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_stress()
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def path(crystals, tmp_path_factory):
    path = tmp_path_factory.mktemp("stress") / "crystals.extxyz"
    ase.io.write(path, crystals)
    return path


@pytest.fixture(scope="module")
def config(path):
    small = get_config("quick")
    small.data.update(path=str(path), split="random")
    small.model.update(
        elements=(13, 29), cutoff=3.2, layers=1, channels=8, invariant_channels=8, edge_channels=8,
        n_gaussians=8, update_channels=8,
    )  # fmt: skip
    small.optimizer.learning_rate = 1e-2
    small.training.update(
        batch_size=8, steps=40, first_validation=20, validate_every=40, log_every=20, n_budgets=1,
        stress_weight=10.0, ema=0.9,
    )  # fmt: skip
    return json.loads(small.to_json())


def test_a_file_gives_ases_stress_times_the_volume(crystals, path, tmp_path):
    found = read_labelled(path, "energy")
    expected = [a.get_stress(voigt=False) * a.get_volume() for a in crystals]
    np.testing.assert_allclose(found.virials, expected, rtol=1e-6, atol=1e-7)
    (note,) = found.notes
    assert note == "stress of 60 structures: trained on where training.stress_weight is not 0"
    molecule = crystals[0].copy()
    molecule.pbc = False
    molecule.calc = crystals[0].calc
    ase.io.write(tmp_path / "mixed.extxyz", [crystals[0], molecule])
    mixed = read_labelled(tmp_path / "mixed.extxyz", "energy")
    assert np.isnan(mixed.virials).all((1, 2)).tolist() == [False, True]
    bad = crystals[0].copy()
    bad.info.update(energy=1.0, stress=np.full((3, 3), np.nan))
    # What is no number is not known, and stops nothing.
    good = crystals[0].copy()
    good.info.update(energy=1.0, stress=np.eye(3))
    ase.io.write(tmp_path / "bad.extxyz", [bad, good])
    unknown = read_labelled(tmp_path / "bad.extxyz", "energy")
    assert np.isnan(unknown.virials).all((1, 2)).tolist() == [True, False]
    assert unknown.take(np.array([0])).virials is None
    # Beside energies of another name, the stress may be of another method.
    bad.info["REF"] = 1.0
    ase.io.write(tmp_path / "named.extxyz", bad)
    assert read_labelled(tmp_path / "named.extxyz", "energy", "REF").virials is None


@pytest.mark.slow
def test_it_is_learned_reported_and_scored(crystals, path, config, tmp_path, capsys):
    train.run(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run/report/summary.json").read_text())
    stress = summary["stress"]
    assert stress["unit"] == "meV/Å^3"
    assert stress["test"]["mae"] < 0.8 * stress["test"]["mae_no stress"]
    assert "stress [meV/Å^3]" in capsys.readouterr().out
    task, predictor = restored(tmp_path / "run")
    errors = score(task, predictor, task.data, path).errors["stress [meV/Å^3]"]
    graphs = predictor.prepare(read_labelled(path, "energy").structures)
    volume = np.array([atoms.get_volume() for atoms in crystals])[:, None, None]
    found = np.asarray(predictor.derivatives(graphs).virial) / volume
    truth = [atoms.get_stress(voigt=False) for atoms in crystals]
    np.testing.assert_allclose(errors.mae, 1000 * np.abs(found - truth).mean(), rtol=1e-4)


def test_a_file_without_stress_is_refused_before_training(path, config, tmp_path):
    atoms = ase.io.read(path, index=":")
    for one in atoms:
        del one.calc.results["stress"]
    ase.io.write(tmp_path / "none.extxyz", atoms)
    asked = copy.deepcopy(config)
    asked["data"]["path"] = str(tmp_path / "none.extxyz")
    with pytest.raises(ValueError, match="has no stress of energy: set training"):
        train.run(asked, tmp_path / "run")
