"""One network for several targets: each has its row, its folder, its column and its error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import evaluate, predict, train
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.training.result import format_mae

NAMES = ["gap", "mu", "U0"]


def test_the_report_has_a_row_and_a_folder_for_each_and_evaluate_repeats_it(several, capsys):
    summary = json.loads((several / "report" / "summary.json").read_text())
    assert list(summary["targets"]) == NAMES
    evaluate.run(several, "test")
    printed = capsys.readouterr().out
    for name in NAMES:
        own = json.loads((several / "report" / name / "summary.json").read_text())
        assert own["mae"] == summary["targets"][name]["mae"]
        assert format_mae(own["mae"]) in printed
        assert (several / "report" / name / "learning_curve.png").stat().st_size
    last = read_metrics(several)[-1]
    predictor = Predictor.load(several)
    assert predictor.model.hyper.heads == ("mean", "dipole", "invariant", "invariant")
    scales = [one.reference.scale for one in predictor.fitted]
    errors = [last[f"validation_mae_{name}"] for name in NAMES]
    assert last["validation_mae"] == pytest.approx(np.mean(np.divide(errors, scales)))
    assert all(last[f"rotation_error_{name}"] > 0 for name in NAMES)
    # The network of the best validation is shown with the errors of that validation.
    best = min((row for row in read_metrics(several) if "validation_mae" in row),
               key=lambda row: row["validation_mae"])  # fmt: skip
    assert predictor.errors == {name: best[f"validation_mae_{name}"] for name in NAMES}


def test_predictions_have_a_column_for_each_and_forces_of_the_energy(several, tmp_path):
    predict.run([several], ["smiles:CCO"], tmp_path / "out.json", predict.Options(forces=True))
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert {"gap [eV]", "mu [D]", "U0 [eV]", "forces [eV/Å]"} <= row.keys()
    assert row["energy [eV]"] == row["U0 [eV]"]


def test_a_name_that_is_none_or_comes_twice_is_refused(config, tmp_path):
    for target, words in (("U0,gapp", "unknown target 'gapp'"), ("U0,U0", "names a target twice")):
        with pytest.raises(ValueError, match=words):
            train.run({**config, "target": target}, tmp_path / "run")
