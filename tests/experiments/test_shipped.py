"""The weights that come with the package give the same numbers everywhere, and sensible ones."""

from __future__ import annotations

import itertools
import json
import pathlib

import ase.build
import ase.io
import jax
import numpy as np
import pytest
from molecules import KNOWN

from experiments import evaluate, predict
from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.data.qm9pack import PARTS, POLARIZABILITIES, package_folder, read_smiles
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.data.splits import N_MOLECULES
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.neighbors import neighbors_of
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predicted_rows import Options
from hdgnn_jax.inference.predictor import Predictor, PredictorError
from hdgnn_jax.inference.weights import SHIPPED, SHIPPED_SMILES
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.results import restored
from hdgnn_jax.run.score import errors_from_smiles
from hdgnn_jax.training import step

EXPECTED = pathlib.Path(__file__).parent / "shipped.json"
"""Predictions for `KNOWN` by file and target, written when the weights were."""
FILES = {file.name: file for file in (SHIPPED, SHIPPED_SMILES)}
B3LYP = {"gap": (9837, 13736, 9249, 10329, 6158), "homo": (-7967, -10550, -6993, -9807, -7265)}
"""meV, of QM9: water, methane, ammonia, HCN and formaldehyde, in its own geometries."""


@pytest.mark.parametrize(
    ("name", "devices"), [(SHIPPED.name, 1), (SHIPPED.name, 4), (SHIPPED_SMILES.name, 1)]
)
def test_predictions_are_those_of_the_day_they_were_packed(name, devices):
    predictor = Predictor.load(FILES[name], mesh=step.make_mesh(jax.devices()[:devices]))
    assert predictor.from_smiles == (name == SHIPPED_SMILES.name)
    expected = json.loads(EXPECTED.read_text())[name]
    found = predictor(KNOWN)
    assert list(found) == list(expected) == list(TARGETS)
    for name, values in found.items():
        # Dipole moments that symmetry makes 0 are rounding.
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-3, err_msg=name)


def test_small_molecules_that_qm9_hardly_has_are_no_nonsense():
    """Water, methane, ammonia, HCN and formaldehyde, of which it has seen no like: to 6 eV.

    With another reference the gap of water was -65 eV. That these are its predictions is tested
    above.
    """
    found = json.loads(EXPECTED.read_text())[SHIPPED.name]
    for name, values in B3LYP.items():
        np.testing.assert_allclose(found[name][:5], values, rtol=0, atol=6000, err_msg=name)


def test_errors_from_smiles_are_those_of_predictions(tmp_path):
    """Of some of QM9's first molecules, by hand; the weights for SMILES have smaller ones."""
    (task, predictor), n = restored(SHIPPED), 60
    for name in (PARTS[0], POLARIZABILITIES):
        with (package_folder() / name).open() as file:
            (tmp_path / name).write_text("".join(itertools.islice(file, n + 1)))
    qm9.build(tmp_path, tmp_path, expected=n)
    labelled = qm9.read(tmp_path).take(np.arange(40, n))
    structures = labelled.structures
    neighbors = neighbors_of(structures, predictor.model.hyper.cutoff, None)
    texts = {**read_smiles(tmp_path), 45: "not readable"}
    examples = Examples(structures, neighbors, labelled.labels)
    found, (left_out,) = errors_from_smiles(task, predictor, examples, texts)
    assert "'not readable' is no SMILES" in left_out
    kept = np.flatnonzero(structures.ids != 45)
    made = Structures.pack(conformers(texts[k])[0][0] for k in structures.ids[kept].tolist())
    of_smiles = Predictor.load(SHIPPED_SMILES)(made)
    for name, errors in found.items():
        truth = labelled.labels[name][kept] * TARGETS[name].factor
        for given, error in zip((structures.take(kept), made), errors, strict=True):
            expected = np.abs(predictor(given)[name] - truth).mean()
            np.testing.assert_allclose(error, expected, rtol=1e-4)
    assert found["U0"][1] > 3 * found["U0"][0]
    truth = labelled.labels["U0"][kept] * TARGETS["U0"].factor
    assert np.abs(of_smiles["U0"] - truth).mean() < found["U0"][1] / 3


def test_what_is_made_of_a_smiles_has_weights_of_its_own(tmp_path, capsys):
    """Unless forces are wanted: RDKit's positions are no minima of QM9's energies."""
    atoms = ase.build.molecule("CH3CH2OH")
    ase.io.write(tmp_path / "ethanol.xyz", atoms)
    names, out = ["smiles:C1C", str(tmp_path / "ethanol.xyz"), "smiles:CCO"], tmp_path / "out.json"
    assert predict.run([], names, out) == 1
    said = capsys.readouterr().err
    assert said.count("for relaxed molecules of H") == said.count("for SMILES of molecules") == 1
    assert "warning" not in said
    rows = json.loads(out.read_text())
    structures = Structures.pack([structure_of(atoms), conformers("CCO")[0][0]])
    for k, file in enumerate(FILES.values()):
        predictor = Predictor.load(file)
        expected = predictor(structures)
        for one in predictor.fitted:
            value = rows[k + 1][f"{one.name} [{one.target.unit}]"]
            np.testing.assert_allclose(value, expected[one.name][k], rtol=1e-4, atol=1e-2)
    assert rows[0]["reason"].endswith("is no SMILES that RDKit can read")
    predict.run([SHIPPED_SMILES], names[:2], tmp_path / "out.csv")
    said = capsys.readouterr().err
    assert "learned from positions that RDKit made from SMILES: for others" in said
    for asked in (Options(forces=True), Options(relax=True)):
        with pytest.raises(PredictorError, match="U0 has no forces: the model learned energies"):
            predict.run([SHIPPED_SMILES], names[2:], out, asked)
    predict.run([], names[2:], out, Options(forces=True))
    assert "warning: the model learned from other positions than those" in capsys.readouterr().err


def test_evaluate_compares_positions_from_smiles(several, monkeypatch, capsys):
    """The molecules are made up here, and have one SMILES."""
    of_all = dict.fromkeys(range(1, N_MOLECULES + 1), "CCO")
    monkeypatch.setattr(evaluate, "read_smiles", lambda folder: of_all)
    evaluate.compare_smiles(several, "test", 5)
    out = capsys.readouterr().out
    assert "absolute errors on 5 molecules" in out
    assert all(name in out for name in ("gap [meV]", "mu [D]", "U0 [meV]", "from SMILES"))


def test_they_are_small():
    assert sum(file.stat().st_size for file in FILES.values()) < 10e6
