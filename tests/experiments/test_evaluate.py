"""Evaluation states the number of the report, or one line that says why it cannot."""

from __future__ import annotations

import dataclasses
import re
import shutil

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from runs import predictions
from small import BARE, fitted, predictor_of

from experiments import evaluate, export, predict, study, symmetry, train
from experiments.study_plan import Run
from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.data.targets import CALCULATED
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.run.results import results
from hdgnn_jax.run.score import score
from hdgnn_jax.training import record


def test_every_prediction_is_the_same_to_the_bit(finished, in_use):
    task, predictor = in_use
    ((result,),) = results(task, predictor, ["validation"]).values()
    ids, truth, prediction = predictions(finished / "report", "validation")
    np.testing.assert_array_equal(result.ids, ids)
    np.testing.assert_array_equal(result.truth, truth)
    np.testing.assert_array_equal(result.prediction, prediction)


def test_isolated_atoms_are_no_examples(in_use, tmp_path):
    """As in training."""
    water, atom = molecule("H2O"), molecule("H")
    water.info["energy"], atom.info["energy"] = -2079.0, -13.6
    ase.io.write(tmp_path / "both.extxyz", [atom, water])
    ase.io.write(tmp_path / "atom.extxyz", [atom])
    task, predictor = in_use
    scored = score(task, predictor, ASEFile(), tmp_path / "both.extxyz")
    assert scored.notes == ["isolated atoms, which are no examples: 1"]
    assert [len(errors.ids) for errors in scored.errors.values()] == [1, 1]
    with pytest.raises(StructureError, match=r"atom.extxyz holds isolated atoms alone"):
        score(task, predictor, ASEFile(), tmp_path / "atom.extxyz")


def test_files_are_in_ev_whatever_the_data_set_stores(in_use, tmp_path):
    """Energies 1 eV and 2 eV below what a run of QM9's U0 predicts."""
    (task, predictor), frames = in_use, [molecule("H2O"), molecule("CH4")]
    structures = Structures.pack(map(structure_of, frames))
    predicted = predictor(structures)["U0"]
    for below, (atoms, value) in enumerate(zip(frames, predicted, strict=True), start=1):
        atoms.info["energy"] = value / 1000 - below
    frames[0].info["charge"] = 1
    ase.io.write(tmp_path / "file.extxyz", frames)
    scored = score(task, predictor, ASEFile(), tmp_path / "file.extxyz")
    found = scored.errors
    assert scored.notes == ["1 structures have a charge or a spin, which no model sees"]
    assert found["U0 [meV]"].mae == pytest.approx(1500, rel=1e-4)
    assert found["U0 [meV]"].rmse == pytest.approx(1000 * np.sqrt(5 / 2), rel=1e-4)


