"""Other models beside a run: what is trained, kept and said, with a trainer that makes it up."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
from crystals import random_crystal

from experiments.peer import __main__ as peer
from experiments.peer import results
from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.is2re import IS2RE
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.data.targets import POLARIZABILITY, RELAXED_ENERGY, TARGETS
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.result import format_mae

MADE_UP = """
import json, pathlib, sys
if len(sys.argv) == 1:
    print("a library's greeting")
    print(json.dumps({"schnetpack": "9.9", "torch": "8.8"}))
    sys.exit()
path, task = sys.argv[1], json.loads(sys.argv[2])
with pathlib.Path(__file__).with_name("log").open("a") as log:
    log.write(sys.argv[2] + "\\n")
assert pathlib.Path(path).exists()
print("a library's greeting")
for k in range(1, task["validations"] + 1):
    done = {"seconds": task["seconds"] * k / task["validations"], "molecules": 100 * k}
    print(json.dumps(done))
    print(json.dumps({**done, "validation": 50 / k}), flush=True)
mae = {0.0005: 30.0, 0.001: 10.0, 0.003: None}[task["rate"]]
found = {"found": True, "parameters": 77, "size": "F = 1", "steps": 9, **done, "validation": mae}
print(json.dumps(found | ({"test": 11.0 + task["seed"]} if task["test"] else {})))
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """`made_up()`: the tasks that a made-up trainer was given so far."""
    script = tmp_path / "trainer.py"
    script.write_text(MADE_UP)
    log = tmp_path / "log"
    monkeypatch.setattr(peer, "TRAINER", script)
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def task(finished):
    with Checkpoints(finished / "checkpoints") as checkpoints:
        return Task.from_record(Record.of(checkpoints, "best"))


def read(run, name):
    return json.loads((run / "report" / name).read_text())


def test_each_model_has_the_time_of_the_run_at_its_best_rate(run, made_up, capsys):
    peer.run(run, peer.Options())
    seconds = read(run, "summary.json")["seconds"]
    tasks = made_up()
    assert [task["model"] for task in tasks] == ["painn"] * 4 + ["schnet"] * 4
    for *trials, last in (tasks[:4], tasks[4:]):
        assert [trial["rate"] for trial in trials] == [5e-4, 1e-3, 3e-3]
        assert [trial["seconds"] for trial in trials] == pytest.approx([seconds / 10] * 3)
        assert not any(trial["test"] for trial in trials)
        assert (last["rate"], last["seconds"], last["test"]) == (1e-3, seconds, True)
    content = read(run, "peers.json")
    model = content["models"]["schnet"]
    assert (model["software"], model["parameters"]) == ("SchNetPack 9.9", 77)
    assert [trial["validation"] for trial in model["trials"]] == [30, 10, None]
    (found,) = model["runs"]
    assert (found["seed"], found["test"], len(found["curve"])) == (0, 11, 12)
    assert found["curve"][-1] == {"seconds": seconds, "molecules": 1200, "validation": 50 / 12}
    assert (run / "report" / "peers.png").stat().st_size
    printed = capsys.readouterr()
    assert "PaiNN, rate 0.001, MAE 4.167" in printed.err
    assert "│ PaiNN " in printed.out
    assert max(map(len, printed.out.splitlines()[1:-1])) <= 80


def test_what_is_finished_is_not_trained_again(run, made_up):
    peer.run(run, peer.Options(seconds=2))
    peer.run(run, peer.Options(seconds=2))
    assert len(made_up()) == 8
    content = read(run, "peers.json")
    # As if it had been stopped, and damaged.
    content["models"]["schnet"]["runs"] = []
    del content["models"]["painn"]["trials"][1]
    (run / "report" / "peers.json").write_text(json.dumps(content))
    peer.run(run, peer.Options(seconds=2, seeds=2))
    again = [(task["model"], task["seed"], task["test"]) for task in made_up()[8:]]
    assert again == [
        ("painn", 0, False), ("painn", 1, True), ("schnet", 0, True), ("schnet", 1, True)
    ]  # fmt: skip
    text = (run / "report" / "report.md").read_text()
    assert "| SchNet, seed 1 | 77 | 2 | 1,200 | 0.001 | 10.00 | 12.00 |" in text


