"""What we wrote ourselves, damaged: the same whole, or the documented error with its remedy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fuzz import damaged, law
from hypothesis import given
from hypothesis import strategies as st
from oc20_records import make_records

from hdgnn_jax.data import is2re, is2re_build, oc20_lmdb, qm9
from hdgnn_jax.data.cache import digest_file, write_with_digest
from hdgnn_jax.data.oc20_lmdb import Is2reError
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.training.metrics import MetricWriter, _line, read_metrics

pytestmark = pytest.mark.slow

# ---- Caches. Documented: QM9Error and Is2reError, which name the file and the remedy.


def test_a_damaged_cache_of_qm9_is_the_same_or_refused(tmp_path, tried):
    folder = tmp_path / "qm9"
    rng = np.random.default_rng(0)
    arrays = {
        "offsets": np.array([0, 2, 5]), "atomic_numbers": np.array([1, 1, 8, 1, 1], np.int32),
        "positions": rng.normal(size=(5, 3)), "ids": np.array([1, 2]),
        **{name: rng.normal(size=2) for name in TARGETS},
    }  # fmt: skip
    packed = folder / qm9.PACKED
    write_with_digest(packed, lambda path: np.savez(path, **arrays))
    originals = {path: path.read_bytes() for path in (packed, digest_file(packed))}

    @law(150)
    @given(st.data())
    def check(data):
        tried["damaged caches"] += 1
        for path, content in originals.items():
            path.write_bytes(content)
        path = data.draw(st.sampled_from([*originals]))
        spoiled, _ = data.draw(damaged(originals[path]))
        if data.draw(st.integers(0, 9)):
            path.write_bytes(spoiled)
        else:
            path.unlink()
        try:
            found = qm9.read(folder)
        except qm9.QM9Error as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(found.structures.positions, arrays["positions"])
            np.testing.assert_array_equal(found.structures.ids, arrays["ids"])
            assert found.labels.keys() == TARGETS.keys()
            assert all((found.labels[name] == arrays[name]).all() for name in TARGETS)
            return
        assert said.startswith(str(packed))
        assert "delete it and run again: it is made anew" in said

    check()


def test_damaged_polarizabilities_are_refused_and_missing_ones_made_again(
    tmp_path, tried, monkeypatch
):
    structures = Structures.pack([Structure(np.array([1]), np.zeros((1, 3)))] * 3)
    tensors = np.random.default_rng(0).normal(size=(3, 3, 3))
    monkeypatch.setattr(qm9, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(qm9, "read_csv", lambda path: None)
    monkeypatch.setattr(qm9, "parse_tensors", lambda table: None)
    monkeypatch.setattr(qm9.polarizability, "in_frame_of_positions", lambda *_: (tensors, None))
    np.testing.assert_array_equal(qm9.load_polarizability(structures, tmp_path), tensors)
    path = tmp_path / "qm9" / qm9.TENSORS
    files = {file: file.read_bytes() for file in (path, digest_file(path))}
    for file in files:
        file.unlink()
        np.testing.assert_array_equal(qm9.load_polarizability(structures, tmp_path), tensors)
        assert {name: name.read_bytes() for name in files} == files

    @law(80)
    @given(st.sampled_from([*files]).flatmap(lambda f: st.tuples(st.just(f), damaged(files[f]))))
    def check(case):
        tried["damaged caches"] += 1
        file, (spoiled, _) = case
        for name, content in files.items():
            name.write_bytes(content)
        file.write_bytes(spoiled)
        try:
            found = qm9.load_polarizability(structures, tmp_path)
        except qm9.QM9Error as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(found, tensors)
            return
        assert f"{path} is damaged" in said
        assert "delete it and run again: it is made anew" in said

    check()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of ten records in three files."""
    monkeypatch.setattr(is2re_build, "SHARD", 4)
    (tmp_path / "source" / "train").mkdir(parents=True)
    several = [
        record if k % 3 else record._replace(y_relaxed=None)
        for k, record in enumerate(make_records(10))
    ]
    oc20_lmdb.write_lmdb(tmp_path / "source" / "train" / "data.lmdb", several)
    is2re_build.build(tmp_path / "source", tmp_path / "cache")
    return tmp_path / "cache"


