"""A run on positions from SMILES: trained, taken up again, evaluated, and used for the like."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from runs import predictions

from experiments import evaluate, predict, train
from hdgnn_jax.data import qm9, qm9_smiles
from hdgnn_jax.inference.predicted_rows import Options
from hdgnn_jax.inference.predictor import Predictor, PredictorError
from hdgnn_jax.training.result import format_mae

ABSENT = 100
"""Molecules, the last ones, that have no positions from their SMILES here."""


@pytest.fixture
def run_of_smiles(config, changed, monkeypatch, tmp_path):
    """The folder of a run, reported by a second call, and the positions that it learned from."""
    own = qm9.load(config["data"]["cache"]).structures
    kept = own.take(np.arange(len(own) - ABSENT))
    made = dataclasses.replace(kept, positions=kept.positions * 1.05)
    monkeypatch.setattr(qm9_smiles, "load", lambda cache: made)
    for report in (False, True):
        train.run(changed(**{"data.positions": "smiles"}), tmp_path / "run", report=report)
    return tmp_path / "run", made


def test_it_learns_and_predicts_from_these_positions_alone(run_of_smiles, tmp_path, capsys):
    workdir, made = run_of_smiles
    ids, _, given = predictions(workdir / "report", "test")
    assert set(ids.tolist()) <= set(made.ids.tolist())
    predictor = Predictor.load(workdir)
    found = predictor(made.take(np.searchsorted(made.ids, ids[:20])))["U0"]
    np.testing.assert_allclose(found, given[:20], rtol=1e-6)
    capsys.readouterr()
    evaluate.run(workdir, "test")
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert format_mae(summary["mae"]) in capsys.readouterr().out
    out = tmp_path / "out.csv"
    options = Options(conformers=2, unit="kcal/mol")
    predict.run([workdir], ["smiles:CCO", "qm9:1"], out, options)
    assert "for others errors are larger" in capsys.readouterr().err
    with out.open() as file:
        ethanol, first = csv.DictReader(file)
    spread = "U0 spread over conformers [kcal/mol]"
    assert float(ethanol[spread]) >= 0
    assert first[spread] == ""
    with pytest.raises(PredictorError, match="U0 has no forces"):
        predict.run([workdir], ["smiles:CCO"], tmp_path / "out.json", Options(forces=True))
