"""From slabs made here, in OC20's format, to a run, its report and a submission."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from oc20_records import read_lmdb
from runs import predictions

from experiments import evaluate, prepare, train
from experiments.configs.is2re import get_config
from hdgnn_jax.data import is2re, oc20_lmdb
from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.oc20_lmdb import Is2reError
from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.run.task import Task, examples

PARTS = ("id", "ood_ads", "ood_cat", "ood_both")
TARGETS = ("initial_energy", "relaxed_energy")
SYSTEMS = 20


@pytest.fixture(scope="module")
def cache(once):
    def make(folder):
        root = folder / "of_slabs"
        prepare.slabs(root / "is2re" / "slabs", SYSTEMS, seed=0, processes=1)
        return root

    return once("slabs", make)


@pytest.fixture(scope="module")
def config(cache):
    small = get_config("quick")
    small.target = "relaxed_energy"
    small.data.update(cache=str(cache), validation_size=6)
    small.model.update(
        cutoff=4.0, max_neighbors=6, degree=1, product_degree=1, layers=1, channels=4, hidden=8,
        invariant_channels=8, edge_channels=8, n_gaussians=8, update_channels=8,
    )  # fmt: skip
    small.training.update(
        batch_size=8, steps=4, first_validation=2, validate_every=4, log_every=2, n_budgets=1,
    )  # fmt: skip
    return json.loads(small.to_json())


@pytest.fixture(scope="module")
def finished(config, once):
    """The folder of a run that learns the initial energy beside the relaxed one."""

    def make(folder):
        train.run({**config, "target": ",".join(TARGETS)}, folder / "slabs")
        return folder / "slabs"

    return once("slabs_run", make)


def with_data(config, **values):
    return {**config, "data": {**config["data"], **values}}


def test_the_cache_holds_the_slabs_that_the_files_hold(cache):
    folder = cache / "is2re" / "slabs"
    counts = {part: len(is2re.read(folder, part)) for part in is2re.parts(folder)}
    assert counts == {"train": 16, **dict.fromkeys(PARTS, 1)}
    records = list(read_lmdb(folder / "lmdb" / "id"))
    packed = is2re.read(folder, "id")
    assert [r.y_relaxed for r in records] == packed.labels["relaxed_energy"].tolist()
    assert (np.concatenate([r.fixed for r in records]) == packed.structures.fixed).all()


def test_what_is_made_already_is_kept(cache, monkeypatch):
    def refuse(*args):
        raise AssertionError("made again")

    monkeypatch.setattr("hdgnn_jax.data.slabs.make_system", refuse)
    folder = cache / "is2re" / "slabs"
    prepare.slabs(folder, SYSTEMS, seed=0, processes=1)
    with pytest.raises(ValueError, match=r'was made with .*"systems": 20.* another --name'):
        prepare.slabs(folder, SYSTEMS, seed=1, processes=1)


def test_the_report_has_every_part_and_their_mean(finished):
    for name in TARGETS:
        report = finished / "report" / name
        summary = json.loads((report / "summary.json").read_text())
        assert summary["splits"].keys() == {"validation", *PARTS, "mean"}
    assert summary["unit"] == "meV"
    for key in ("mae", "within", "mae_adsorbate_mean", "within_mean_predictor"):
        parts = [summary["splits"][part][key] for part in PARTS]
        assert summary["splits"]["mean"][key] == pytest.approx(np.mean(parts))
    assert "mae_paper" not in summary
    assert "can be compared with OC20's" in (report / "report.md").read_text()


def test_evaluation_prints_the_same(finished, capsys, monkeypatch):
    # Wide enough for a row to be one line.
    monkeypatch.setenv("COLUMNS", "120")
    evaluate.run(finished, None)
    reports = [(finished / "report" / name / "report.md").read_text() for name in TARGETS]
    rows = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows]
    # A table for each target.
    rows = [row for row in rows if row[0] in PARTS]
    assert [row[0] for row in rows] == [*PARTS] * 2
    for k, row in enumerate(rows):
        assert f"| {' | '.join(row)} |" in reports[k // len(PARTS)]


def test_a_submission_has_ids_and_energies_of_four_parts(finished, cache, tmp_path, capsys):
    """Whatever the order of the targets, the relaxed energy is what is submitted."""
    evaluate.submit(finished, tmp_path / "out.npz")
    assert "slabs (made here, not OC20): no leaderboard takes it" in capsys.readouterr().err
    content = np.load(tmp_path / "out.npz")
    assert sorted(content) == sorted(f"{p}_{k}" for p in PARTS for k in ("ids", "energy"))
    for part in PARTS:
        ids, _, energies = predictions(finished / "report" / "relaxed_energy", part)
        assert content[f"{part}_ids"].tolist() == [*map(str, ids)]
        np.testing.assert_allclose(content[f"{part}_energy"], energies / 1000, rtol=1e-12)


def test_a_run_without_the_relaxed_energy_is_not_submitted(finished, tmp_path, monkeypatch):
    task, predictor = evaluate.restored(finished)
    alone = dataclasses.replace(task, fitted=task.fitted[:1])
    monkeypatch.setattr(evaluate, "restored", lambda workdir: (alone, predictor))
    with pytest.raises(InputError, match="does not predict relaxed_energy, which is submitted"):
        evaluate.submit(finished, tmp_path / "out.npz")


def test_training_and_validation_share_no_system(config):
    data = dataset(config)
    parts = [data.part(name, "relaxed_energy") for name in ("train", "validation")]
    ids = [part.structures.ids.tolist() for part in parts]
    assert list(map(len, ids)) == [10, 6]
    assert not set(ids[0]) & set(ids[1])


def test_data_are_known_by_their_arrays(config, cache, tmp_path):
    """TFDS writes other bytes for the same records at each build."""
    shutil.copytree(cache, tmp_path / "copy")
    manifest = tmp_path / "copy" / "is2re" / "slabs" / "manifest.json"
    content = json.loads(manifest.read_text())
    files, found = content["parts"]["id"]["files"], []
    for changed in ("", *sorted(files)):
        files.update({changed: "0" * 64} if changed else {})
        manifest.write_text(json.dumps(content))
        found.append(dataset(with_data(config, cache=str(tmp_path / "copy"))).digest())
    original = dataset(config).digest()
    assert [digest == original for digest in found] == [True, True, False]


def test_the_published_set_has_the_papers_row_and_hidden_tests(
    config, cache, tmp_path, monkeypatch
):
    """OC20's own folder names, on records made here: what the real files would do."""
    records = list(read_lmdb(cache / "is2re" / "slabs" / "lmdb" / "id"))
    hidden = [r._replace(positions_relaxed=None, y_init=None, y_relaxed=None) for r in records]
    for part, content in {
        "train": records, **{f"val_{p}": records for p in PARTS},
        **{f"test_{p}": hidden for p in PARTS},
    }.items():  # fmt: skip
        (tmp_path / "source" / part).mkdir(parents=True)
        oc20_lmdb.write_lmdb(tmp_path / "source" / part / "data.lmdb", content)
    prepare.build(tmp_path / "source", tmp_path / "is2re" / "oc20", "stop")
    data = dataset(with_data(config, name="oc20", cache=str(tmp_path)))
    assert data.reported == ("validation", *(f"val_{part}" for part in PARTS))
    # The paper's row stands beside whole parts alone.
    assert data.paper(data.target("relaxed_energy")) == {}
    assert data.paper(data.target("initial_energy")) == {}
    assert data.note.startswith("Few systems of each part")
    monkeypatch.setattr(type(data), "WHOLE", len(records))
    paper = data.paper(data.target("relaxed_energy"))
    assert [paper[f"val_{part}"].mae for part in PARTS] == [510, 618, 523, 550]
    assert data.paper(data.target("initial_energy")) == {}
    assert "504, 688, 521, 630" in data.note
    assert list(data.submitted.values()) == [f"test_{part}" for part in PARTS]
    assert np.isnan(data.part("test_id", "relaxed_energy").labels["relaxed_energy"]).all()


