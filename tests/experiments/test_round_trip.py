"""From data made here to a model in use: prepare, train, evaluate, predict, relax, test, export."""

from __future__ import annotations

import json
import shutil

import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import molecule
from ase.optimize import BFGSLineSearch
from fake_qm9 import write_cache
from runs import predictions

from experiments import evaluate, predict, prepare, selftest, train
from experiments.configs.ase import get_config
from hdgnn_jax.data.dynamics import SHAPES
from hdgnn_jax.graphs.structure import StructureError
from hdgnn_jax.inference.calculator import DomainWarning, HDGNNCalculator
from hdgnn_jax.inference.predictor import Predictor, PredictorError
from hdgnn_jax.training.result import format_mae

MOLECULES = 10
TINY = {
    "model.cutoff": 3.0, "model.layers": 1, "model.degree": 1, "model.product_degree": 1,
    "model.channels": 4, "model.hidden": 8, "model.invariant_channels": 8,
    "model.edge_channels": 8, "model.n_gaussians": 8, "model.update_channels": 8,
    "data.held_out": 0.2,
    "training.batch_size": 8, "training.steps": 12, "training.first_validation": 6,
    "training.validate_every": 12, "training.log_every": 6, "training.n_budgets": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(once):
    """Molecules in motion, made by the command from made-up molecules."""

    root = once("of_molecules", lambda folder: write_cache(folder / "of_molecules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HDGNN_CACHE", str(root))

        def make(_):
            prepare.molecules(root / "ase" / "molecules", MOLECULES, seed=0, processes=1)

        once("molecules", make)
        yield root


def config_of(**changes):
    config = get_config("quick")
    config.update_from_flattened_dict({**TINY, **changes})
    return json.loads(config.to_json())


@pytest.fixture(scope="module")
def run(cache, once):
    def make(folder):
        train.run(config_of(), folder / "forces")
        return folder / "forces"

    return once("forces", make)


@pytest.fixture(scope="module")
def of_dipoles(cache, once):
    def make(folder):
        train.run(
            config_of(**{"target": "dipole", "training.forces_weight": 0.0}), folder / "dipoles"
        )
        return folder / "dipoles"

    return once("dipoles", make)


def test_the_report_has_energies_and_forces_and_evaluate_repeats_them(run, capsys):
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert summary["unit"] == "meV"
    assert summary["forces"]["unit"] == "meV/Å"
    assert summary["splits"]["test"]["n"] == 2 * SHAPES
    atoms = summary["forces"]["test"]["n"]
    assert 2 * 2 * SHAPES <= atoms <= 4 * 2 * SHAPES
    _, truth, prediction = predictions(run / "report", "test")
    mae = np.abs(truth - prediction).mean()
    assert summary["mae"] == pytest.approx(mae)
    text = (run / "report" / "report.md").read_text()
    assert "Mean absolute error of forces [meV/Å]" in text
    assert "no published number can be compared with these" in text
    assert {p.name for p in (run / "report").glob("*.png")} == {
        "learning_curve.png", "parity.png", "parity_forces.png"
    }  # fmt: skip
    curves = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert curves[-1]["validation_mae_forces"] > 0
    evaluate.run(run, "test")
    printed = capsys.readouterr().out
    for mae in (summary["mae"], summary["forces"]["test"]["mae"]):
        assert f" {format_mae(mae)} " in printed


def test_parts_share_no_molecule_and_errors_of_forces_are_what_predict_says(run, cache, tmp_path):
    out = tmp_path / "out.extxyz"
    source = cache / "ase" / "molecules" / "molecules.extxyz"
    predict.run([run], [str(source)], out, predict.Options(forces=True))
    truth, found = (ase.io.read(path, index=":") for path in (source, out))
    ids, _, _ = predictions(run / "report", "test")
    groups = {truth[k - 1].info["group"] for k in ids}
    assert len(groups) == 2
    others = {atoms.info["group"] for k, atoms in enumerate(truth, 1) if k not in ids}
    assert not groups & others
    errors = [truth[k - 1].get_forces() - found[k - 1].get_forces() for k in ids]
    summary = json.loads((run / "report" / "summary.json").read_text())
    mae = 1000 * np.abs(np.concatenate(errors)).mean()
    assert summary["forces"]["test"]["mae"] == pytest.approx(mae, rel=1e-4)


def test_a_file_in_other_units_has_the_errors_of_the_report(run, cache, tmp_path, capsys):
    """The test structures, and three that cannot be scored."""
    frames = ase.io.read(cache / "ase" / "molecules" / "molecules.extxyz", index=":")
    ids, _, _ = predictions(run / "report", "test")
    tested = [frames[k - 1] for k in ids]
    for atoms in tested:
        atoms.info["E"] = atoms.get_potential_energy() / ase.units.Ha
        atoms.arrays["F"] = atoms.get_forces() / ase.units.Ha
        atoms.calc = None
    chlorine, nothing, no_forces = (tested[0].copy() for _ in range(3))
    chlorine.numbers[0] = 17
    del nothing.info["E"], no_forces.arrays["F"]
    path = tmp_path / "own.extxyz"
    ase.io.write(path, [chlorine, *tested, nothing])
    with path.open("a") as file:
        ase.io.write(file, no_forces, format="extxyz")
    how = {"energy_unit": "Ha", "energy_key": "E", "forces_key": "F"}
    assert evaluate.score_files(run, [path], how) == 3
    printed = capsys.readouterr().out
    n = len(tested)
    for place, reason in ((1, "contains Cl"), (n + 2, "has no E"), (n + 3, "has no F")):
        assert f"left out: own.extxyz, structure {place} {reason}" in printed
    assert "were trained on" not in printed
    summary = json.loads((run / "report" / "summary.json").read_text())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines()]
    found = {row[1]: row[2:4] for row in rows if len(row) == 5}
    assert found["energy [meV]"] == [str(n), format_mae(summary["mae"])]
    forces = summary["forces"]["test"]
    assert found["forces [meV/Å]"] == [str(forces["n"]), format_mae(forces["mae"])]
    with pytest.raises(StructureError, match=r"^own.extxyz, structure 1 has no energy"):
        evaluate.score_files(run, [path])
    with pytest.raises(StructureError, match=r"nowhere.xyz: there is no file"):
        evaluate.score_files(run, [tmp_path / "nowhere.xyz"])


@pytest.mark.filterwarnings("ignore::hdgnn_jax.inference.calculator.DomainWarning")
def test_ase_relaxes_with_it_and_the_self_test_passes(run, tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.calc = HDGNNCalculator(run)
    with pytest.warns(DomainWarning, match=r"9 atoms \(trained on"):
        before = atoms.get_potential_energy()
    BFGSLineSearch(atoms, logfile=None).run(fmax=0.01, steps=2)
    assert atoms.get_potential_energy() < before
    (row,) = selftest.measure(Predictor.load(run), [selftest.ETHANOL], steps=4, kelvin=300.0)
    assert row["finite_differences"] < selftest.BOUND
    assert len(row["total"]) == 5
    selftest.show([row], "energy")
    selftest.draw(tmp_path / "plot.png", [row])
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_dipole_vectors_are_learnt_and_predicted_by_component(of_dipoles, tmp_path):
    summary = json.loads((of_dipoles / "report" / "summary.json").read_text())
    assert summary["unit"] == "D"
    header, first, *_ = (of_dipoles / "report" / "predictions_test.csv").read_text().splitlines()
    assert header == "id,truth_x,truth_y,truth_z,prediction_x,prediction_y,prediction_z"
    assert len(first.split(",")) == 7
    predict.run([of_dipoles], ["smiles:CCO"], tmp_path / "out.csv")
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header.startswith("structure,dipole_x [D],dipole_y [D],dipole_z [D],geometry")
    with pytest.raises(PredictorError, match="dipole is no potential energy"):
        selftest.measure(Predictor.load(of_dipoles), [selftest.ETHANOL], steps=2, kelvin=1.0)


def test_what_is_made_already_is_kept(cache, tmp_path):
    folder = shutil.copytree(cache / "ase" / "molecules", tmp_path / "molecules")
    part = folder / "part.000000.extxyz"
    before = part.stat().st_mtime_ns
    (folder / "molecules.extxyz").unlink()
    prepare.molecules(folder, MOLECULES, seed=0, processes=1)
    assert part.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was made with"):
        prepare.molecules(folder, MOLECULES, seed=1, processes=1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": "U0"}, ValueError, "a file of ASE has energy, dipole"),
        ({"target": "dipole"}, ValueError, "has no forces of dipole: set training.forces_weight"),
        (
            {"target": "dipole", "training.forces_weight": 0.0, "head": "invariant"},
            ValueError, "dipole is a vector and config.head = invariant gives a number",
        ),
        ({"training.forces_weight": -1.0}, ValueError, "forces_weight must not be negative: -1.0"),
    ],
)
def test_bad_settings_are_refused(cache, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train.run(config_of(**changes), tmp_path / "run")
