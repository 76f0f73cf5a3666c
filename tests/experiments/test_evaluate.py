"""Evaluation states the number of the report, or one line that says why it cannot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from experiments import evaluate
from experiments.problem import Predictor, best_results
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints
from hdgnn_jax.training.report import format_mae


def test_the_printed_line_is_that_of_the_report(finished, capsys):
    evaluate.run(finished, "test")
    summary = json.loads((finished / "report" / "summary.json").read_text())
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    (row,) = (line for line in lines if line.startswith("test"))
    cells = [cell.strip() for cell in row.split("│")]
    errors = (summary[key] for key in ("mae", "mae_mean_predictor", "mae_composition"))
    assert cells[1:5] == [f"{summary['n']:,}", *map(format_mae, errors)]


def test_every_prediction_is_the_same_to_the_bit(finished):
    with Checkpoints(finished / "checkpoints") as checkpoints:
        predictor = Predictor.from_record(checkpoints.record("best"), step.make_mesh())
        (result,) = best_results(checkpoints, predictor, ["validation"])
    path = finished / "report" / "predictions_validation.csv"
    ids, truth, prediction = np.loadtxt(path, delimiter=",", skiprows=1).T
    np.testing.assert_array_equal(result.ids, ids)
    np.testing.assert_array_equal(result.truth, truth)
    np.testing.assert_array_equal(result.prediction, prediction)


def test_a_folder_without_a_run_is_named_and_not_created(tmp_path):
    with pytest.raises(CheckpointError, match=r"typo.checkpoints holds no checkpoint: check"):
        evaluate.run(tmp_path / "typo", "test")
    assert not (tmp_path / "typo").exists()


def test_an_unknown_split_is_refused(finished):
    with pytest.raises(ValueError, match="one of train, validation, test, not 'tset'"):
        evaluate.run(finished, "tset")


def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("metadata"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"checkpoint step \d+ in .* is damaged"):
        evaluate.run(tmp_path / "run", "test")
