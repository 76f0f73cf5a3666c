"""The package's files are read whole, or an error says which of them is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from qm9_source import molecules, write_source

from hdgnn_jax.data.qm9pack import PARTS, POLARIZABILITIES, QM9Error, package_folder, parse
from hdgnn_jax.data.targets import TARGETS


def change(**changes):
    return lambda rows: rows[1].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.reverse(), "not in order"),
        (change(symbols=["Xx", "H", "H", "H"]), "'Xx' is not a chemical element"),
        (change(charges=[0.5]), "QM9 molecule 4 lacks a number"),
        (change(positions=[[0.0] * 3] * 3), "QM9 molecule 4 lacks a number"),
        (change(frequencies=["?"]), "not as qm9pack ships it"),
        (change(U0="?"), "not as qm9pack ships it"),
    ],
)
def test_a_spoiled_source_is_refused(tmp_path, spoil, message):
    rows = molecules()
    spoil(rows)
    with pytest.raises(QM9Error, match=message):
        parse(write_source(tmp_path / "source", rows))


@pytest.mark.parametrize(
    ("names", "message"),
    [(PARTS, PARTS[0]), ([POLARIZABILITIES], POLARIZABILITIES), (PARTS[2:], "not in order")],
)
def test_a_source_without_one_of_its_files_is_refused(tmp_path, names, message):
    source = write_source(tmp_path / "source", molecules())
    for name in names:
        (source / name).unlink()
    with pytest.raises(QM9Error, match=message):
        parse(source)


def test_all_of_the_real_package_is_read():
    table = parse(package_folder())
    assert len(table["index"]) == 130_831
    assert (table["index"][0], table["index"][-1]) == (1, 133_885)
    assert (np.diff(table["offsets"]).max(), len(table["positions"])) == (29, 2_359_210)
    methane = table["positions"][:5]
    assert methane[0].tolist() == [-0.0126981359, 1.0858041578, 0.0080009958]
    assert table["U0"][0] == -40.47893
    assert table["gap"][[0, 1]].tolist() == [0.5048, 0.3399]
    numbers = [table["positions"], *(table[name] for name in TARGETS)]
    assert all(np.isfinite(values).all() for values in numbers)
