"""A search draws the same again, keeps the best, runs nothing twice, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments import search, search_page, search_space
from experiments.configs.qm9 import get_config
from experiments.search_record import Plan, Search, Trial
from hdgnn_jax.config import with_fields
from hdgnn_jax.data.loader import Loader
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.training.loop import DivergedError
from hdgnn_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

QUICK = json.loads(get_config("quick").to_json())
SPACE = {
    "model.channels": [8, 16, 32],
    "model.layers": {"low": 1, "high": 3},
    "optimizer.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path / "search", QUICK, SPACE, 9, 3, 3, 1, 2, 90.0)


@pytest.fixture
def ran(monkeypatch):
    """Runs that are made up: the nearer the rate is to 2e-3, the better, more so with time."""
    done = []

    def trial(config, folder):
        done.append((folder.parent.name, folder.name, config["seed"], config["training"]["steps"]))
        rate = config["optimizer"]["learning_rate"]
        if rate > 6e-3:
            raise DivergedError("the loss is no number")
        noise = 0.01 * np.sin(1e6 * rate + config["seed"])
        steps = config["training"]["steps"]
        return Trial(steps, 1.0, float(abs(np.log(rate / 2e-3)) + 1 / steps + noise))

    summary = {"mae": 5.0, "unit": "meV", "split": "test", "n": 77}
    # A second each, and nothing to free.
    for module, name in ((search.cpu, "release"), (search.jax, "clear_caches")):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(search, "trial", trial)
    monkeypatch.setattr(QM9, "part", lambda self, name, target: None)
    monkeypatch.setattr(search, "measure", lambda config, folder: (1234, 0.5))
    monkeypatch.setattr(
        search, "test", lambda config, folder: done.append(("test", folder)) or summary
    )
    return done


def known(plan):
    return Search.from_dict(plan, json.loads((plan.workdir / "search.json").read_text()))


def test_candidates_are_a_function_of_the_seed_and_their_number():
    nine = search_space.candidates(SPACE, QUICK, 9)
    assert nine == search_space.candidates(SPACE, QUICK, 20)[:9]
    other = with_fields(QUICK, {"seed": 1})
    assert nine[1:] != search_space.candidates(SPACE, other, 9)[1:]
    assert nine[0] == {}
    assert len({json.dumps(fields) for fields in nine}) == 9


def test_what_is_drawn_lies_in_the_space():
    rng = np.random.default_rng(0)
    drawn = [search_space.draw(SPACE, rng) for _ in range(300)]
    assert {fields["model.channels"] for fields in drawn} == {8, 16, 32}
    layers = [fields["model.layers"] for fields in drawn]
    assert {type(value) for value in layers} == {int}
    assert np.bincount(layers)[1:].min() > 70
    rates = np.array([fields["optimizer.learning_rate"] for fields in drawn])
    assert 1e-3 <= rates.min() <= rates.max() <= 1e-2
    assert 0.4 < np.mean(rates < 10**-2.5) < 0.6


def test_draws_that_no_run_can_use_are_drawn_again():
    """The degree of products is at most that of the states, which is 1 in `quick`."""
    # Its sphere is for degree 1.
    quick = {**QUICK, "model": {**QUICK["model"], "sphere_order": None}}
    space = {"model.degree": [1, 2, 3], "model.product_degree": [1, 2, 3]}
    search_space.refuse_space(space, quick)
    found = search_space.candidates(space, quick, 6)
    pairs = {(f.get("model.degree", 1), f.get("model.product_degree", 1)) for f in found}
    assert pairs == {(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}
    with pytest.raises(ValueError, match=r"gave no candidate 6 .*widen the space"):
        search_space.candidates(space, quick, 7)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.chanels": [8]}, "the space has model.chanels, and the config has no such"),
        ({"model": [8]}, "the space has model, and"),
        ({"training.steps": [8]}, "training.steps, which must be the same"),
        ({"data.split": ["other"]}, "data.split, which must be the same"),
        ({"model.channels": []}, "model.channels must have a list of choices or an object"),
        ({"model.channels": {"low": 1}}, "model.channels must have a list"),
        ({"model.channels": [8, "many"]}, "model.channels in the space must be a whole number"),
        ({"model.layers": {"low": 1.5, "high": 3}}, "layers in the space must be a whole number"),
        ({"model.layers": {"low": 3, "high": 1}}, "model.layers must have low < high"),
        ({"optimizer.clip": {"low": 0, "high": 1, "log": True}}, "must have 0 < low < high"),
        ({"optimizer.clip": {"low": 1, "high": 2, "log": 1}}, "log of optimizer.clip must be True"),
        ({"optimizer.clip": {"low": 1, "high": float("inf")}}, "an end of optimizer.clip must be"),
        ({"training.ema": {"low": 0.5, "high": 1.0}}, "no run can use training.ema = 1.0"),
        ({"model.pathway": ["none", "new"]}, 'no run can use model.pathway = "new"'),
    ],
)
def test_a_bad_space_is_refused_with_its_field(tmp_path, space, message):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(space))
    with pytest.raises(ValueError, match=message):
        search_space.read(path, QUICK)


def test_a_file_that_is_no_space_is_refused(tmp_path):
    for text in ("{", "[]", "{}"):
        (tmp_path / "space.json").write_text(text)
        with pytest.raises(ValueError, match=r"space.json (is not JSON|must hold an object)"):
            search_space.read(tmp_path / "space.json", QUICK)


def test_the_space_that_is_shipped_is_of_use():
    path = pathlib.Path(search.__file__).parent / "spaces" / "qm9_quick.json"
    assert len(search_space.candidates(search_space.read(path, QUICK), QUICK, 27)) == 27


def test_halving_keeps_the_best_and_the_test_part_is_seen_once(plan, ran, tmp_path, capsys):
    page = tmp_path / "page.md"
    plan = dataclasses.replace(plan, candidates=18, finalists=2)
    search.run(plan, page)
    found = known(plan)
    failed = [c for c in found.candidates if not c.rungs]
    assert failed
    assert all(c.out.startswith("rung1/") and "no number" in c.out for c in failed)
    for rung, size in ((1, 6), (2, 2)):
        last = sorted(c.rungs[rung - 1].mae for c in found.candidates if len(c.rungs) >= rung)
        assert [c.rungs[rung - 1].mae for c in found.members(rung)] == last[:size]
    # seconds / 0.5
    steps = {folder: step for folder, *_, step in (row for row in ran if len(row) == 4)}
    assert [steps[name] for name in ("rung1", "rung2", "rung3")] == [20, 60, 180]
    finals = [row for row in ran[:-1] if row[1].startswith("seed")]
    assert [seed for *_, seed, _ in finals] == [1, 1, 2, 2]
    assert {step for *_, step in finals} == {180}
    winner = found.complete()[0]
    assert ran[-1] == ("test", plan.folder(2, winner.index))
    assert sum(row[0] == "test" for row in ran) == 1
    text = page.read_text()
    assert "## Rung 3: 2 runs of 90 s" in text
    assert "--config.training.steps=180 --config.training.validate_every=90" in text
    rate = winner.changed["optimizer.learning_rate"]
    assert f"--config.optimizer.learning_rate={rate}" in text
    assert "Test MAE (test, 77 structures): 5.000 meV" in text
    assert text.count("| undecided |") + text.count("| worse |") == 1
    assert "Rung 1, validation MAE in meV" in capsys.readouterr().out


def test_a_search_that_was_stopped_does_no_run_twice(plan, ran, monkeypatch, tmp_path):
    whole = dataclasses.replace(plan, workdir=tmp_path / "whole")
    search.run(whole, None)
    expected, trial = [row[:-1] for row in ran], search.trial
    ran.clear()

    def until(n):
        def stopped(config, folder):
            if len(ran) == n:
                raise KeyboardInterrupt
            return trial(config, folder)

        return stopped

    timed = []
    monkeypatch.setattr(
        search, "measure",
        lambda config, folder: timed.append(config) or (1234, 0.5),
    )  # fmt: skip
    for n in (0, 1, 5, 9, 11, 13, 14):
        monkeypatch.setattr(search, "trial", until(n))
        with pytest.raises(KeyboardInterrupt):
            search.run(plan, None)
    monkeypatch.setattr(search, "trial", trial)
    search.run(plan, None)
    search.run(plan, None)
    assert [row[:-1] for row in ran][:-1] == expected[:-1]
    assert len(timed) == plan.candidates
    with pytest.raises(CheckpointError, match=r"another config \(budget = 90.0 there, 80.0 here\)"):
        search.run(dataclasses.replace(plan, budget=80.0), None)


def test_time_left_goes_by_the_budgets(plan, ran):
    everything = 9 * 10 + 3 * 30 + 90 + 2 * 90
    state = search.begin(plan)
    assert state.left() == (9 + 3 + 1 + 2, everything)
    search.run(plan, None)
    assert known(plan).left() == (0, 0)


@pytest.mark.usefixtures("ran")
def test_the_state_of_another_revision_is_refused_by_name(plan):
    search.run(plan, None)
    file = plan.workdir / "search.json"
    content = json.loads(file.read_text())
    content["candidates"][0]["rest_seconds"] = 5.0
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"search.json was written by another revision"):
        search.run(plan, None)
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(InputError, match=r"search.json is not JSON"):
        search.run(plan, None)


@pytest.mark.usefixtures("ran")
def test_without_a_candidate_the_search_says_why(plan, monkeypatch):
    monkeypatch.setattr(search, "measure", lambda config, folder: (1, 7.0))
    message = r"no candidate of rung 1 is left.*10 s are too short: a step takes 7 s"
    with pytest.raises(ValueError, match=message):
        search.run(plan, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 8}, "--candidates=8 leaves none in rung 3: ask for 9 or more"),
        ({"finalists": 2}, "--finalists=2 are more than the 1"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"budget": 0.0}, "--budget must be seconds"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_run(plan, ran, change, message):
    with pytest.raises(ValueError, match=message):
        search.run(dataclasses.replace(plan, **change), None)
    assert not ran


def test_an_only_finalist_is_compared_with_none(plan):
    state = search.begin(dataclasses.replace(plan, finalists=1, rungs=1, seeds=2))
    for candidate in state.candidates:
        candidate.rungs = [Trial(7, 1.0, 1.0 + candidate.index)]
    state.candidates[0].finals = [Trial(7, 1.0, 1.0), Trial(7, 1.0, 1.1)]
    assert search_page.verdict(state).endswith("over 2 seeds. It was the only finalist.")


def test_finalists_within_the_spread_of_seeds_are_undecided(plan, tmp_path):
    state = search.begin(dataclasses.replace(plan, finalists=3, rungs=1, seeds=3))
    rows = {0: (1.0, 1.2, 1.1), 1: (9.0, 9.1, 9.3), 2: (1.05, 1.1, 1.2)}
    for candidate in state.candidates:
        candidate.rungs = [Trial(7, 1.0, 1.0 + candidate.index)]
        candidate.finals = [Trial(7, 1.0, mae) for mae in rows.get(candidate.index, ())]
    assert "Candidate 0 has the lowest mean" in search_page.verdict(state)
    assert "Undecided, within the spread of seeds: it or 2." in search_page.verdict(state)
    assert [row[-1] for row in search_page.final_rows(state)] == [
        "lowest mean", "undecided", "worse",
    ]  # fmt: skip
    state.candidates[1].finals.pop()
    state.candidates[1].out = "finals/001/seed3: the loss is no number"
    assert search_page.final_rows(state)[-1][-1].endswith("no number")


def test_a_run_is_timed_then_trained_without_its_test_then_tested(changed, tmp_path, monkeypatch):
    """As a search does with its winner; the test part is not predicted before."""
    monkeypatch.setattr(search, "PROBE", 6)
    plan = Plan(tmp_path, changed(), {"model.channels": [4, 8]}, 2, 2, 2, 1, 2, 30.0)
    parameters, seconds = search.measure(plan.config, tmp_path / "probe")
    assert not (tmp_path / "probe").exists()
    assert 0 < seconds < 5
    # As many steps as the finished run has: its program serves here too.
    config = Search(plan, []).config(search.Candidate(1, {}), 12, seed=0)
    run = search.trial(config, tmp_path / "run")
    rows = [row for row in read_metrics(tmp_path / "run") if "validation_mae" in row]
    assert [row["step"] for row in rows] == [6, 12]
    assert run.mae == min(row["validation_mae"] for row in rows)
    assert not (tmp_path / "run" / "report").exists()
    # Going on with a run that is finished trains nothing.
    monkeypatch.setattr(Loader, "batch", None)
    summary = search.test(config, tmp_path / "run")
    assert (summary["split"], summary["parameters"]) == ("test", parameters)
    assert [row for row in read_metrics(tmp_path / "run") if "validation_mae" in row] == rows
    monkeypatch.setattr(search.train, "run", None)
    assert search.test(config, tmp_path / "run") == summary