@pytest.mark.parametrize("change", [{"seconds": 3}, {"batch_size": 16}, {"cutoff": 2.0}])
def test_results_of_other_settings_do_not_count(run, made_up, change, capsys):
    peer.run(run, peer.Options(seconds=2))
    peer.run(run, peer.Options(**{"seconds": 2, **change}))
    assert len(made_up()) == 16
    (name,) = change
    assert f"has results of other settings ({name} = " in capsys.readouterr().out
    assert read(run, "peers.json")["settings"][name] == change[name]


@pytest.mark.usefixtures("made_up")
def test_the_report_has_one_section_before_the_card(run):
    path = run / "report" / "report.md"
    before = path.read_text()
    for _ in range(2):
        peer.run(run, peer.Options(seconds=2))
        text = path.read_text()
        assert text.count("## Beside other models") == text.count("## Reproduction card") == 1
    begin, end = text.index("## Beside other models"), text.index("## Reproduction card")
    assert text[:begin] + text[end:] == before
    summary = read(run, "summary.json")
    best = min(row["validation_mae"] for row in read_metrics(run) if "validation_mae" in row)
    steps, size = 12, 256
    ours = f"| {steps * size:,} | 0.005 | {format_mae(best)} | {format_mae(summary['mae'])} |"
    assert ours in text[begin:end]
    composition = f"| composition |  |  |  |  |  | {format_mae(summary['mae_composition'])} |"
    assert composition in text[begin:end]
    assert "paper" not in text[begin:end]


def test_molecules_are_those_of_the_run_and_targets_stand_above_the_composition(task, tmp_path):
    path = tmp_path / "molecules.npz"
    for cutoff in (None, 2.0):
        peer.write_molecules(path, task, cutoff)
        with np.load(path) as file:
            content = dict(file)
        assert content["cutoff"] == (cutoff or task.model.hyper.cutoff)
        train, test = (task.examples(name) for name in ("train", "test"))
        assert len(content["validation_target"]) == 100
        assert len(content["train_target"]) == len(train)
        edges = find_neighbors(test.structures, content["cutoff"])
        np.testing.assert_array_equal(content["test_senders"], edges.senders)
        np.testing.assert_array_equal(content["test_edges"], edges.offsets)
        assert len(content["test_positions"]) == content["test_atoms"][-1]
        factor, elements = task.fitted[0].target.factor, task.model.hyper.elements
        values = train.labels["U0"] * factor
        fit = Composition.fit(train.structures, values, elements, "extensive")
        left = test.labels["U0"] * factor - fit.predict(test.structures)
        np.testing.assert_allclose(
            content["test_target"] * content["scale"], left, atol=1e-6 * np.abs(left).max()
        )


def test_a_sender_in_another_cell_is_shifted(task):
    structures = Structures.pack([random_crystal(seed) for seed in range(3)])
    edges = find_neighbors(structures, 4.0)
    examples = peer.Examples(structures, edges, {"U0": np.zeros(len(structures))})
    found = peer.columns(examples, "U0", task.fitted[0].reference, None)
    owner = np.repeat(np.arange(len(structures)), edges.n_edges)
    start = structures.offsets[owner]
    x = found["positions"]
    vectors = x[start + edges.senders] + found["shifts"] - x[start + edges.receivers]
    lengths = np.linalg.norm(vectors, axis=1)
    assert 0.1 < lengths.min() <= lengths.max() <= 4.0 + 1e-4


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run: train it first"):
        peer.run(tmp_path / "nothing", peer.Options())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("targets", "change", "message"),
    [
        ([POLARIZABILITY], {}, "predicts polarizability, a tensor: the other models"),
        ([TARGETS["U0"], TARGETS["mu"]], {}, "predicts U0, mu, several numbers: the other models"),
        (
            [RELAXED_ENERGY],
            {"data": IS2RE("slabs", validation_size=5)},
            "made here, not OC20.*: the other models are trained on QM9 and on files of ASE",
        ),
    ],
)  # fmt: skip
def test_what_others_cannot_learn_is_refused(finished, task, monkeypatch, targets, change, message):
    reference = task.fitted[0].reference
    of_targets = tuple(FittedTarget(t, t.head, reference, {}) for t in targets)
    other = dataclasses.replace(task, fitted=of_targets, **change)
    monkeypatch.setattr(Task, "from_record", lambda record: other)
    monkeypatch.setattr(IS2RE, "_parts", {"train": {}, "id": {}})
    with pytest.raises(ValueError, match=message):
        peer.comparable(finished)


