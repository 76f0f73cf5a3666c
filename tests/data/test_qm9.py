"""QM9 comes out of the package exactly as it went in, or an error says which file is wrong."""

from __future__ import annotations

import csv
import importlib.util
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from damage import KINDS, damage

from hdgnn_jax.data import qm9
from hdgnn_jax.data.targets import TARGETS

SYMBOLS = ["CHHHH", "NHHH", "OHH", "HCN", "CCO"]
# The names of the TFDS catalogue's qm9, without the two we cannot have, with the one we add.
FEATURES = {
    "A", "B", "C", "Cv", "G", "G_atomization", "H", "H_atomization", "InChI", "Mulliken_charges",
    "SMILES", "U", "U0", "U0_atomization", "U_atomization", "alpha", "charges", "frequencies",
    "gap", "homo", "index", "lumo", "mu", "num_atoms", "positions", "r2", "tag", "zpve",
    "polarizability",
}  # fmt: skip


def molecules() -> list[dict]:
    """Rows with digits that float32 does not hold."""
    rng = np.random.default_rng(0)
    return [
        {
            "index": 3 * k + 1,
            "symbols": list(symbols),
            "positions": rng.normal(size=(len(symbols), 3)).tolist(),
            "charges": rng.normal(size=len(symbols)).tolist(),
            "frequencies": rng.uniform(100, 4000, 3 * len(symbols) - 6).tolist(),
            "tensor": rng.normal(size=6).tolist(),
            **dict(zip(qm9.COLUMNS, rng.normal(size=len(qm9.COLUMNS)).tolist(), strict=True)),
        }
        for k, symbols in enumerate(SYMBOLS)
    ]


def write_source(folder, rows, borders=(0, 2, 4, 5)):
    """CSV files like the package's, numbers such as `0.` included."""
    folder.mkdir()

    def text(values) -> str:
        return json.dumps(values).replace(" ", "").replace(".0]", ".]")

    def save(name, table):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0], quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(table)

    parts = [
        {
            "XYZ_file": f"dsgdb9nsd_{row['index']:06}.xyz",
            "Index": row["index"],
            "SMILES": "".join(row["symbols"]),
            "InChi": f"InChI={row['index']}",
            "Elements": str(row["symbols"]).replace(" ", ""),
            "XYZ_Ang": text(row["positions"]),
            "Mulliken_pop": text(row["charges"]),
            "Harmonic_Freq_cmi": text(row["frequencies"]),
            **{column: row[name] for name, column in qm9.COLUMNS.items()},
        }
        for row in rows
    ]
    for name, start, stop in zip(qm9.PARTS, borders, borders[1:], strict=False):
        if parts[start:stop]:
            save(name, parts[start:stop])
    tensor = ("A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz")
    save(
        qm9.TENSORS,
        [
            {"XYZ_file": part["XYZ_file"], **dict(zip(tensor, row["tensor"], strict=True))}
            for part, row in zip(parts, rows, strict=True)
        ],
    )
    return folder


@pytest.fixture
def source(tmp_path):
    rows = molecules()
    rows[0]["positions"][-1][-1] = 3.0  # written `3.`
    return write_source(tmp_path / "source", rows), rows


@pytest.fixture
def cache(source, tmp_path):
    """A built cache, and the rows it was built from."""
    qm9.build(source[0], tmp_path / "cache" / "qm9", expected=len(SYMBOLS))
    return tmp_path / "cache", source[1]


def test_packed_arrays_are_the_source_to_the_bit(cache):
    data = qm9.load(cache[0])
    assert data.structures.ids.tolist() == [row["index"] for row in cache[1]]
    for k, row in enumerate(cache[1]):
        np.testing.assert_array_equal(data.structures[k].positions, row["positions"])
        z = [qm9.ATOMIC_NUMBERS[symbol] for symbol in row["symbols"]]
        assert data.structures[k].atomic_numbers.tolist() == z
    assert data.targets.keys() == TARGETS.keys()
    for name, values in data.targets.items():
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, [row[name] for row in cache[1]])
    assert data.structures.name(1) == "QM9 molecule 4"


