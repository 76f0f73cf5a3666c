"""The loop logs, validates and saves when it is told to, and stops when the loss is no number."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import numpy as np
import pytest

from hdgnn_jax.training.loop import DivergedError, Loop, Memory, SpikeError, StoppedError
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.step import StepMetrics


class State(NamedTuple):
    step: int
    ema: str = "averaged"


def run(
    folder, losses, start=0, log_every=4, validate_at=frozenset({5, 10}), max_skipped=0, stop=None,
    **options,
):  # fmt: skip
    """Trains on the losses after `start`; what was validated, saved and shown."""
    calls = {"validated": [], "saved": [], "shown": []}
    batches = list(enumerate(losses))[start:]

    def step(state, batch):
        assert batch[0] == state.step
        skipped = not np.isfinite(batch[1])
        culprit = 40 + batch[0] if skipped else -1
        return State(state.step + 1), StepMetrics(
            np.float32(batch[1]), np.float32(2), np.bool_(skipped), np.int32(culprit)
        )

    def validate(params):
        calls["validated"].append(params)
        return {"validation_mae": 10.0 + len(calls["validated"]), "rotation_error": 0.5}

    with MetricWriter(folder, start) as writer:
        last = Loop(
            train_step=step, steps=len(losses), log_every=log_every,
            validate_at=set(validate_at), validate=validate, write=writer.write,
            save=lambda state, at, mae, memory: (
                calls["saved"].append((state.step, at, mae)),
                calls.update(memory=memory.to_dict()),
            ),
            show=lambda *shown: calls["shown"].append(shown), max_skipped=max_skipped,
            records=lambda k: {n: f"molecule {n}" for n in (k, 40 + k)},
            stop=stop(calls) if stop else lambda step: False, **options,
        ).train(State(start), batches)  # fmt: skip
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
    with pytest.raises(DivergedError, match=r"the output for molecule 4\d\): check these records"):
        run(tmp_path, losses)
    assert all(row["step"] < bad for row in read_metrics(tmp_path))


def test_a_few_skipped_steps_are_counted_and_left_out_of_the_mean(tmp_path):
    losses = np.array([1, math.nan, 2, 3, math.inf, 1, 1, 1, 1, 1])
    run(tmp_path, losses, max_skipped=2)
    rows = read_metrics(tmp_path)
    assert [row.get("skipped") for row in rows] == [1, 2, 2, 2]
    assert rows[0]["train_loss"] == 2
    assert math.isnan(rows[1]["train_loss"])
    message = r"of 2 step\(s\) is not a finite number \(the last: 2, 5; the output for molecule 44"
    with pytest.raises(DivergedError, match=message):
        run(tmp_path, losses, max_skipped=1)


def test_a_run_that_is_asked_to_stop_saves_and_says_so(tmp_path):
    seen = []

    def stop(calls):
        seen.append(calls)
        asked = iter([False, False, True])
        return lambda step: next(asked)

    with pytest.raises(StoppedError, match="step 3 is saved; the same command goes on from there"):
        run(tmp_path, np.ones(10), stop=stop)
    ((state, at, mae),) = seen[0]["saved"]
    assert (state, at) == (3, 3)
    assert math.isnan(mae)


def test_a_run_that_was_stopped_between_rows_writes_the_same_rows(tmp_path):
    losses = np.random.default_rng(0).normal(size=10).astype(np.float32)
    losses[5] = math.nan
    run(tmp_path / "whole", losses, max_skipped=1)
    seen = []
    with pytest.raises(StoppedError):
        run(
            tmp_path / "parts", losses, max_skipped=1,
            stop=lambda calls: seen.append(calls) or (lambda step: step == 7),
        )  # fmt: skip
    memory = Memory.from_dict(json.loads(json.dumps(seen[0]["memory"])))
    assert len(memory.waiting) == 2
    run(tmp_path / "parts", losses, start=7, max_skipped=1, memory=memory)
    here, there = (read_metrics(tmp_path / name) for name in ("parts", "whole"))
    for name in ("step", "train_loss", "gradient_norm", "skipped"):
        assert [row.get(name) for row in here] == [row.get(name) for row in there]


def test_a_spike_of_the_loss_ends_the_run_before_it_is_saved(tmp_path):
    losses = np.ones(40, np.float32)
    losses[24] = 50
    options = {"log_every": 1, "validate_at": frozenset({20, 25})}
    with pytest.raises(SpikeError, match="step 25: loss 50, usually 1") as caught:
        run(tmp_path, losses, spike=40.0, **options)
    assert caught.value.step == 25
    assert read_metrics(tmp_path)[-1]["step"] == 24
    for spike in (0.0, 60.0):
        assert run(tmp_path, losses, spike=spike, **options)["saved"][-1] == (25, 25, 12)
    losses[5], losses[24] = 50, 1
    run(tmp_path, losses, spike=40.0, **options)  # nothing usual is known yet


def test_a_run_that_is_asked_to_stop_in_a_spike_does_not_save_it(tmp_path):
    """Else it would go on with it, for ever."""
    losses = np.ones(40, np.float32)
    losses[34:37] = 500
    with pytest.raises(SpikeError, match=r"step 36: loss 333.7, usually 1"):
        run(
            tmp_path, losses, spike=40.0, log_every=3, validate_at=frozenset({33}),
            stop=lambda calls: lambda step: step == 36,
        )  # fmt: skip
    with pytest.raises(SpikeError, match=r"step 35: loss 250.5, usually 1"):
        run(
            tmp_path, losses, spike=40.0, log_every=3, validate_at=frozenset({33}),
            stop=lambda calls: lambda step: step == 35,
        )  # fmt: skip


def test_the_first_number_that_is_not_finite_is_located_after_its_step(tmp_path):
    losses = np.where(np.arange(10) == 2, math.nan, 1.0)
    message = "step 3: not finite: layer 2 after step 3, batch 2; the output for molecule 42"
    with pytest.raises(DivergedError, match=message):
        run(
            tmp_path, losses, max_skipped=9,
            locate=lambda state, batch: f"layer 2 after step {state.step}, batch {batch[0]}",
        )  # fmt: skip
