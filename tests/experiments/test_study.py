"""A study trains each run once, whoever shares the work, and its page follows from the runs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import sys

import numpy as np
import pytest

from experiments import study, study_hypotheses, study_plan, study_sizes, train
from experiments.configs import ablations
from experiments.study_plan import Plan
from experiments.study_record import Record
from hdgnn_jax.config import flatten
from hdgnn_jax.errors import CheckpointError, HDGNNError, InputError
from hdgnn_jax.run.results import restored, results
from hdgnn_jax.training.loop import StoppedError

pytestmark = pytest.mark.slow

SETTINGS = {"seconds": 60.0, "batch_size": 32, "cutoff": 4.0, "rates": [1e-3, 3e-3]}
PEER = {"software": "SchNetPack", "size": "F = 64", "parameters": 7}
SIZE = 30_000
VARIANTS = ("baseline", "linear", "unrestricted", "softmax", "so2")
DIAL = ("equal_weights", "dial_0", "dial_25", "dial_50", "dial_100")
ATTENTION = {"terms": ["receiver", "product"], "steps": [3, 7], "means": [[0.4, 0.5], [0.6, 0.3]],
             "limits": [0, 1.5, 3], "edges": [0, 5],
             "layers": [{"mean": [0.6, 0.3], "by_distance": [[None, 0.6], [None, 0.4]]}],
}  # fmt: skip


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path / "study", ("U0", "gap"), (SIZE,), VARIANTS, 3, 7)


@pytest.fixture
def trained(monkeypatch):
    """Runs that were trained: their error is made up, and `unrestricted` is much the worst."""
    done = []

    def run(config, folder, stop):
        *_, size, variant, seed = folder.parts
        size, seed = int(size), int(seed)
        done.append((config["target"], size, variant, seed))
        place = (*VARIANTS, *DIAL, "fully_tp", "quick").index(variant)
        noise = 0.3 * ((7 * place + 5 * seed) % 3 - 1) * (1 + 0.1 * (variant in DIAL))
        mae = {"unrestricted": 900.0}.get(variant, 100.0) + seed + noise
        mae *= (SIZE / size) ** (0.5 if variant == "baseline" else 0.4)
        errors = {"mae": mae, "mae_mean_predictor": 1e3, "mae_linear": 4e2, "mae_paper": 8.0,
                  "rmse": 2 * mae}  # fmt: skip
        tests = ("id", "ood_both") if config["data"]["set"] == "is2re" else ("test",)
        splits = {"validation": errors} | {
            name: errors | {"mae": mae * k + 1e-3 * (k - 1) * seed * place}
            for k, name in enumerate(tests, 1)
        }
        summary = {"unit": "meV", "target": config["target"], "parameters": 1234, "seconds": 60,
                   "splits": splits | ({"mean": errors} if len(tests) > 1 else {})}  # fmt: skip
        card = {"config": config, "split_digest": "d", "git": {"revision": "0123456789abc"},
                "versions": {"jax": "1.2"}, "hardware": {"cpu": "Z80", "cores": 2}}  # fmt: skip
        (folder / "report").mkdir(parents=True)
        for name, content in (("summary", summary), ("card", card)):
            (folder / "report" / f"{name}.json").write_text(json.dumps(content))

    # Nothing to free.
    for module, name in ((study.cpu, "release"), (study.jax, "clear_caches")):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(train, "run", run)

    def measure(one):
        turned = 5.0 + one.seed + (DIAL.index(one.variant) if one.variant in DIAL else 0)
        content = {"rotation_error": turned, "train_mae": 30.0}
        if one.variant == "baseline" and one.seed < 2:
            content["attention"] = ATTENTION
        one.measured_file.write_text(json.dumps(content))

    monkeypatch.setattr(study, "measure", measure)
    return done


def test_sigterm_ends_a_study_with_its_run_saved(plan, trained, tmp_path, monkeypatch, capsys):
    def run(config, folder, stop):
        signal.raise_signal(signal.SIGTERM)
        assert stop(1)
        raise StoppedError("step 1 is saved")

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(SystemExit) as ended, train.saying_that_it_stopped():
        study.run(plan, "0/30", tmp_path / "page.md")
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().out.endswith("step 1 is saved\n")


def test_shares_together_are_all_runs_and_none_is_trained_twice(plan, trained, tmp_path, capsys):
    """On another machine, where the record alone is known, none is trained again either."""
    page = tmp_path / "page.md"
    study.run(plan, "0/2", page)
    assert len(trained) == 15
    assert not page.exists()
    assert "15 of 30 runs are finished; first missing" in capsys.readouterr().out
    shutil.rmtree(plan.workdir)
    study.run(plan, "1/2", page)
    text = page.read_text()
    shutil.rmtree(plan.workdir)
    study.run(plan, "0/1", page)
    assert len(trained) == len(set(trained)) == 30
    assert page.read_text() == text


@pytest.mark.usefixtures("trained")
def test_a_file_that_is_no_record_is_refused(plan, tmp_path):
    (tmp_path / "page.json").write_text('{"sizes": [1000]}')
    with pytest.raises(InputError, match=r"page.json is not the record of a study \(KeyError"):
        study.run(plan, "0/1", tmp_path / "page.md")


@pytest.mark.usefixtures("trained")
def test_the_record_of_another_budget_is_refused(plan, tmp_path):
    page = tmp_path / "page.md"
    study.run(plan, "0/30", page)
    shutil.rmtree(plan.workdir)
    other = dataclasses.replace(plan, steps=8)
    message = r"page.json/U0/30000/baseline/0 .*steps = 7 there, 8 here.*: choose another --page"
    with pytest.raises(CheckpointError, match=message):
        study.run(other, "0/30", page)
    study.run(plan, "1/30", plan.workdir / "study.md")
    with pytest.raises(CheckpointError, match=r"linear/0 .*choose another --workdir"):
        study.run(other, "0/30", tmp_path / "new.md")
    assert not (tmp_path / "new.json").exists()


@pytest.mark.usefixtures("trained")
def test_runs_on_other_data_are_not_compared(plan, tmp_path):
    page = tmp_path / "page.md"
    study.run(plan, "0/30", page)
    text = page.with_suffix(".json").read_text()
    page.with_suffix(".json").write_text(text.replace('"data": "d"', '"data": "other"'))
    with pytest.raises(CheckpointError, match=r"U0/30000/linear/0 of .* trained on other data"):
        study.run(plan, "1/30", page)


def test_all_variants_have_one_budget(plan):
    """They differ in their fields alone."""
    runs = [plan.run("U0", SIZE, variant, 1) for variant in VARIANTS]
    configs = [flatten(plan.config(run)) for run in runs]
    for variant, config in zip(VARIANTS, configs, strict=True):
        differing = {name for name in config if config[name] != configs[0][name]}
        assert differing == {f"model.{name}" for name in ablations.VARIANTS[variant]}
    assert configs[0]["data.train_size"] == SIZE
    assert configs[0]["training.steps"] == 7


@pytest.mark.usefixtures("trained")
def test_what_further_steps_take_off_is_on_the_page(plan, tmp_path):
    """The shorter study may have fewer seeds; one that differs in more is refused at once."""
    half = dataclasses.replace(plan, workdir=tmp_path / "half", steps=4, seeds=2)
    study.run(half, "0/1", tmp_path / "half.md")
    text = (tmp_path / "half.json").read_text()
    error = re.compile(r'("errors": {"test": {"mae": )([0-9.]+)')
    doubled = error.sub(lambda found: f"{found[1]}{2 * float(found[2])}", text)
    (tmp_path / "half.json").write_text(doubled)
    shorter = Record(tmp_path / "half.json")
    study.run(plan, "0/1", tmp_path / "page.md", shorter)
    page = (tmp_path / "page.md").read_text()
    assert "after 4 steps and after 7, over seeds 0 to 1" in page
    assert page.count("| 50.0 ± 0.0 |") == 2 * len(VARIANTS)
    (tmp_path / "half.json").write_text(doubled.replace('"data": "d"', '"data": "other"'))
    with pytest.raises(CheckpointError, match=r"half\.json were trained on other data"):
        study.run(plan, "0/1", tmp_path / "page.md", shorter)
    with pytest.raises(InputError, match="is of 4 steps, not of fewer than 4: name another"):
        study.run(half, "0/1", tmp_path / "other.md", shorter)
    narrow = doubled.replace('"model.channels": 32', '"model.channels": 8')
    (tmp_path / "half.json").write_text(narrow)
    for targets, message in ((plan.targets, "channels = 8 there, 32"), (("mu",), "has no seed")):
        other = dataclasses.replace(plan, targets=targets)
        with pytest.raises(HDGNNError, match=message):
            study.run(other, "0/30", tmp_path / "other.md", shorter)
        assert not (tmp_path / "other.json").exists()


@pytest.mark.usefixtures("trained")
def test_the_page_holds_what_the_runs_gave(plan, tmp_path):
    page = tmp_path / "results" / "page.md"
    study.run(plan, "0/1", plan.workdir / "study.md")
    runs = [{"seed": s, "molecules": 900, "test": 81 + s} for s in range(3)]
    write_peers(plan, "U0", runs)
    study.run(plan, "0/1", page)
    text = page.read_text()
    assert re.search(r"\| baseline \| 101.0 ± 2.9 \|.*\| 6.000 \| 30.00 \|", text)
    assert "- U0, agrees: unrestricted." in text
    assert "- U0, not the paper's size: linear, unrestricted, softmax." in text
    assert "- U0, contradicts: none." in text
    assert "- gap, undecided: linear, softmax." in text
    assert "| SchNet (SchNetPack, F = 64) | 7 | 900 | 82.00 ± 2.5 |" in text
    assert "PaiNN: -19 ± " in text
    assert text.count("beside other models") == 1
    runs = json.loads(page.with_suffix(".json").read_text())["runs"]
    keys = [f"gap/{SIZE}/unrestricted/{seed}" for seed in range(3)]
    maes = [runs[key]["errors"]["test"]["mae"] for key in keys]
    assert maes == pytest.approx([900.3, 901, 901.7])
    assert "- U0: smaller error than `baseline`: none; larger: `unrestricted` (+792.1 %)" in text
    assert page.with_name("page_variants.png").stat().st_size


@pytest.mark.parametrize("share", ["2/2", "1", "a/b", "-1/2"])
def test_a_share_that_is_none_is_refused(plan, share):
    with pytest.raises(ValueError, match="--share must be K/N"):
        study.run(plan, share, plan.workdir / "study.md")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ("baseline", "best")}, r"ablations.py has baseline.*not 'best'"),
        ({"variants": ("so2", "baseline")}, "--variants must begin with baseline"),
        ({"variants": ()}, "--variants must begin with baseline"),
        ({"variants": ("baseline",)}, "--variants must .* and name another, each once"),
        ({"variants": ("baseline", "baseline")}, "each once"),
        ({"targets": ("U0", "gpa")}, "unknown target 'gpa'"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"targets": ("gap", "relaxed_energy")}, "unknown target 'relaxed_energy'"),
        ({"sizes": (3000, 1000)}, "--sizes must be numbers of training structures that ascend"),
        ({"sizes": ()}, "--sizes must be numbers"),
        ({"sizes": (0, 1000)}, "--sizes must be numbers"),
        ({"sizes": (1000, 110_001)}, "--sizes must be .* up to 110,000"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_trained(plan, trained, change, message):
    with pytest.raises(ValueError, match=message):
        study.run(dataclasses.replace(plan, **change), "0/1", plan.workdir / "study.md")
    assert not trained


@pytest.mark.usefixtures("trained")
def test_runs_of_two_budgets_are_not_compared(plan):
    """Nor trained on; what an older revision did not know is left aside."""
    study.run(plan, "0/30", plan.workdir / "study.md")
    card = plan.run("U0", SIZE, "baseline", 0).folder / "report" / "card.json"
    content = json.loads(card.read_text())
    del content["config"]["model"]["full_product"]
    card.write_text(json.dumps(content))
    study.run(plan, "0/30", plan.workdir / "again.md")
    message = r"U0/30000/baseline/0 .*training.steps = 7 there, 8 here"
    with pytest.raises(CheckpointError, match=message):
        study.run(dataclasses.replace(plan, steps=8), "0/30", plan.workdir / "other.md")


@pytest.mark.usefixtures("trained")
def test_peers_of_one_seed_are_said_to_have_runs_to_go(plan, tmp_path):
    plan = dataclasses.replace(plan, variants=VARIANTS[:2], seeds=2)
    study.run(plan, "0/1", plan.workdir / "study.md")
    write_peers(plan, "gap", [{"seed": 0, "molecules": 900, "test": 81}])
    message = r"PaiNN needs two seeds or more of gap.* --workdir=DIR/gap/30000/baseline/0 --seeds=N"
    with pytest.raises(ValueError, match=message):
        study.run(plan, "0/1", tmp_path / "page.md")


def write_peers(plan, target, runs):
    """As `experiments.peer` leaves them beside the first run of the baseline."""
    models = {name: {**PEER, "runs": runs} for name in ("painn", "schnet")}
    file = plan.run(target, SIZE, "baseline", 0).folder / "report" / "peers.json"
    file.write_text(json.dumps({"settings": SETTINGS, "models": models}))


@pytest.mark.usefixtures("trained")
def test_sizes_give_curves_before_the_last_seed_is_there(plan, tmp_path, capsys):
    """Errors here fall with the roots of the size, and those of the baseline fall faster."""
    plan = dataclasses.replace(
        plan, targets=("gap",), sizes=(1000, 10_000, 100_000), variants=("baseline", "quick")
    )
    # A user's network, at its own size.
    assert plan.config(plan.run("gap", 1000, "quick", 0))["model"]["channels"] == 64
    page = tmp_path / "sizes.md"
    study.run(plan, "1/18", page)
    assert "no page yet: no seed" in capsys.readouterr().out
    one_seed = dataclasses.replace(plan, seeds=2)
    study.run(one_seed, "0/2", plan.workdir / "study.md")
    study.run(one_seed, "1/2", plan.workdir / "study.md")
    study.run(plan, "17/18", page)
    assert "over the seeds\n0 to 1." in page.read_text()
    text = page.read_text()
    assert "| linear model | 400.0 | 400.0 | 400.0 |" in text
    assert "with the most structures baseline is better" in text
    assert "- gap, 1,000 structures: " in text
    assert "`quick` is `qm9.py:quick` for as many steps.\n\nEach other run: 1,000 or" in text
    record = Record(page.with_suffix(".json"))
    record.gather(one_seed)
    found = study_sizes.table(one_seed, record, "gap")["baseline"]
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[0] / found[2], 10)
    assert page.with_suffix(".png").stat().st_size


@pytest.mark.usefixtures("trained")
def test_slabs_are_compared_on_each_test_part(plan, tmp_path, monkeypatch):
    class Slabs:
        def part(self, name, target):
            assert (name, target) == ("train", "relaxed_energy")

    monkeypatch.setattr(study_plan, "dataset", lambda config: Slabs())
    variants = ("baseline", "so2", "fully_tp")
    plan = dataclasses.replace(
        plan, targets=("relaxed_energy",), sizes=(3000,), variants=variants
    )
    config = plan.config(plan.run("relaxed_energy", 3000, "so2", 0))
    assert config["data"]["name"] == "slabs"
    assert config["model"]["pathway"] == "so2"
    assert config["model"]["max_neighbors"] == 12
    page = tmp_path / "page.md"
    study.run(plan, "0/1", page)
    text = page.read_text()
    assert "## relaxed_energy, id" in text
    assert "Without a network: mean predictor 1000, linear 400.0." in text
    assert "With the paper" not in text
    assert "## Error in percent of `fully_tp`'s, 3,000 structures" in text
    assert "|  | id | ood_both |" in text
    assert "(the paper's Table 1): undecided; " in text
    base, twice = (
        float(re.search(rf"## relaxed_energy, {part}\n(?:.*\n)*?\| baseline \| ([\d.]+)", text)[1])
        for part in ("id", "ood_both")
    )
    assert twice == pytest.approx(2 * base, rel=1e-3)
    monkeypatch.undo()
    page.unlink()
    study.run(dataclasses.replace(plan, workdir=tmp_path / "elsewhere"), "0/1", page)
    assert page.read_text() == text  # neither folders nor slabs are needed again


@pytest.mark.usefixtures("trained")
def test_fixed_shares_of_the_learned_terms_make_a_dial(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study", "--workdir=my runs", "--share=0/1"])
    plan = dataclasses.replace(plan, targets=("gap",), variants=("baseline", *DIAL))
    assert list(study_hypotheses.shares(plan).items()) == [
        ("dial_0", 0), ("dial_25", 25), ("dial_50", 50), ("equal_weights", 75), ("dial_100", 100)
    ]  # fmt: skip
    study.run(plan, "0/1", tmp_path / "dial.md")
    text = (tmp_path / "dial.md").read_text()
    assert "python -m experiments.study '--workdir=my runs'\n" in text
    assert "| 75 % | equal_weights | " in text
    assert "| learned | baseline | " in text
    assert "the share: holds; rank correlations 0.40, 0.40, 0.40." in text
    assert (tmp_path / f"dial_gap_{SIZE}.png").stat().st_size


@pytest.mark.parametrize("left_out", ["dial_0", "dial_50", "dial_100"])
def test_fewer_shares_make_none(plan, left_out):
    variants = ("baseline", *(name for name in DIAL if name != left_out))
    plan = dataclasses.replace(plan, targets=("gap",), variants=variants)
    assert not study_hypotheses.has_dial(plan)


def test_the_rotation_error_of_a_finished_run_is_measured(finished, tmp_path):
    plan = Plan(tmp_path, ("U0",), (300,), ("baseline",), 1, 12)
    (run,) = plan.runs()
    assert not run.trained
    shutil.copytree(finished, run.folder)
    assert run.trained
    assert not run.finished
    study.measure(run)
    assert run.finished
    measured = run.read("measured.json")
    assert measured["rotation_error"] > 0
    assert len(measured["attention"]["terms"]) == 4
    assert np.shape(measured["attention"]["layers"][0]["by_distance"]) == (4, 10)
    assert len(measured["attention"]["means"]) == len(measured["attention"]["steps"]) > 0
    # The same molecules, weights and baselines give the error of `evaluate --split=train`.
    (of_train,) = results(*restored(run.folder), ["train"])["U0"]
    assert measured["train_mae"] == pytest.approx(of_train.mae)
