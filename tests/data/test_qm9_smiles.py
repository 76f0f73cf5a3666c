"""QM9 in positions from SMILES: RDKit's positions, QM9's labels and parts."""

from __future__ import annotations

import numpy as np
import pytest
from qm9_source import SYMBOLS, molecules, write_source

from experiments import prepare
from hdgnn_jax.data import processes, qm9, qm9_smiles, splits
from hdgnn_jax.data.qm9pack import QM9Error
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.errors import InputError

SMILES = {1: "C", 4: "N", 7: "O", 10: "C#N", 13: "CCO"}
"""By index; ethanol is not QM9's molecule of that index in `qm9_source`, which has no hydrogen."""
ROWS = np.arange(len(SYMBOLS))
SPLIT = splits.Split(ROWS[:3], ROWS[3:4], ROWS[4:])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of five molecules, in files of two."""
    qm9.build(write_source(tmp_path / "source", molecules()), tmp_path / "qm9", len(SYMBOLS))
    monkeypatch.setattr(qm9_smiles, "PART", 2)
    monkeypatch.setattr(splits, "split", lambda name: SPLIT)
    monkeypatch.setattr(processes, "map_in_processes", in_this_process)
    return tmp_path


def in_this_process(function, *columns, processes):
    yield from map(function, *columns)


def build(cache):
    return qm9_smiles.build(qm9.load(cache).structures, SMILES, cache, processes=1)


def test_molecules_are_those_of_their_smiles_with_qm9s_labels(cache):
    with pytest.raises(QM9Error, match=r"experiments\.prepare smiles` makes the positions"):
        qm9.QM9("standard", cache=str(cache), positions="smiles").part("train", "U0")
    made = build(cache)
    assert made.ids.tolist() == [1, 4, 7, 10]
    for k, index in enumerate(made.ids.tolist()):
        np.testing.assert_array_equal(made[k].positions, conformers(SMILES[index])[0][0].positions)
    own, remade = (qm9.QM9("standard", cache=str(cache), positions=p) for p in (None, "smiles"))
    assert own.digest() != remade.digest()
    assert own.summary("U0") == []
    assert remade.summary("U0") == [
        "1 of QM9's molecules have no positions from SMILES and are in no part"
    ]
    for part, ids in (("train", [1, 4, 7]), ("validation", [10]), ("test", [])):
        found, published = remade.part(part, "U0"), own.part(part, "U0")
        assert found.structures.ids.tolist() == ids
        np.testing.assert_array_equal(found.labels["U0"], published.labels["U0"][: len(ids)])
        for k, index in enumerate(ids):
            place = made.ids.tolist().index(index)
            np.testing.assert_array_equal(found.structures[k].positions, made[place].positions)


def test_an_interrupted_build_goes_on(cache, monkeypatch):
    asked = []

    def interrupted(function, *columns, processes):
        asked.append(len(columns[0]))
        first = (column[:3] for column in columns)
        yield from in_this_process(function, *first, processes=processes)
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(processes, "map_in_processes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(cache)
    for _ in range(2):
        build(cache)
    assert asked == [5, 3]
    files = {path.name for path in (cache / "qm9").iterdir()}
    assert files == {name + end for name in (qm9.PACKED, qm9_smiles.PACKED)
                     for end in ("", ".sha256")}  # fmt: skip


def test_a_damaged_file_says_what_to_do(cache):
    build(cache)
    (cache / "qm9" / qm9_smiles.PACKED).write_bytes(b"")
    with pytest.raises(QM9Error, match=r"has changed.: delete it and run `python -m .* smiles`"):
        qm9_smiles.load(cache)


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"data\.positions must be smiles, not 'rdkit'"):
        qm9.QM9("standard", positions="rdkit")
    with pytest.raises(InputError, match=r"polarizability needs config\.data\.positions=None"):
        qm9.QM9("standard", positions="smiles").chosen(["polarizability"])
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .hdgnn_jax\[rdkit,qm9\]"):
        prepare.of_smiles(tmp_path, 1)
