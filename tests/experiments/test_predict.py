"""Every input is one row, in order; what cannot be used says why, the rest is predicted."""

from __future__ import annotations

import csv
import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from experiments import predict
from hdgnn_jax.data import qm9
from hdgnn_jax.predict import Predictor
from hdgnn_jax.training.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    atoms = [molecule(name) for name in ("H2O", "CH4", "C2H6")]
    ase.io.write(folder / "good.xyz", atoms)
    twice = molecule("H2O")
    twice.positions[2] = twice.positions[1]
    ase.io.write(folder / "mixed.extxyz", [atoms[1], bulk("Au"), twice, atoms[0]])
    return folder


def rows_of(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_rows_are_in_order_and_bad_ones_say_why(finished, inputs, tmp_path):
    out = tmp_path / "out.csv"
    names = [str(inputs / "mixed.extxyz"), str(inputs / "good.xyz")]
    assert predict.run(finished, names, out, False) == 2
    header, *rows = rows_of(out)
    assert header == ["structure", "U0 [meV]", "reason"]
    assert [row[0] for row in rows] == [f"mixed.extxyz, structure {k}" for k in (1, 2, 3, 4)] + [
        f"good.xyz, structure {k}" for k in (1, 2, 3)
    ]
    assert rows[1][1:] == ["", "contains Au; this model knows H, C, N, O, F"]
    assert rows[2][2].startswith("has atoms 1 and 2 at one place")
    values = {row[0]: float(row[1]) for row in rows if row[1]}
    assert len(values) == 5
    # The same molecule, whatever file and batch it came in.
    for a, b in ((rows[0], rows[5]), (rows[3], rows[4])):
        assert float(a[1]) == pytest.approx(float(b[1]), rel=1e-5)
    predict.run(finished, names, tmp_path / "again.csv", False)
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()


def test_json_and_extxyz_hold_values_and_forces(finished, inputs, tmp_path):
    names = [str(inputs / "good.xyz"), str(inputs / "mixed.extxyz")]
    for suffix in ("json", "extxyz"):
        predict.run(finished, names, tmp_path / f"out.{suffix}", True)
    rows = json.loads((tmp_path / "out.json").read_text())
    frames = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert len(rows) == len(frames) == 7
    for row, atoms in zip(rows, frames, strict=True):
        if row["reason"] is None:
            assert atoms.info["U0"] == row["U0 [meV]"]
            assert atoms.info["unit"] == "meV"
            np.testing.assert_array_equal(atoms.get_forces(), row["forces [eV/Å]"])
        else:
            assert atoms.info["reason"] == row["reason"]
    assert frames[4].pbc.all()


def test_a_loaded_predictor_is_that_of_the_report(finished, config):
    table = np.loadtxt(finished / "report/predictions_test.csv", delimiter=",", skiprows=1)[:20]
    molecules = qm9.load(config["data"]["cache"]).structures
    taken = molecules.take(np.searchsorted(molecules.ids, table[:, 0].astype(int)))
    found = Predictor.load(finished)(taken)
    np.testing.assert_allclose(found, table[:, 2], rtol=1e-7)


def test_what_cannot_be_done_is_said(finished, inputs, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file nowhere.xyz"):
        predict.run(finished, ["nowhere.xyz"], tmp_path / "out.csv", False)
    with pytest.raises(ValueError, match="qm9:x must be qm9:INDEX or qm9:FIRST-LAST"):
        predict.run(finished, ["qm9:x"], tmp_path / "out.csv", False)
    with pytest.raises(ValueError, match="--forces goes with"):
        predict.run(finished, [str(inputs / "good.xyz")], tmp_path / "out.csv", True)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        predict.run(tmp_path / "typo", ["nowhere.xyz"], tmp_path / "out.csv", False)
    assert not list(tmp_path.iterdir())
