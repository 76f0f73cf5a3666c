"""QM9 comes out of its cache exactly as it went in, or an error says which file is wrong."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest
from damage import KINDS, damage
from molecules import random_molecules
from qm9_source import SYMBOLS, molecules, write_source

from hdgnn_jax.data import qm9, splits
from hdgnn_jax.data.qm9 import PACKED, TENSORS, QM9Error
from hdgnn_jax.data.targets import TARGETS, Target
from hdgnn_jax.graphs.structure import ATOMIC_NUMBERS

ROWS = np.arange(len(SYMBOLS))
SPLIT = splits.Split(ROWS[:3], ROWS[3:4], ROWS[4:])


@pytest.fixture
def source(tmp_path):
    rows = molecules()
    return write_source(tmp_path / "source", rows), rows


@pytest.fixture
def cache(source, tmp_path):
    """A built cache, and the rows it was built from."""
    qm9.build(source[0], tmp_path / "cache" / "qm9", expected=len(SYMBOLS))
    return tmp_path / "cache", source[1]


@pytest.fixture
def of_source(source, monkeypatch):
    """As if the package held these molecules."""
    monkeypatch.setattr(qm9, "package_folder", lambda: source[0])
    monkeypatch.setattr(splits, "N_MOLECULES", len(SYMBOLS))


@pytest.fixture
def small_split(monkeypatch):
    monkeypatch.setattr(splits, "split", lambda name: SPLIT)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_packed_arrays_are_the_source_to_the_bit(cache):
    data = qm9.load(cache[0])
    assert data.structures.ids.tolist() == [row["index"] for row in cache[1]]
    for k, row in enumerate(cache[1]):
        np.testing.assert_array_equal(data.structures[k].positions, row["positions"])
        z = [ATOMIC_NUMBERS[symbol] for symbol in row["symbols"]]
        assert data.structures[k].atomic_numbers.tolist() == z
    assert data.labels.keys() == TARGETS.keys()
    for name, values in data.labels.items():
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, [row[name] for row in cache[1]])
    assert data.structures.name(1) == "QM9 molecule 4"


def test_a_new_target_needs_no_new_cache(cache, monkeypatch):
    """As CONTRIBUTING.md has it: a line in the table of targets."""
    new = {**TARGETS, "A": Target("A", "GHz", 1.0, "none", None)}
    monkeypatch.setattr(qm9, "TARGETS", new)
    found = qm9.load(cache[0]).labels["A"]
    np.testing.assert_array_equal(found, [row["A"] for row in cache[1]])


def test_a_cache_is_built_once(cache, monkeypatch):
    monkeypatch.setattr(qm9, "build", None)
    monkeypatch.setenv("HDGNN_CACHE", str(cache[0]))
    assert len(qm9.load()) == len(qm9.load(cache[0])) == len(SYMBOLS)


@pytest.mark.usefixtures("of_source")
@pytest.mark.parametrize("file", [PACKED, f"{PACKED}.sha256"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_cache_is_named_and_left_alone_and_made_anew_as_it_says(cache, file, kind):
    whole = files_of(cache[0])
    damage(cache[0] / "qm9" / file, kind)
    before = files_of(cache[0])
    message = rf"qm9.{PACKED} .*: delete it and run again: it is made anew"
    with pytest.raises(QM9Error, match=message):
        qm9.read(cache[0] / "qm9")
    assert files_of(cache[0]) == before
    if kind != "remove":
        with pytest.raises(QM9Error, match=message):
            qm9.load(cache[0])
        assert files_of(cache[0]) == before
        (cache[0] / "qm9" / PACKED).unlink()
    # What has no digest, or is none, was never finished.
    qm9.load(cache[0])
    assert files_of(cache[0]) == whole


@pytest.mark.usefixtures("of_source")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, error):
    def interrupted(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(error):
            qm9.load(tmp_path / "cache")
    assert list((tmp_path / "cache" / "qm9").iterdir()) == []
    assert len(qm9.load(tmp_path / "cache")) == len(SYMBOLS)


def test_of_two_builds_at_once_both_succeed(source, tmp_path, monkeypatch):
    folder, save = tmp_path / "cache" / "qm9", np.savez

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(np, "savez", save)
        qm9.build(source[0], folder, expected=len(SYMBOLS))
        made.update(files_of(folder))
        save(*args, **kwargs)

    made = {}
    monkeypatch.setattr(np, "savez", overtaken)
    qm9.build(source[0], folder, expected=len(SYMBOLS))
    # Whoever reads in between has the same bits.
    assert files_of(folder) == made
    assert {path.name for path in made} == {PACKED, f"{PACKED}.sha256"}
    assert len(qm9.read(folder)) == len(SYMBOLS)


@pytest.mark.usefixtures("of_source")
def test_what_an_earlier_version_wrote_is_left_alone(tmp_path):
    old = tmp_path / "cache" / "qm9"
    old.mkdir(parents=True)
    for name in ("packed.npz", "packed.sha256", "polarizability.npy"):
        (old / name).write_bytes(b"of another layout")
    before = files_of(old)
    assert len(qm9.load(tmp_path / "cache")) == len(SYMBOLS)
    assert files_of(old).items() > before.items()


@pytest.mark.parametrize("missing", ["qm9pack", "pyarrow"])
def test_a_missing_package_is_named_and_nothing_written(tmp_path, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(QM9Error, match=rf"{missing} is not installed: pip install .*\[qm9\]"):
        qm9.load(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_another_number_of_molecules_is_refused(source, tmp_path):
    with pytest.raises(QM9Error, match="holds 5 molecules instead of 6"):
        qm9.build(source[0], tmp_path / "cache" / "qm9", expected=6)
    assert not (tmp_path / "cache").exists()


def test_tensors_of_other_molecules_are_refused(source, cache, monkeypatch):
    structures = qm9.load(cache[0]).structures
    monkeypatch.setattr(qm9, "package_folder", lambda: source[0])
    turned = np.random.default_rng(0).normal(size=(len(SYMBOLS), 3, 3))
    monkeypatch.setattr(qm9.polarizability, "in_frame_of_positions", lambda *_: (turned, None))
    for _ in range(2):
        np.testing.assert_array_equal(qm9.load_polarizability(structures, cache[0]), turned)
    with pytest.raises(QM9Error, match=rf"{TENSORS} is of other molecules: delete it and run"):
        qm9.load_polarizability(random_molecules(6, 0), cache[0])


@pytest.mark.usefixtures("small_split")
def test_a_data_set_reads_its_files_once_and_keeps_no_other(cache, tmp_path, monkeypatch):
    """Two of them at once, on other caches, each have their own."""
    shutil.copytree(cache[0], tmp_path / "copy")
    loaded, load = [], qm9.load
    monkeypatch.setattr(qm9, "load", lambda cache: loaded.append(cache) or load(cache))
    one, other = (qm9.QM9("standard", cache=str(path)) for path in (cache[0], tmp_path / "copy"))
    for name, size in (("train", 3), ("validation", 1), ("test", 1)):
        for data in (one, other):
            found = data.part(name, "U0")
            assert found.labels.keys() == {"U0"}
            assert len(found) == size
            expected = [cache[1][k]["U0"] for k in getattr(SPLIT, name)]
            np.testing.assert_array_equal(found.labels["U0"], expected)
    assert loaded == [str(cache[0]), str(tmp_path / "copy")]


@pytest.mark.usefixtures("small_split")
def test_molecules_whose_tensor_cannot_be_told_are_in_no_part(cache, monkeypatch):
    tensors = np.random.default_rng(0).normal(size=(len(SYMBOLS), 3, 3))
    tensors[1] = np.nan
    monkeypatch.setattr(qm9, "load_polarizability", lambda structures, cache: tensors)
    data = qm9.QM9("standard", cache=str(cache[0]))
    found = data.part("train", "polarizability")
    assert found.structures.ids.tolist() == [1, 7]
    np.testing.assert_array_equal(found.labels["polarizability"], tensors[[0, 2]])
    assert qm9.QM9("standard", 1, cache=str(cache[0])).part("train", "U0").structures.ids == [1]
