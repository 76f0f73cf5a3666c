"""The curve of a run has each step once, however often the run was stopped."""

from __future__ import annotations

import math
import sys

import jax.numpy as jnp
import pytest

from hdgnn_jax.training.metrics import MetricWriter, read_metrics


def write_steps(folder, steps, resume_step=None):
    with MetricWriter(folder, resume_step) as writer:
        for step in steps:
            writer.write(step, {"train_loss": 1.0 / step})


def test_rows_read_back_exactly(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(1, {"train_loss": jnp.float32(0.1), "lr": 1e-3})
        writer.write(2, {"validation_mae": 1 / 3})
        assert len(read_metrics(tmp_path / "run")) == 2  # before the writer is closed
    assert read_metrics(tmp_path / "run") == [
        {"step": 1, "train_loss": float(jnp.float32(0.1)), "lr": 1e-3},
        {"step": 2, "validation_mae": 1 / 3},
    ]


def test_what_is_not_finite_stays_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"train_loss": math.nan, "grad_norm": math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "train_loss": null, "grad_norm": null}\n'
    assert math.isnan(read_metrics(tmp_path)[0]["train_loss"])


@pytest.mark.parametrize("resume_step", [0, 3, 5, 99])
def test_a_resumed_run_leaves_each_step_once(tmp_path, resume_step):
    write_steps(tmp_path, range(1, 6))
    write_steps(tmp_path, range(resume_step + 1, 8), resume_step)
    steps = [row["step"] for row in read_metrics(tmp_path)]
    assert steps == list(range(1, 8 if resume_step < 7 else 6))


def test_a_new_run_starts_a_new_curve(tmp_path):
    write_steps(tmp_path, range(1, 6))
    write_steps(tmp_path, range(1, 3))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, [3], resume_step=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1.0}', "", "null"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match="line 2 is not a row of metrics"):
        read_metrics(tmp_path)


def test_tensorboard_events_are_written_without_tensorflow(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import of it fails
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"train_loss": 2.0})
    assert capfd.readouterr() == ("", "")
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"train_loss" in events.read_bytes()
