"""A run in one file predicts as the run does, and a damaged file is refused."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from molecules import KNOWN

from experiments import evaluate, export
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import pack, record_of


@pytest.fixture(scope="module")
def file(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.npz"
    pack(finished, path)
    return path


def test_it_predicts_as_the_run_does_to_the_bit(finished, file):
    run, packed = Predictor.load(finished), Predictor.load(file)
    np.testing.assert_array_equal(packed(KNOWN)["U0"], run(KNOWN)["U0"])
    for field in ("fitted", "domain", "errors", "budget", "model"):
        assert getattr(packed, field) == getattr(run, field), field
    assert packed.errors["U0"] > 0
    assert dataclasses.replace(packed, errors={}) != packed


def test_it_is_evaluated_and_exported_as_the_run_is(
    finished, file, tmp_path, capsys, monkeypatch
):
    tables = []
    for path in (finished, file):
        evaluate.run(path, "validation")
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != ""
    # `test_export.py` has the program itself.
    described = {"targets": {}, "platforms": []}
    monkeypatch.setattr(export, "export_model", lambda predictor: (b"", described))
    export.run(file, tmp_path / "model", None)
    description = json.loads((tmp_path / "model/model.json").read_text())
    assert description["run"]["config"] == record_of(finished).config
    pack(file, tmp_path / "again.npz")
    again, packed = Predictor.load(tmp_path / "again.npz"), Predictor.load(file)
    jax.tree.map(np.testing.assert_array_equal, again.params, packed.params)
    assert dataclasses.replace(again, params=packed.params) == packed


@pytest.mark.parametrize("damage", ["flipped", "cut", "alone", "missing"])
def test_a_damaged_file_is_refused_by_name(file, tmp_path, damage):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    digest = file.with_name("model.npz.sha256").read_text()
    path = tmp_path / "model.npz"
    if damage != "missing":
        whole = {"flipped": bytes(content), "cut": bytes(content[:-9])}
        path.write_bytes(whole.get(damage, file.read_bytes()))
    if damage != "alone":
        path.with_name("model.npz.sha256").write_text(digest)
    words = "is damaged" if damage in ("flipped", "cut") else "there is no file"
    with pytest.raises(CheckpointError, match=f"{words}.*" if words[0] == "t" else words):
        Predictor.load(path)