def test_the_auxiliary_target_is_what_the_composition_leaves(config):
    """IS2RE has no such baseline of its own."""
    model = {**config["model"], "max_neighbors": None, "neighborhood": "cutoff"}
    training = {**config["training"], "auxiliary": True}
    linear = with_data({**config, "model": model, "training": training}, reference="linear")
    data = dataset(linear)
    known = examples(linear, data, "train")
    task, learned = Task.prepare(linear, data, known)
    values = known.labels["relaxed_energy"] * 1000
    fit = Composition.fit(known.structures, values, model["elements"])
    left = values - fit.predict(known.structures)
    found = task.training_targets(known, learned)[:, 1]
    np.testing.assert_allclose(found, left / left.std(), rtol=1e-6, atol=1e-6)


def test_a_slab_without_tags_is_refused(finished, config):
    """A CIF has none. Whatever the neighbourhood; there it would have no neighbours anyway."""
    predictor = Predictor.load(finished)
    everywhere = predictor.model.changed(neighborhood="cutoff")
    predictor = dataclasses.replace(predictor, model=everywhere)
    slabs = dataset(config).part("id", "relaxed_energy").structures
    bare = dataclasses.replace(slabs, tags=np.zeros_like(slabs.tags))
    assert not predictor.usable(slabs)[1]
    graphs, reasons = predictor.usable(bare)
    assert not len(graphs)
    assert all("it has none (a column `tags`" in reason for reason in reasons.values())