def test_the_data_set_has_the_names_and_raw_numbers_of_the_catalogue(source, cache):
    whole = cache[0] / "qm9" / "qm9"
    qm9.write_tfds(source[0], whole)
    (folder,) = whole.iterdir()
    examples = tfds.builder_from_directory(folder).as_data_source(split="train")
    assert len(examples) == len(SYMBOLS)
    for example, row in zip(examples, cache[1], strict=True):
        assert example.keys() == FEATURES
        n = len(row["symbols"])
        assert (example["index"], example["num_atoms"]) == (row["index"], n)
        expected = {
            "positions": row["positions"],
            "Mulliken_charges": row["charges"],
            "charges": [qm9.ATOMIC_NUMBERS[symbol] for symbol in row["symbols"]],
        }
        for name, values in expected.items():
            assert len(example[name]) == qm9.MAX_ATOMS
            np.testing.assert_array_equal(example[name][:n], values)
            assert not example[name][n:].any()
        xx, xy, yy, xz, yz, zz = row["tensor"]
        np.testing.assert_array_equal(
            example["polarizability"], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        )
        np.testing.assert_array_equal(example["frequencies"], row["frequencies"])
        for name in qm9.COLUMNS:
            assert example[name] == row[name]
        for name in ("U0", "U", "H", "G"):
            atoms = TARGETS[name].atom_energies
            left = row[name] - sum(atoms[z] for z in expected["charges"])
            np.testing.assert_allclose(example[f"{name}_atomization"], left, rtol=1e-15)


def test_a_cache_is_built_once(cache, monkeypatch):
    monkeypatch.setattr(qm9, "build", None)
    monkeypatch.setenv("HDGNN_CACHE", str(cache[0]))
    assert len(qm9.load().structures) == len(qm9.load(cache[0]).structures) == len(SYMBOLS)


@pytest.mark.parametrize("file", ["packed.npz", "packed.sha256"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_cache_is_named_and_left_alone(cache, file, kind):
    path = cache[0] / "qm9" / file
    damage(path, kind)
    before = sorted((cache[0] / "qm9").rglob("*"))
    with pytest.raises(qm9.QM9Error, match=r"qm9.packed.npz .*: delete the folder .*qm9 and run"):
        qm9.load(cache[0])
    assert sorted((cache[0] / "qm9").rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_nothing(source, tmp_path, monkeypatch, error):
    def interrupted(*args, **kwargs):
        raise error

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(error):
        qm9.build(source[0], tmp_path / "cache" / "qm9", expected=len(SYMBOLS))
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_builds_at_once_the_first_wins_and_both_succeed(source, tmp_path, monkeypatch):
    folder, save = tmp_path / "cache" / "qm9", np.savez

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(np, "savez", save)
        qm9.build(source[0], folder, expected=len(SYMBOLS))
        (folder / "first").touch()
        save(*args, **kwargs)

    monkeypatch.setattr(np, "savez", overtaken)
    qm9.build(source[0], folder, expected=len(SYMBOLS))
    assert (folder / "first").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["qm9"]
    assert len(qm9.read(folder).structures) == len(SYMBOLS)


@pytest.mark.parametrize("missing", ["qm9pack", "pyarrow"])
def test_a_missing_package_is_named_and_nothing_written(tmp_path, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(qm9.QM9Error, match=rf"{missing} is not installed: pip install .*\[qm9\]"):
        qm9.load(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_number_of_molecules_is_refused(source, tmp_path):
    with pytest.raises(qm9.QM9Error, match="holds 5 molecules instead of 6"):
        qm9.build(source[0], tmp_path / "cache" / "qm9", expected=6)
    assert list((tmp_path / "cache").iterdir()) == []


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
    with pytest.raises(qm9.QM9Error, match=message):
        qm9.parse(write_source(tmp_path / "source", rows))


@pytest.mark.parametrize(
    ("names", "message"),
    [(qm9.PARTS, qm9.PARTS[0]), ([qm9.TENSORS], qm9.TENSORS), (qm9.PARTS[2:], "not in order")],
)
def test_a_source_without_one_of_its_files_is_refused(source, names, message):
    for name in names:
        (source[0] / name).unlink()
    with pytest.raises(qm9.QM9Error, match=message):
        qm9.parse(source[0])


def test_all_of_the_real_package_is_read():
    table = qm9.parse(qm9.package_folder())
    assert len(table["index"]) == 130_831
    assert (table["index"][0], table["index"][-1]) == (1, 133_885)
    assert (np.diff(table["offsets"]).max(), len(table["positions"])) == (29, 2_359_210)
    methane = table["positions"][:5]
    assert methane[0].tolist() == [-0.0126981359, 1.0858041578, 0.0080009958]
    assert table["U0"][0] == -40.47893
    assert table["gap"][[0, 1]].tolist() == [0.5048, 0.3399]
    numbers = [table["positions"], *(table[name] for name in TARGETS)]
    assert all(np.isfinite(values).all() for values in numbers)