def test_a_damaged_cache_of_is2re_is_the_same_or_refused(folder, tried):
    expected = is2re.read(folder, "train")
    files = [folder / "manifest.json", *sorted(folder.glob("*.npz"))]
    originals = {file: file.read_bytes() for file in files}

    @law(400)
    @given(st.data())
    def check(data):
        tried["damaged caches"] += 1
        # The manifest has no digest of its own: half of the cases are its.
        file = files[0] if data.draw(st.booleans()) else data.draw(st.sampled_from(files[1:]))
        content, _ = data.draw(damaged(originals[file], most=2))
        if data.draw(st.integers(0, 9)):
            file.write_bytes(content)
        else:
            file.unlink()
        try:
            found = is2re.read(folder, "train")
        except Is2reError as error:
            said = str(error)
        else:
            for name, value in vars(expected.structures).items():
                np.testing.assert_array_equal(getattr(found.structures, name), value, name)
            assert found.labels.keys() == expected.labels.keys()
            for name, value in expected.labels.items():
                np.testing.assert_array_equal(found.labels[name], value, name)
            return
        finally:
            file.write_bytes(originals[file])
        assert str(folder) in said
        assert "build" in said or "has no part 'train', but " in said

    check()


def test_a_shard_whose_name_is_damaged_is_missed(folder, tried):
    """One bit of a name's ending, and its records would silently be left out."""
    manifest = folder / "manifest.json"
    whole = manifest.read_text()
    for old, new in ((".npz", ".np{"), ("00001-of-00003.npz", "00001-of-00003.npx"),
                     ('"files"', '"filez"'), ('"records": 10', '"records": 11'),
                     ('"records": 10', '"records": "10"'), ('"parts"', '"part{"')):  # fmt: skip
        manifest.write_text(whole.replace(old, new, 1))
        with pytest.raises(Is2reError, match=r"manifest.json (is damaged|cannot be read): .*build"):
            is2re.read(folder, "train")
        tried["damaged caches"] += 1
    for text in ("[]", "null", '{"parts": []}', '{"parts": {"train": 1}}', "[" * 100_000):
        manifest.write_text(text)
        with pytest.raises(Is2reError, match=r"manifest.json cannot be read: .*build"):
            is2re.read(folder, "train")
        tried["damaged caches"] += 1


# ---- The curve of a run. Documented: FileNotFoundError, and ValueError naming the line.


def test_damaged_metrics_lose_no_row_in_silence(tmp_path, tried):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 9):
            writer.write(step, {"train_loss": 1 / step, "lr": math.nan if step == 4 else 1e-3})
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    rows = read_metrics(tmp_path)

    @law(400)
    @given(damaged(content))
    def check(case):
        tried["damaged curves"] += 1
        spoiled, first = case
        path.write_bytes(spoiled)
        try:
            found = read_metrics(tmp_path)
        except ValueError as error:
            said = str(error)
        else:
            whole = content[:first].count(b"\n")
            assert len(found) == spoiled.count(b"\n")
            assert repr(found[:whole]) == repr(rows[:whole])
            for row in found:
                assert type(row.pop("step")) is int
                assert all(type(value) is float for value in row.values())
            return
        assert said.startswith(f"{path}, line ")
        assert "is not a row of metrics" in said
        assert "\n" not in said

    check()


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": null}', b'{"step": "1"}', b'{"step": 1.5}', b'{"step": true}',
        b'{"step": 1, "x": "2"}', b'{"step": 1, "x": []}',
        b'{"step": 1, "x": 1' + b"0" * 400 + b"}",
        b"\xff", b'{"step": 1}\x0b{"step": 2}', b"[" * 100_000, b'"step"', b"1",
    ],
)  # fmt: skip
def test_a_line_of_other_things_is_named(tmp_path, tried, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not a row of metrics"):
        read_metrics(tmp_path)
    tried["damaged curves"] += 1


def test_what_was_written_is_read_back(tmp_path, tried):
    numbers = st.floats(allow_nan=True, allow_infinity=True)

    @law(40)
    @given(st.lists(st.dictionaries(st.sampled_from("abcd"), numbers, max_size=3), max_size=5))
    def check(values):
        tried["files written and read back"] += 1
        lines = [{"step": k, **of_step} for k, of_step in enumerate(values)]
        (tmp_path / "metrics.jsonl").write_text("".join(map(_line, lines)))
        expected = [
            {k: v if k == "step" or math.isfinite(v) else math.nan for k, v in row.items()}
            for row in lines
        ]
        assert repr(read_metrics(tmp_path)) == repr(expected)

    check()