def test_units_and_another_zero_of_energies_are_doubted(in_use, tmp_path):
    (task, predictor), frames = in_use, []
    for k in range(20):
        atoms = molecule(("H2O", "CH4", "CH3OH", "C2H6")[k % 4])
        atoms.rattle(0.03, seed=k)
        frames.append(atoms)
    predicted = predictor(Structures.pack(map(structure_of, frames)))["U0"]
    for k, (atoms, value) in enumerate(zip(frames, predicted, strict=True)):
        shift = {"H": -13.6, "C": -1029.8, "O": -2042.6}
        zero = sum(shift[symbol] for symbol in atoms.get_chemical_symbols())
        atoms.info["energy"] = value / 1000 - 2 * zero + 0.01 * (-1) ** (k // 4)
    ase.io.write(tmp_path / "file.extxyz", frames)
    scored = score(task, predictor, ASEFile(), tmp_path / "file.extxyz")
    (said,) = [line for line in scored.doubts if "differ by a constant for each element" in line]
    left = float(re.search(r"MAE is ([\d.]+) meV", said)[1])
    assert left == pytest.approx(10, rel=0.3)
    assert any("right, and --energy_unit?" in line for line in scored.doubts)


def test_a_file_without_labels_costs_no_other(finished, tmp_path, capsys):
    water = molecule("H2O")
    ase.io.write(tmp_path / "bare.xyz", [water])
    with pytest.raises(StructureError, match=r"bare.xyz.* has no energy"):
        evaluate.score_files(finished, [tmp_path / "bare.xyz"])
    water.info["energy"] = -2079.0
    ase.io.write(tmp_path / "good.extxyz", [water])
    files = [tmp_path / "bare.xyz", tmp_path / "good.extxyz"]
    assert evaluate.score_files(finished, files) == 1
    out = capsys.readouterr().out
    assert re.search(r"left out: bare.xyz.* has no energy", " ".join(out.split()))
    assert re.search(r"good.extxyz .* 1 ", out)
    assert evaluate.score_files(finished, files[:1] * 2) == 2
    assert "MAE" not in capsys.readouterr().out
    with pytest.raises(StructureError, match=r"nowhere.xyz: there is no file"):
        evaluate.score_files(finished, [*files, tmp_path / "nowhere.xyz"])


def test_forces_that_were_not_trained_on_are_doubtful(in_use, tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-2079.0, forces=np.zeros((3, 3)))
    ase.io.write(tmp_path / "file.extxyz", [water])
    task, predictor = in_use
    scored = score(task, predictor, ASEFile(), tmp_path / "file.extxyz")
    assert "forces [meV/Å]" in scored.errors
    assert "the run was not trained on forces: expect large errors" in scored.doubts


def test_of_two_targets_each_is_scored_on_the_structures_that_have_it(in_use, tmp_path):
    """A radical, which no training molecule is, has no dipole moment in the file."""
    water, radical = molecule("H2O"), molecule("CH3")
    water.info["energy"] = radical.info["energy"] = -1.0
    ase.io.write(tmp_path / "energies.extxyz", [radical, water])
    water.info["dipole"] = np.ones(3)
    ase.io.write(tmp_path / "both.extxyz", [radical, water])
    task, of_run = in_use
    both = (
        *fitted(CALCULATED["energy"], BARE),
        *fitted(CALCULATED["dipole"], dataclasses.replace(BARE, rank=1)),
    )
    domain = dataclasses.replace(of_run.domain, odd=False)
    predictor = dataclasses.replace(predictor_of(both), domain=domain)
    task = dataclasses.replace(
        task, fitted=both, model=predictor.model, data=ASEFile(str(tmp_path / "nowhere.xyz"))
    )
    energies = ["energy [meV]", "energy [meV/atom]"]
    scored = score(task, predictor, ASEFile(), tmp_path / "energies.extxyz")
    assert list(scored.errors) == energies
    (said,) = (note for note in scored.notes if "not scored" in note)
    assert said.startswith("dipole is not scored: energies.extxyz, structure 1 has no dipole")
    scored = score(task, predictor, ASEFile(), tmp_path / "both.extxyz")
    assert {name: len(of.ids) for name, of in scored.errors.items()} == {
        **dict.fromkeys(energies, 2), "dipole [D]": 1
    }  # fmt: skip
    assert any("an odd sum of atomic numbers" in doubt for doubt in scored.doubts)


def test_a_folder_without_a_run_is_named_and_not_created(tmp_path):
    with pytest.raises(CheckpointError, match=r"typo.checkpoints holds no checkpoint: check"):
        evaluate.run(tmp_path / "typo", "test")
    assert not (tmp_path / "typo").exists()


def test_an_unknown_split_is_refused(finished):
    with pytest.raises(ValueError, match="one of train, validation, test, not 'tset'"):
        evaluate.run(finished, "tset")


def test_data_that_have_changed_are_refused(finished, monkeypatch):
    monkeypatch.setattr(QM9, "digest", lambda self: "another")
    with pytest.raises(CheckpointError, match=r"QM9 has changed since .*, or name a file to score"):
        evaluate.run(finished, "test")


def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("metadata"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"checkpoint step \d+ in .* is damaged"):
        evaluate.run(tmp_path / "run", "test")


def test_a_run_of_another_version_is_refused_by_name_and_left_alone(
    finished, config, tmp_path, monkeypatch
):
    """By every program that reads one. One test: of two, the second would find the run in use."""
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    of_run = record.VERSION
    for version, when in ((of_run - 1, "a later"), (of_run + 1, "an earlier")):
        monkeypatch.setattr(record, "VERSION", version)
        message = (
            rf"{when} version of hdgnn_jax wrote this run .* version {of_run}, not {version}\): "
            "train"
        )
        for start in (
            lambda: evaluate.run(finished, "test"),
            lambda: export.run(finished, tmp_path / "model", None),
            lambda: predict.run([finished], ["smiles:CCO"], tmp_path / "out.csv"),
            lambda: study.measure(Run("U0", 300, "baseline", 0, finished)),
            lambda: symmetry.run(finished, None, 2, 2, None, None),
            lambda: train.run(config, finished),
        ):
            with pytest.raises(CheckpointError, match=message):
                start()
        assert {path: path.read_bytes() for path in before} == before
    assert list(tmp_path.iterdir()) == []
