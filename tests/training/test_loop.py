"""The loop logs, validates and saves when it is told to, and stops when the loss is no number."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from hdgnn_jax.training.loop import DivergedError, train
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.step import StepMetrics


class State(NamedTuple):
    step: int
    ema: str = "averaged"


def run(folder, losses, start=0, log_every=4, validate_at=frozenset({5, 10})):
    """Trains on the losses after `start`; what was validated, saved and shown."""
    calls = {"validated": [], "saved": [], "shown": []}
    batches = list(enumerate(losses))[start:]

    def step(state, batch):
        assert batch[0] == state.step
        return State(state.step + 1), StepMetrics(np.float32(batch[1]), np.float32(2))

    def validate(params):
        calls["validated"].append(params)
        return {"validation_mae": 10.0 + len(calls["validated"]), "rotation_error": 0.5}

    with MetricWriter(folder, start) as writer:
        last = train(
            State(start), batches, step, steps=len(losses), log_every=log_every,
            validate_at=set(validate_at), validate=validate, writer=writer,
            save=lambda state, at, mae: calls["saved"].append((state.step, at, mae)),
            show=lambda *shown: calls["shown"].append(shown),
        )  # fmt: skip
    assert last.step == len(losses)
    return calls


def test_every_step_is_averaged_into_one_row(tmp_path):
    losses = np.linspace(3, 1, 10).astype(np.float32)
    calls = run(tmp_path, losses)
    rows = read_metrics(tmp_path)
    borders = [0, 4, 5, 8, 10]
    assert [row["step"] for row in rows] == borders[1:]
    for row, start, stop in zip(rows, borders, borders[1:], strict=False):
        assert row["train_loss"] == pytest.approx(losses[start:stop].mean())
        assert row["gradient_norm"] == 2
    assert [row.get("validation_mae") for row in rows] == [None, 11, None, 12]
    assert [row.get("rotation_error") for row in rows] == [None, 0.5, None, 0.5]
    assert calls["saved"] == [(5, 5, 11), (10, 10, 12)]
    assert calls["validated"] == ["averaged"] * 2
    assert [(at, mae) for at, _, mae in calls["shown"]] == [(4, None), (5, 11), (8, 11), (10, 12)]


def test_a_run_that_goes_on_takes_the_steps_that_are_left(tmp_path):
    calls = run(tmp_path, np.ones(10), start=5)
    assert [row["step"] for row in read_metrics(tmp_path)] == [8, 10]
    assert calls["saved"] == [(10, 10, 11)]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [1, 4, 5, 7, 10])
def test_a_loss_that_is_no_number_stops_the_run_and_is_never_saved(tmp_path, loss, bad):
    losses = np.where(np.arange(1, 11) >= bad, loss, 1.0)
    with pytest.raises(DivergedError, match=f"loss of step {bad} is not a finite number: lower"):
        run(tmp_path, losses)
    assert all(row["step"] < bad for row in read_metrics(tmp_path))