def test_training_alone_is_no_stand_in_and_total_energies_are_doubted(config, cache, tmp_path):
    """OC20 has parts of 10,000 and 100,000 training systems, without others."""
    records = list(read_lmdb(cache / "is2re" / "slabs" / "lmdb" / "train"))
    for name, factor in (("small", 1), ("total", 1000)):
        (tmp_path / name / "train").mkdir(parents=True)
        many = [r._replace(y_relaxed=factor * r.y_relaxed) for r in records]
        oc20_lmdb.write_lmdb(tmp_path / name / "train" / "data.lmdb", many)
        prepare.build(tmp_path / name, tmp_path / "is2re" / name, "stop")
        data = dataset(with_data(config, name=name, cache=str(tmp_path)))
        assert data.title == name
        assert data.note.startswith("No part of OC20's for validation or test")
        first, *doubts = data.summary("relaxed_energy")
        assert first.startswith(f"{data.title}: {len(records)} systems of ")
        assert len(doubts) == (factor > 1)
    assert "are a few eV: are these adsorption energies, in eV?" in doubts[0]
    with pytest.raises(Is2reError, match="lacks test_id, test_ood_ads"):
        assert data.submitted


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"set": "is2rs"},
            ValueError,
            "config.data.set must be one of qm9, is2re, ase, not 'is2rs'",
        ),
        ({"name": "nowhere"}, Is2reError, r"holds no data: run .*prepare is2re --source=DIR"),
        (
            {"validation_size": 16},
            ValueError,
            "validation_size must lie between 1 and 15, not 16: set .*validation_size=1",
        ),
        ({"train_size": 99}, ValueError, "train_size must lie between 1 and 10, not 99"),
        ({"split": "standard"}, ValueError, "config.data: got an unexpected keyword .*'split'"),
    ],
)
def test_bad_data_settings_are_refused(config, tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        train.run(with_data(config, **values), tmp_path / "run")


def test_a_training_system_without_energy_is_named(config, cache, tmp_path):
    records = list(read_lmdb(cache / "is2re" / "slabs" / "lmdb" / "train"))
    records[3] = records[3]._replace(y_relaxed=None)
    (tmp_path / "source" / "train").mkdir(parents=True)
    oc20_lmdb.write_lmdb(tmp_path / "source" / "train" / "data.lmdb", records)
    prepare.build(tmp_path / "source", tmp_path / "is2re" / "half", "stop")
    with pytest.raises(ValueError, match=f"half system {records[3].sid}, of part train, has no"):
        train.run(with_data(config, name="half", cache=str(tmp_path)), tmp_path / "run")


def test_a_run_does_not_go_on_with_other_data(finished, config, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(is2re.IS2RE, "digest", lambda self: "other")
    with pytest.raises(CheckpointError, match="a run on other data: choose"):
        train.run({**config, "target": ",".join(TARGETS)}, tmp_path / "run")


def test_bad_targets_and_splits_are_refused(config, finished, tmp_path):
    with pytest.raises(ValueError, match="unknown target 'U0'; IS2RE has relaxed_energy"):
        train.run({**config, "target": "U0"}, tmp_path / "run")
    with pytest.raises(ValueError, match=r"one of train, validation, id, .*, not 'test'"):
        evaluate.run(finished, "test")
    for name, message in (("out.csv", "must end in .npz"), ("no/out.npz", "its folder does not")):
        with pytest.raises(ValueError, match=f"{re.escape(name)}:? {message}"):
            evaluate.submit(finished, tmp_path / name)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        evaluate.submit(tmp_path / "typo", tmp_path / "out.npz")


@pytest.mark.parametrize("words", [(), ("oc20",), ("qm9", "slabs")])
def test_what_can_be_prepared_is_said(words):
    words_there = "say what to prepare: is2re, slabs, molecules, extxyz, smiles, qm9"
    with pytest.raises(ValueError, match=words_there):
        prepare.main(*words)
