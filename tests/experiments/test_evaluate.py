"""Evaluation states the number of the report, or one line that says why it cannot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from experiments import evaluate, export, predict, study, symmetry, train
from hdgnn_jax.run.results import restored, results
from hdgnn_jax.training import record
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints
from hdgnn_jax.training.result import format_mae


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
        task, predictor = restored(checkpoints)
    (result,) = results(task, predictor, ["validation"])
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


def test_a_run_of_another_version_is_refused_by_name_and_left_alone(
    finished, config, tmp_path, monkeypatch
):
    """By every program that reads one. One test: of two, the second would find the run in use."""
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    for version, when in ((2, "a later"), (4, "an earlier")):
        monkeypatch.setattr(record, "VERSION", version)
        message = (
            rf"{when} version of hdgnn_jax wrote this run .* version 3, not {version}\): train"
        )
        for start in (
            lambda: evaluate.run(finished, "test"),
            lambda: export.run(finished, tmp_path / "model", None),
            lambda: predict.run([finished], ["smiles:CCO"], tmp_path / "out.csv"),
            lambda: study.measure(finished, seed=0),
            lambda: symmetry.run(finished, None, 2, 2, None, None),
            lambda: train.run(config, finished),
        ):
            with pytest.raises(CheckpointError, match=message):
                start()
        assert {path: path.read_bytes() for path in before} == before
    assert list(tmp_path.iterdir()) == []