def test_data_that_have_changed_are_not_trained_on(run, made_up, monkeypatch):
    peer.run(run, peer.Options(seconds=2))
    monkeypatch.setattr(QM9, "digest", lambda self: "another")
    peer.run(run, peer.Options(seconds=2))
    with pytest.raises(CheckpointError, match=r"QM9 has changed since .*, or train again"):
        peer.run(run, peer.Options(seconds=3))
    assert len(made_up()) == 8


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "peers.json").write_text("{")
    with pytest.raises(ValueError, match=r"peers.json is not JSON"):
        results.read(tmp_path, results.Settings(1.0, 0.1, (1e-3,), 32, 5.0, 2))


def test_forces_are_said_to_be_left_out(finished, task, monkeypatch, caplog):
    training = {**task.config["training"], "forces_weight": 1.0}
    other = dataclasses.replace(task, config={**task.config, "training": training})
    monkeypatch.setattr(Task, "from_record", lambda record: other)
    peer.comparable(finished)
    assert "forces and stress are left out: the other models learn U0 alone" in caplog.text


def test_other_cores_are_said(caplog):
    settings = results.Settings(1.0, 0.1, (1e-3,), 32, 5.0, 2)
    peer.warn_of_other_hardware({"jax_backend": "cpu", "cores": 2}, settings)
    assert not caplog.text
    peer.warn_of_other_hardware({"jax_backend": "cpu", "cores": 8}, settings)
    assert "the run had 8 cores, the other models have 2" in caplog.text
    peer.warn_of_other_hardware({"jax_backend": "gpu", "cores": 2}, settings)
    assert "the run had a gpu" in caplog.text


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import schnetpack_of_nobody", "has no SchNetPack .*schnetpack_of_nobody.*pip install "
         r"torch schnetpack==2.1.1, then the same command with --python="),
        ("raise OSError('libgomp')", "SchNetPack cannot be used by .*: OSError: libgomp"),
        (MADE_UP.replace("mae = {", "sys.exit('no memory') #"), "PaiNN, rate 0.0005: stopped with "
         "exit code 1: no memory"),
        (MADE_UP.replace("10.0", "None").replace("30.0", "None"), "no rate gave a finite"),
        (MADE_UP.replace('11.0 + task["seed"]', "None"), "PaiNN, rate 0.001: diverged"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(run, made_up, script, message):
    peer.TRAINER.write_text(script)
    with pytest.raises(ValueError, match=message):
        peer.run(run, peer.Options(seconds=2))
    assert "Beside other models" not in (run / "report" / "report.md").read_text()


@pytest.mark.usefixtures("made_up")
def test_an_interpreter_that_is_none_is_said(run, tmp_path):
    python = str(tmp_path / "python")
    with pytest.raises(ValueError, match=r"--python=.*/python cannot be started: No such file"):
        peer.run(run, peer.Options(python=python))
    with pytest.raises(ValueError, match=r"--python=echo is no Python: it does not run a script"):
        peer.run(run, peer.Options(python="echo"))


def test_the_trainer_imports_nothing_of_ours_and_no_jax():
    names = set()
    for node in ast.walk(ast.parse(peer.TRAINER.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    others = names - set(sys.stdlib_module_names)
    assert others == {"numpy", "schnetpack", "torch"}


@pytest.mark.skipif(
    not (importlib.util.find_spec("schnetpack") and importlib.util.find_spec("torch")),
    reason="not among the extras",
)
def test_both_models_learn(task, tmp_path):
    path = tmp_path / "molecules.npz"
    peer.write_molecules(path, task, None)
    for name in peer.MODELS:
        wanted = {"model": name, "seed": 0, "rate": 3e-3, "seconds": 2.0, "batch_size": 32,
                "validations": 2, "test": False}  # fmt: skip
        found = peer.train(sys.executable, path, wanted)
        assert found["molecules"] == 32 * found["steps"] > 0
        assert found["seconds"] >= 2
        maes = [row["validation"] for row in found["curve"]]
        assert found["validation"] == min(maes)
