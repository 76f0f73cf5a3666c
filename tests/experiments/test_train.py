"""A run leaves what it promises, goes on where it stopped, and refuses what it cannot do."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
from fake_qm9 import write_cache

from experiments import train
from hdgnn_jax.data import splits
from hdgnn_jax.data.loader import Loader
from hdgnn_jax.data.qm9 import PACKED
from hdgnn_jax.data.qm9pack import QM9Error
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.structure import StructureError
from hdgnn_jax.run.task import Task
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import DivergedError, StoppedError
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.training.record import Record
from hdgnn_jax.training.result import format_mae

FIRST, STEPS = 5, 12
SUMMARY = {
    "target", "unit", "split", "n", "mae", "mae_mean_predictor", "mae_composition", "mae_linear",
    "mae_paper", "seconds", "compilations", "padding_efficiency", "parameters", "splits",
}  # fmt: skip


def read(workdir: pathlib.Path, name: str) -> dict:
    return json.loads((workdir / "report" / name).read_text())


def contents(workdir: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_a_run_leaves_checkpoints_curves_and_a_report(finished, config):
    with Checkpoints(finished / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [FIRST, STEPS]
        record = Record.of(checkpoints)
        best = Record.of(checkpoints, "best")
    assert record.config == best.config == config
    assert record.split_digest == splits.DIGESTS["standard"]
    assert [(one.name, one.target.unit) for one in record.fitted] == [("U0", "meV")]
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == [4, 5, 8, 12]
    assert 0 < rows[0]["seconds"] < rows[-1]["seconds"] < read(finished, "summary.json")["seconds"]
    assert list(finished.glob("events.out.tfevents.*"))
    for name in ("learning_curve.png", "parity.png", "report.md"):
        assert (finished / "report" / name).stat().st_size
    summary = read(finished, "summary.json")
    assert summary.keys() == SUMMARY
    assert (summary["split"], summary["n"], summary["unit"]) == ("test", 10_831, "meV")
    assert summary["compilations"] == config["training"]["n_budgets"]
    assert summary["splits"]["validation"]["n"] == 10_000
    card = read(finished, "card.json")
    assert (card["config"], card["seed"]) == (config, 0)
    assert card["parameters"] == summary["parameters"]
    assert card["split_digest"] == record.split_digest
    assert record.course.resumed == card["resumed_at_steps"] == []
    assert 0 < record.course.seconds < card["seconds"]
    assert record.course.compilations == summary["compilations"]


def test_a_finished_run_is_stated_again_and_left_alone(
    finished, config, changed, capsys, tmp_path
):
    """Also where its data lie elsewhere now, and other rows of the curve are asked for."""
    before = contents(finished)
    moved = shutil.copytree(config["data"]["cache"], tmp_path / "moved")
    train.run(changed(**{"data.cache": str(moved), "training.log_every": 3}), finished)
    assert contents(finished) == before
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert format_mae(read(finished, "summary.json")["mae"]) in printed


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(finished, config, tmp_path, monkeypatch):
    """Asked to stop after step 3, as by SIGTERM, then broken off after a checkpoint."""
    batch, workdir, drawn = Loader.batch, tmp_path / "run", []
    asked = iter([False, False, True])
    with pytest.raises(StoppedError, match="step 3 is saved; the same command goes on from there"):
        train.run(config, workdir, lambda step: next(asked))

    def interrupted(self, k):
        if k == FIRST + 3:
            raise KeyboardInterrupt
        return batch(self, k)

    def watched(self, k):
        drawn.append(k)
        return batch(self, k)

    monkeypatch.setattr(Loader, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, workdir)
    assert not (workdir / "report").exists()
    monkeypatch.setattr(Loader, "batch", watched)
    # That its report is the same too, `test_kill.py` shows.
    train.run(config, workdir, report=False)
    assert drawn == list(range(FIRST, STEPS))

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert Record.of(checkpoints).course.resumed == [3, FIRST]
    names = ("validation_mae", "rotation_error")
    rows = [{row["step"]: [row.get(name) for name in names] for row in read_metrics(folder)}
            for folder in (workdir, finished)]  # fmt: skip
    assert rows[0] == rows[1]
    assert rows[0][STEPS][1] > 0


def test_paths_of_data_are_kept_in_full(tmp_path, monkeypatch):
    """So that a run is evaluated from any folder."""
    monkeypatch.chdir(tmp_path)
    given = {"path": "some.xyz", "test_path": None, "cache": "~/cache", "split": "random"}
    whole = train.with_whole_paths(given)
    home = str(pathlib.Path("~/cache").expanduser())
    assert whole == {**given, "path": str(tmp_path / "some.xyz"), "cache": home}


def test_ctrl_c_stops_after_a_step_and_then_at_once(capsys):
    """As a program: before the first step, and when asked again, it ends it at once."""
    config = {"training": {"steps": 9}}
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    with train.stop_on_signals(config) as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not stop(1)
        signal.raise_signal(signal.SIGINT)
        assert stop(2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with train.stop_on_signals(config) as stop:
        assert not stop(9)
        # The last validation and its checkpoint are not broken off.
        signal.raise_signal(signal.SIGINT)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in said] == [
        "stopping after this step", "all steps are taken, the report follows"
    ]  # fmt: skip
    with train.stop_on_signals(config) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop(1)
    assert before == {one: signal.getsignal(one) for one in before}


def test_a_finished_run_is_extended(finished, config, changed, tmp_path, monkeypatch, capsys):
    workdir, longer = tmp_path / "run", changed(**{"training.steps": 18, "training.log_every": 3})
    shutil.copytree(finished, workdir)
    batch, drawn, reported = Loader.batch, [], []

    def watched(step):
        reported.append((workdir / "report" / "summary.json").exists())
        return False

    monkeypatch.setattr(Loader, "batch", lambda self, k: drawn.append(k) or batch(self, k))
    train.run(longer, workdir, watched)
    assert drawn == list(range(STEPS, 18))
    # The error of earlier weights is not that of the run any more.
    assert reported == [False] * 6
    assert read(workdir, "summary.json")["mae"] != read(finished, "summary.json")["mae"]
    card = read(workdir, "card.json")
    assert (card["config"], card["resumed_at_steps"]) == (longer, [STEPS])
    assert card["extended"] == [{"at_step": STEPS, "of_steps": STEPS}]
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows] == [4, 5, 8, 12, 15, 18]
    assert rows[:4] == read_metrics(finished)
    # 5 % of the steps, at least one, are a warm-up; then a cosine.
    rates = [0.005 * (1 + np.cos(np.pi * (k - 1) / (n - 1))) / 2 for k, n in
             ((11, 12), (12, 18), (17, 18))]  # fmt: skip
    printed = capsys.readouterr().out
    assert "training.steps was 12" in printed
    for rate in rates:
        assert f" {rate:.2g} " in printed
    with pytest.raises(CheckpointError, match=r"training\.steps = 18 there, 12 here"):
        train.run(config, workdir)


def test_a_spike_sends_the_run_back_to_its_checkpoint_without_the_batches_since(
    changed, tmp_path, monkeypatch, capsys
):
    """Also where it is interrupted afterwards, for what was left out is in the checkpoint."""
    config = changed(
        **{"training.steps": 20, "training.first_validation": 12, "training.validate_every": 18,
           "training.log_every": 1, "training.spike": 100.0}
    )  # fmt: skip
    batch, drawn = Loader.batch, []

    def spoilt(self, k):
        drawn.append(k)
        graph = batch(self, k)
        if k != 15:
            return graph
        return graph._replace(globals=graph.globals._replace(target=graph.globals.target + 1e6))

    monkeypatch.setattr(Loader, "batch", spoilt)
    # Step 14 comes before the spike and again after it; a stop is asked for at the second time.
    for stop, times in ((14, 2), (19, 1)):
        drawn.clear()
        passed = []

        def asked(step, stop=stop, times=times, passed=passed):
            passed.append(step)
            return step == stop and passed.count(stop) == times

        with pytest.raises(StoppedError, match=f"step {stop} is saved"):
            train.run(config, tmp_path / "run", asked)
        assert ("step 16: loss" in capsys.readouterr().out) == (stop == 14)
    # The last one may not be drawn when the run ends before it.
    assert drawn in ([18, 19, 0, 1, 2], [18, 19, 0, 1, 2, 3])
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert Record.of(checkpoints).course.left_out == 4
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 20))
    assert max(row["train_loss"] for row in rows) < 100


def test_a_spike_before_any_checkpoint_stops_the_run(changed, tmp_path, monkeypatch):
    # Those of the test above, so that its program serves here too.
    settings = {"training.steps": 20, "training.log_every": 1, "training.spike": 100.0}
    batch = Loader.batch

    def spoilt(self, k):
        graph = batch(self, k)
        worse = np.float32(10.0 ** (k if k > 10 else 0))
        return graph._replace(
            globals=graph.globals._replace(target=graph.globals.target * worse)
        )

    monkeypatch.setattr(Loader, "batch", spoilt)
    late = changed(**settings | {"training.first_validation": 20})
    with pytest.raises(DivergedError, match=r"step 12: .*, before the first checkpoint: lower"):
        train.run(late, tmp_path / "late")


def test_debug_nans_names_the_layer(config, tmp_path, monkeypatch):
    fresh = Task.init_state

    def spoilt(self, *arguments):
        state = fresh(self, *arguments)
        state.params["stack"]["message"]["nn1"]["kernel"] *= np.nan
        return state

    monkeypatch.setattr(Task, "init_state", spoilt)
    message = r"step 1: not finite: layer 1, message/nn1; the output for QM9 molecule \d+"
    with pytest.raises(DivergedError, match=message):
        train.run(config, tmp_path / "run", debug_nans=True)


def test_a_lost_report_is_written_again_from_the_checkpoints(finished, config, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        before = Record.of(checkpoints).course.seconds
    began = time.monotonic()
    train.run(config, tmp_path / "run")
    took = time.monotonic() - began
    now, then = (read(folder, "summary.json") for folder in (tmp_path / "run", finished))
    # The time to the last checkpoint, and this process's on top of it.
    assert before < now.pop("seconds") <= before + took
    assert before < then.pop("seconds")
    assert now == then


def one_place(arrays):
    arrays["positions"][:] = 0


def chlorine(arrays):
    arrays["atomic_numbers"][:] = 17


def nan_and_chlorine(arrays):
    arrays["positions"][:] = np.nan
    chlorine(arrays)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        # Another choice of elements would not help.
        (nan_and_chlorine, r"QM9 molecule \d+ has a coordinate that is not a finite number$"),
        (one_place, r"QM9 molecule \d+ has atoms 0 and 1 at one place"),
        (
            chlorine,
            r"QM9 molecule \d+ contains Cl; this model knows H, C, N, O, F: set "
            r'--config.model.elements="\(17,\)" for those of QM9',
        ),
    ],
)
def test_a_molecule_no_model_can_use_is_named(changed, tmp_path, spoil, message):
    config = changed(**{"data.cache": str(write_cache(tmp_path / "cache", spoil))})
    with pytest.raises(StructureError, match=message):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "energy"}, "unknown target 'energy'; QM9 has mu"),
        ({"data.split": "random"}, "split must be one of standard, cormorant"),
        ({"data.train_size": 0}, "data.train_size must lie between 1 and 110000, not 0"),
        ({"data.train_size": 110_001}, "data.train_size must lie between 1 and 110000"),
        ({"data.reference": "fited"}, "reference must be one of none, fitted, tabulated"),
        ({"training.auxiliary": True}, "auxiliary = True needs config.data.reference = linear"),
        ({"data.reference": "linear", "model.max_neighbors": 4}, "linear needs .*max_neighbors"),
        ({"model.neighborhood": "graph"}, "must be one of cutoff, bonds, surface, not 'graph'"),
        (
            {"model.neighborhood": "surface", "model.tags": True, "training.stress_weight": 1.0},
            "stress_weight needs config.model.neighborhood = cutoff: forces between atoms of",
        ),
        (
            {"model.neighborhood": "surface", "model.tags": True, "data.reference": "linear"},
            "reference = linear for U0 needs config.model.neighborhood = cutoff: it sees pairs",
        ),
        (
            {"model.neighborhood": "bonds", "training.forces_weight": 1.0},
            "config.training.forces_weight needs config.model.neighborhood = cutoff: where a bond",
        ),
        (
            {"model.neighborhood": "bonds", "data.reference": "linear"},
            "reference = linear for U0 needs config.model.neighborhood = cutoff: it sees pairs",
        ),
        ({"model.attention": "none"}, "attention must be one of sigmoid, softmax"),
        ({"training.steps": 0}, "training.steps must be at least 1, not 0"),
        ({"training.spike": 0.5}, "training.spike must be 0 or more than 1, not 0.5"),
        ({"training.ema": 1.0}, "training.ema must be at least 0 and less than 1"),
        ({"training.batch_size": 6}, "6 molecules cannot be dealt to 4 devices evenly"),
        ({"head": "energy"}, "config.head must be auto or one of invariant, mean, extent, dipole"),
    ],
)
def test_a_bad_value_is_named_before_anything_is_written(changed, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.run(changed(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_config_is_refused_and_left_alone(finished, changed):
    before = contents(finished)
    other = changed(**{"target": "gap", "model.channels": 8})
    message = "another config .model.channels = 4 there, 8 here, target = U0 there, gap here"
    with pytest.raises(CheckpointError, match=message):
        train.run(other, finished)
    assert contents(finished) == before


def test_a_damaged_cache_is_named(changed, tmp_path):
    packed = write_cache(tmp_path / "cache") / "qm9" / PACKED
    packed.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(QM9Error, match=rf"{PACKED} is damaged .*: delete it and run again"):
        train.run(changed(**{"data.cache": str(tmp_path / "cache")}), tmp_path / "run")


def test_a_missing_qm9pack_is_named(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QM9Error, match="is not installed: pip install"):
        train.run(changed(**{"data.cache": str(tmp_path / "cache")}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
