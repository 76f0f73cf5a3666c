"""Every input is one row, in order; what cannot be used says why, the rest is predicted."""

from __future__ import annotations

import csv
import json

import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import bulk, molecule
from runs import predictions

from experiments import predict, program
from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predicted_rows import Options
from hdgnn_jax.inference.predictor import Predictor, PredictorError


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
    assert predict.run([finished], names, out) == 2
    header, *rows = rows_of(out)
    assert header == ["structure", "U0 [meV]", "warning", "reason"]
    assert [row[0] for row in rows] == [f"mixed.extxyz, structure {k}" for k in (1, 2, 3, 4)] + [
        f"good.xyz, structure {k}" for k in (1, 2, 3)
    ]
    assert rows[1][1:] == ["", "", "contains Au; this model knows H, C, N, O, F"]
    assert rows[2][3].startswith("has atoms 1 and 2 at one place")
    values = {row[0]: float(row[1]) for row in rows if row[1]}
    assert len(values) == 5
    # The same molecule, whatever file and batch it came in.
    for a, b in ((rows[0], rows[5]), (rows[3], rows[4])):
        assert float(a[1]) == pytest.approx(float(b[1]), rel=1e-5)
    predict.run([finished], names, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()


def test_json_and_extxyz_hold_values_and_forces(finished, inputs, tmp_path):
    names = [str(inputs / "good.xyz"), str(inputs / "mixed.extxyz")]
    for suffix in ("json", "extxyz"):
        predict.run([finished], names, tmp_path / f"out.{suffix}", Options(forces=True))
    rows = json.loads((tmp_path / "out.json").read_text())
    frames = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert len(rows) == len(frames) == 7
    for row, atoms in zip(rows, frames, strict=True):
        if row["reason"] is None:
            assert atoms.info["predicted_U0"] == row["U0 [eV]"]
            assert atoms.info["predicted_U0_unit"] == "eV"
            np.testing.assert_array_equal(atoms.get_forces(), row["forces [eV/Å]"])
            np.testing.assert_array_equal(atoms.positions, row["positions [Å]"])
            assert atoms.get_chemical_symbols() == row["symbols"]
            # ASE's unit, whatever the property's.
            assert atoms.get_potential_energy() == row["energy [eV]"]
            assert row["energy [eV]"] == row["U0 [eV]"]
            assert row["warning"].startswith("forces of a model trained on energies alone")
        else:
            assert atoms.info["reason"] == row["reason"]
    assert frames[4].pbc.all()


def test_smiles_are_predicted_with_what_was_done_to_them(finished, tmp_path, capsys):
    """Names, geometry and spreads; a bad SMILES is a row; an unusual molecule has a warning."""
    (tmp_path / "list.smi").write_text("CCO ethyl alcohol\n\nnonsense\n")
    out = tmp_path / "out.csv"
    inputs = [str(tmp_path / "list.smi"), "smiles:" + "C" * 30]
    options = Options(rolls=2, conformers=2)
    assert predict.run([finished, finished], inputs, out, options) == 1
    header, ethanol, bad, long = rows_of(out)
    spread, over = "U0 spread over 2 models x 2 rolls [meV]", "U0 spread over conformers [meV]"
    texts = ["smiles", "geometry", "warning", "reason"]
    assert header == ["structure", "U0 [meV]", spread, over, *texts]
    assert ethanol[0] == "ethyl alcohol"
    assert ethanol[4:6] == ["CCO", "RDKit ETKDGv3, relaxed with MMFF94, the lowest of 2"]
    assert float(ethanol[2]) > 0
    reason = "'nonsense' is no SMILES that RDKit can read"
    assert bad[1:] == ["", "", "", "nonsense", "", "", reason]
    assert long[4] == "C" * 30
    assert capsys.readouterr().err.count("learned from other positions than those that RDKit") == 2
    assert "92 atoms (trained on" in long[6]


@pytest.mark.parametrize("output", [None, "out.csv", "out.extxyz"])
def test_a_table_of_relaxed_structures_says_that_it_has_no_positions(tmp_path, capsys, output):
    file = output and tmp_path / output
    with pytest.raises(CheckpointError):
        predict.run([tmp_path / "none"], ["smiles:C"], file, Options(relax=True))
    said = "relaxed positions are written to" in capsys.readouterr().err
    assert said == (output != "out.extxyz")


def test_structures_are_relaxed_first_where_that_is_asked(finished, inputs, tmp_path, capsys):
    out = tmp_path / "out.extxyz"
    options = Options(relax=True, forces=True, fmax=0.01, relax_steps=3)
    predict.run([finished], [str(inputs / "good.xyz")], out, options)
    before, predictor = ase.io.read(inputs / "good.xyz", index=":"), Predictor.load(finished)
    for was, atoms in zip(before, ase.io.read(out, index=":"), strict=True):
        assert atoms.info["geometry"] in (
            "NOT yet relaxed after 3 steps of FIRE",
            *(f"relaxed after {k} step{'s' * (k != 1)} of FIRE" for k in range(4)),
        )
        moved = np.abs(was.positions - atoms.positions).max()
        assert 0 <= moved < 0.7
        (value,) = predictor(Structures.pack([structure_of(atoms)]))["U0"]
        assert atoms.info["predicted_U0"] == pytest.approx(value / 1000, rel=1e-5)
    moving = sum("NOT yet" in atoms.info["geometry"] for atoms in ase.io.read(out, index=":"))
    assert (f", {moving} NOT yet relaxed" in capsys.readouterr().out) == (moving > 0)


def test_a_loaded_predictor_is_that_of_the_report(finished, config):
    ids, _, given = predictions(finished / "report", "test")
    molecules = qm9.load(config["data"]["cache"]).structures
    taken = molecules.take(np.searchsorted(molecules.ids, ids[:20]))
    found = Predictor.load(finished)(taken)["U0"]
    np.testing.assert_allclose(found, given[:20], rtol=1e-7)


def test_every_input_leaves_a_row_and_spoils_no_other(finished, tmp_path, capsys):
    """On the standard output, without a file for it."""
    (tmp_path / "empty.xyz").write_text("")
    named = ["smiles:O", "nowhere.xyz", str(tmp_path / "empty.xyz"), "smiles:CC"]
    assert predict.run([finished], named, None) == 2
    printed = capsys.readouterr()
    _, *rows = csv.reader(printed.out.splitlines())
    assert [bool(row[-1]) for row in rows] == [False, True, True, False]
    assert printed.err.splitlines()[-1].startswith("2 predictions of U0")
    assert printed.err.splitlines()[-1].endswith("; no prediction for 2, each with its reason")


def test_units_are_those_that_are_asked_for(finished, inputs, tmp_path):
    """Held against ASE's units; with the digits of the model's error."""
    name = str(inputs / "good.xyz")
    predict.run([finished], [name], tmp_path / "own.json")
    before = json.loads((tmp_path / "own.json").read_text())
    curve = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
    lowest = min(row["validation_mae"] for row in curve if "validation_mae" in row)
    units = {"eV": 1.0, "Ha": ase.units.Ha, "kcal/mol": ase.units.kcal / ase.units.mol}
    for unit, ev in units.items():
        predict.run([finished], [name], tmp_path / "out.csv", Options(unit=unit))
        header, *rows = rows_of(tmp_path / "out.csv")
        assert header[1] == f"U0 [{unit}]"
        error = lowest / 1000 / ev
        for row, own in zip(rows, before, strict=True):
            assert float(row[1]) == pytest.approx(own["U0 [meV]"] / 1000 / ev, rel=1e-5)
            digits = len(row[1].partition(".")[2])
            assert digits == max(0, 3 - int(np.floor(np.log10(error))))
            assert own["energy [eV]"] == pytest.approx(own["U0 [meV]"] / 1000, rel=1e-5)


def test_what_files_say_goes_with_predictions(finished, inputs, tmp_path):
    """Comments, and folders where names are the same."""
    comment = 'to be or "not" to be'
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.xyz").write_text(f"2\n{comment}\nH 0 0 0\nF 0 0 0.9\n" * 2)
    files = [str(tmp_path / folder / "one.xyz") for folder in ("a", "b")]
    predict.run([finished], [*files, "smiles:O"], tmp_path / "out.csv")
    header, *rows = rows_of(tmp_path / "out.csv")
    assert header[2] == "comment"
    assert [row[2] for row in rows] == [comment] * 4 + [""]
    assert [row[0] for row in rows][:4] == [f"{f}, structure {k}" for f in files for k in (1, 2)]
    predict.run([finished], files[:1], tmp_path / "out.extxyz")
    atoms = ase.io.read(tmp_path / "out.extxyz", index=0)
    assert atoms.info["comment"] == comment
    assert atoms.info["name"] == "one.xyz, structure 1"


def test_what_cannot_be_done_is_said(finished, inputs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--forces needs --output"):
        predict.run([finished], [], tmp_path / "out.csv", Options(forces=True))
    with pytest.raises(ValueError, match=r"^rolls must be positive, not 0"):
        Options(rolls=0)
    with pytest.raises(PredictorError, match="need one run that predicts an energy; 2 of these do"):
        predict.run([finished] * 2, [], tmp_path / "out.json", Options(forces=True))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        predict.run([tmp_path / "typo"], ["nowhere.xyz"], tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())
    own = tmp_path / "own.extxyz"
    own.write_text("1\n\nH 0 0 0\n")
    with pytest.raises(ValueError, match="is an input, which it would replace"):
        predict.run([finished], [str(own)], own)
    with pytest.raises(ValueError, match="is a folder: name a file"):
        program.refuse_unwritable("output", tmp_path)
    monkeypatch.setattr("os.access", lambda path, how: False)
    with pytest.raises(ValueError, match="its folder cannot be written"):
        program.refuse_unwritable("output", own)
