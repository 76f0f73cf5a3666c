"""OC20 records come out of the cache exactly as they went in, or an error says which is wrong."""

from __future__ import annotations

import contextlib
import json
import pathlib
import pickle
import shutil
import sys

import lmdb
import numpy as np
import pytest
import tensorflow_datasets as tfds
from damage import KINDS, damage

from hdgnn_jax.data import is2re, is2re_build, oc20_lmdb, torch_pickle
from hdgnn_jax.data.oc20_lmdb import BadRecord, Is2reError, Record

TARGETS = ("positions_relaxed", "y_init", "y_relaxed")


def single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def make_records(count: int, seed: int = 0, targets: bool = True) -> list[Record]:
    rng = np.random.default_rng(seed)
    records = []
    for k in range(count):
        n = int(rng.integers(1, 9))
        positions = single(rng.uniform(0, 7, (n, 3)))
        record = Record(
            sid=1000 * seed + 7 * k,
            atomic_numbers=rng.integers(1, 119, n).astype(np.int32),
            positions=positions,
            cell=single(np.diag([7.0, 8.0, 20.0]) + rng.normal(size=(3, 3)) / 9),
            tags=rng.integers(0, 3, n).astype(np.int8),
            fixed=rng.random(n) < 0.5,
            positions_relaxed=single(positions + 0.1),
            y_init=rng.normal(),
            y_relaxed=rng.normal(),
        )
        records.append(record if targets else record._replace(**dict.fromkeys(TARGETS)))
    return records


def assert_same(found: Record, expected: Record) -> None:
    for name, a, b in zip(Record._fields, found, expected, strict=True):
        assert type(a) is type(b), name
        if isinstance(b, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, name


def fields(**changes) -> dict:
    """A good record's fields, changed; None takes one away."""
    record = oc20_lmdb._fields(make_records(1, seed=3)[0])
    return {name: value for name, value in (record | changes).items() if value is not None}


@contextlib.contextmanager
def changed(path):
    """An .lmdb file, to put and delete keys."""
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as env,
        env.begin(write=True) as content,
    ):
        yield content


def write(path, pickles, length: bool = True):
    with changed(path) as content:
        for k, pickled in enumerate(pickles):
            content.put(b"%d" % k, pickled)
        if length:
            content.put(b"length", pickle.dumps(len(pickles)))
    return path


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two parts, the first of two files and five shards, and their records."""
    monkeypatch.setattr(is2re_build, "SHARD", 3)
    parts = {
        "train": make_records(12, seed=1),
        "test_id": make_records(2, seed=2, targets=False),
    }
    for part in parts:
        (tmp_path / "source" / part).mkdir(parents=True)
    oc20_lmdb.write_lmdb(tmp_path / "source/train/data.0000.lmdb", parts["train"][:8])
    oc20_lmdb.write_lmdb(tmp_path / "source/train/data.0001.lmdb", parts["train"][8:])
    oc20_lmdb.write_lmdb(tmp_path / "source/test_id/data.lmdb", parts["test_id"])
    return tmp_path / "source", parts


def test_lmdb_files_give_the_records_to_the_bit(source):
    folder, parts = source
    for part, expected in parts.items():
        for found, record in zip(oc20_lmdb.read_lmdb(folder / part), expected, strict=True):
            assert_same(found, record)
    first = list(oc20_lmdb.read_lmdb(folder / "train/data.0000.lmdb"))
    assert [record.sid for record in first] == [record.sid for record in parts["train"][:8]]


def test_more_precise_positions_stay_so(tmp_path):
    record = make_records(1)[0]
    record = record._replace(positions=record.positions + 1e-12)
    oc20_lmdb.write_lmdb(tmp_path / "one.lmdb", [record])
    assert_same(next(oc20_lmdb.read_lmdb(tmp_path)), record)


def test_real_records_and_keys_in_the_order_of_numbers(tmp_path):
    """Twelve records without `length`: as text, key 10 comes before key 2."""
    folder = pathlib.Path(__file__).parent / "oc20"
    real = [(folder / f"{d}_{r}.pickle").read_bytes() for d in ("pyg1", "pyg2", "pyg2_protocol2")
            for r in ("slab", "test")]  # fmt: skip
    write(tmp_path / "real.lmdb", real * 2, length=False)
    records = list(oc20_lmdb.read_lmdb(tmp_path))
    assert [record.y_relaxed for record in records] == [-0.025550085000020317, None] * 6
    slab = records[0]
    assert (slab.sid, slab.atomic_numbers.tolist()) == (2472718, [29, 29, 29, 8, 1])
    assert (slab.tags.tolist(), slab.fixed.tolist()) == (
        [0, 0, 1, 2, 2],
        [True, True] + [False] * 3,
    )
    assert slab.cell.tolist() == [[8, 0, 0], [1, 9, 0], [0, 0, 20]]
    assert_same(records[1], slab._replace(**dict.fromkeys(TARGETS)))


def test_a_folder_with_data_mdb_is_a_file_too(tmp_path, source):
    (tmp_path / "copy.lmdb").mkdir()
    shutil.copy(source[0] / "test_id/data.lmdb", tmp_path / "copy.lmdb/data.mdb")
    for path in (tmp_path, tmp_path / "copy.lmdb"):
        assert len(list(oc20_lmdb.read_lmdb(path))) == 2


def check_cache(folder, parts):
    """The packed arrays are what a model needs of the records; the data set of TFDS is all."""
    assert sorted(is2re.parts(folder)) == sorted(parts)
    for part, records in parts.items():
        packed = is2re.read(folder, part, "slab")
        s, (name,) = packed.structures, packed.labels
        assert name == "relaxed_energy"
        assert (packed.forces, packed.groups) == (None, None)
        types = {"offsets": "int64", "ids": "int64", "atomic_numbers": "int32", "tags": "int32",
                 "positions": "float64", "cells": "float64", "fixed": "bool",
                 "periodic": "bool"}  # fmt: skip
        assert {field: str(getattr(s, field).dtype) for field in types} == types
        assert packed.labels[name].dtype == np.float64
        assert s.periodic.all()
        examples = tfds.builder_from_directory(folder).as_data_source(split=part)
        assert len(examples) == len(packed) == len(records)
        for k, (record, example) in enumerate(zip(records, examples, strict=True)):
            filled = is2re_build._filled(record)
            for field, b in zip(Record._fields, filled, strict=True):
                np.testing.assert_array_equal(example[field], b, err_msg=field)
                assert isinstance(b, int | float) or example[field].dtype == b.dtype
            atoms = slice(s.offsets[k], s.offsets[k + 1])
            found = {
                "sid": s.ids[k], "atomic_numbers": s.atomic_numbers[atoms],
                "positions": s.positions[atoms], "cell": s.cells[k], "tags": s.tags[atoms],
                "fixed": s.fixed[atoms], "y_relaxed": packed.labels[name][k],
            }  # fmt: skip
            for field, a in found.items():
                np.testing.assert_array_equal(a, getattr(filled, field), err_msg=field)
            assert s.name(k) == f"slab {record.sid}"


def test_a_cache_is_the_source_to_the_bit(tmp_path, source):
    is2re_build.build(source[0], tmp_path / "cache")
    check_cache(tmp_path / "cache", source[1])
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def made(monkeypatch) -> list[str]:
    """Names of the shards that are made from now on."""
    names, make = [], is2re_build._made

    def recorded(shard, *rest):
        entry = make(shard, *rest)
        names.append(f"{shard.part} {shard.source.path.name} {shard.start}")
        return entry

    monkeypatch.setattr(is2re_build, "_made", recorded)
    return names


def test_an_interrupted_build_goes_on(tmp_path, source, monkeypatch):
    names, advanced = made(monkeypatch), []

    def interrupt(self, task):
        advanced.append(task)
        if len(advanced) == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rich.progress.Progress.advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            is2re_build.build(source[0], tmp_path / "cache")
    with pytest.raises(Is2reError, match=r"manifest.json cannot be read: .* not finished"):
        is2re.read(tmp_path / "cache", "train")
    before = list(names)
    assert before == ["test_id data.lmdb 0", "train data.0000.lmdb 0", "train data.0000.lmdb 3"]
    is2re_build.build(source[0], tmp_path / "cache")
    assert names[3:] == [
        "train data.0000.lmdb 6", "train data.0001.lmdb 0", "train data.0001.lmdb 3",
    ]  # fmt: skip
    check_cache(tmp_path / "cache", source[1])
    is2re_build.build(source[0], tmp_path / "cache")
    assert len(names) == 6


@pytest.mark.parametrize("suffix", ["", ".npz", ".json"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_shard_is_named_and_made_again(tmp_path, source, monkeypatch, suffix, kind):
    is2re_build.build(source[0], tmp_path / "cache")
    path = tmp_path / f"cache/is2re-train.array_record-00001-of-00005{suffix}"
    damage(path, kind)
    if suffix == ".npz":
        with pytest.raises(Is2reError, match=r"00001-of-00005.npz is .*damaged: build again"):
            is2re.read(tmp_path / "cache", "train")
    is2re.read(tmp_path / "cache", "test_id")
    names = made(monkeypatch)
    is2re_build.build(source[0], tmp_path / "cache")
    assert names == ["train data.0000.lmdb 3"]
    check_cache(tmp_path / "cache", source[1])


def test_a_changed_source_replaces_its_shards(tmp_path, source, monkeypatch):
    folder, parts = source
    is2re_build.build(folder, tmp_path / "cache")
    shutil.rmtree(folder / "test_id")
    changed = make_records(40, seed=5)
    oc20_lmdb.write_lmdb(folder / "train/data.0001.lmdb", changed)
    is2re_build.build(folder, tmp_path / "cache")
    check_cache(tmp_path / "cache", {"train": parts["train"][:8] + changed})
    assert len(list((tmp_path / "cache").glob("is2re-*"))) == 3 * (3 + 14)
    # As many, in a file of the same name and size.
    others = [record._replace(y_relaxed=record.y_relaxed + 1) for record in changed]
    size = (folder / "train/data.0001.lmdb").stat().st_size
    oc20_lmdb.write_lmdb(folder / "train/data.0001.lmdb", others)
    assert (folder / "train/data.0001.lmdb").stat().st_size == size
    is2re_build.build(folder, tmp_path / "cache")
    check_cache(tmp_path / "cache", {"train": parts["train"][:8] + others})


N = len(fields()["pos"])
SPOILED = {
    "pos is missing": fields(pos=None),
    "natoms is missing": fields(natoms=None),
    "sid is missing or no whole": fields(sid="slab"),
    r"pos has shape .* instead of \(": fields(pos=np.zeros((N, 2), "f4")),
    r"atomic_numbers has shape": fields(natoms=N + 1, pos=np.zeros((N + 1, 3), "f4")),
    r"cell has shape \(3, 3\) instead": fields(cell=np.eye(3)),
    "pos has a coordinate that is no": fields(pos=np.full((N, 3), 1e7)),
    "pos has a coordinate that is no number": fields(pos=np.full((N, 3), np.inf, "f4")),
    "pos_relaxed has a coordinate": fields(pos_relaxed=np.full((N, 3), np.nan, "f4")),
    "cell has a coordinate": fields(cell=np.full((1, 3, 3), np.nan, "f4")),
    "y_relaxed is no energy": fields(y_relaxed=float("nan")),
    "y_relaxed is no energy below": fields(y_relaxed=10**400),
    "y_relaxed is no energy below 1e9": fields(y_relaxed=True),
    "natoms is missing or no whole": fields(natoms=True),
    "its sid is -1": fields(sid=-1),
    "its sid is 4294967296": fields(sid=2**32),
    "it has 2001 atoms": fields(natoms=2001),
    "pos has a coordinate that": fields(pos=np.full((N, 3), -(2**63))),
    "atomic_numbers has one": fields(atomic_numbers=np.full(N, 6.5, "f4")),
    "atomic_numbers has one that": fields(atomic_numbers=np.full(N, np.nan, "f4")),
    "atomic_numbers has one that is": fields(atomic_numbers=np.full(N, 119)),
    "tags has one that is no whole number from 0 to 2": fields(tags=np.full(N, 3)),
    "fixed has one that is no whole number from 0 to 1": fields(fixed=np.full(N, 0.5, "f4")),
    "it has 0 atoms, not 1 to 2000": fields(natoms=0),
    "its cell is thinner": fields(cell=np.ones((1, 3, 3), "f4")),
    "its cell is thinner than": fields(cell=np.array([[[9, 0, 0], [0, 9, 0], [9, 9, 0.1]]], "f4")),
}  # fmt: skip


@pytest.mark.parametrize("reason", SPOILED)
def test_a_bad_record_is_named(tmp_path, reason):
    write(tmp_path / "bad.lmdb", [torch_pickle.dumps(f) for f in (fields(), SPOILED[reason])])
    with pytest.raises(BadRecord, match=rf"bad.lmdb, record 1: {reason}"):
        list(oc20_lmdb.read_lmdb(tmp_path / "bad.lmdb"))


@pytest.mark.parametrize("distance", [0.0, 0.0099, 0.0101])
@pytest.mark.parametrize("seed", range(20))
def test_atoms_at_one_place_are_found_across_cells(distance, seed):
    """Lattices of equal heights, as in slabs, in skewed cells; the pair is cells apart."""
    rng = np.random.default_rng(seed)
    cell = np.diag([6.0, 9.0, 25.0]) + rng.normal(size=(3, 3))
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3), -1).reshape(-1, 3)
    positions = (grid + rng.integers(-2, 3, (27, 3))) @ cell
    oc20_lmdb._check_distances(positions, cell)
    direction = rng.normal(size=3)
    shift = rng.integers(-3, 4, 3) @ cell + distance * direction / np.linalg.norm(direction)
    positions[20] = positions[4] + shift
    if distance < 0.01:
        with pytest.raises(ValueError, match="its atoms 4 and 20 are at one place"):
            oc20_lmdb._check_distances(positions, cell)
    else:
        oc20_lmdb._check_distances(positions, cell)


def spoiled(tmp_path, count=4):
    """A source whose records are bad but for the last two of each file."""
    reasons = list(SPOILED)[:count]
    pickles = [torch_pickle.dumps(SPOILED[reason]) for reason in reasons]
    (tmp_path / "source/train").mkdir(parents=True)
    good = [torch_pickle.dumps(oc20_lmdb._fields(record)) for record in make_records(2)]
    write(tmp_path / "source/train/data.lmdb", pickles + good)
    return tmp_path / "source", reasons


def test_bad_records_stop_or_are_skipped_and_counted(tmp_path, monkeypatch):
    source, reasons = spoiled(tmp_path)
    monkeypatch.setattr(is2re_build, "SHARD", 3)
    monkeypatch.setattr(is2re_build, "PROBLEMS", 3)
    with pytest.raises(BadRecord, match=r'data.lmdb, record 0: pos is .* bad=skip'):
        is2re_build.build(source, tmp_path / "cache")
    is2re_build.build(source, tmp_path / "cache", bad="skip")
    check_cache(tmp_path / "cache", {"train": make_records(2)})
    part = json.loads((tmp_path / "cache/manifest.json").read_text())["parts"]["train"]
    assert (part["records"], part["skipped"]) == (2, 4)
    assert part["problems"] == [
        {"file": str(source / "train/data.lmdb"), "key": k, "reason": problem["reason"]}
        for k, problem in enumerate(part["problems"])
    ]
    assert len(part["problems"]) == 3
    assert part["problems"][0]["reason"].startswith(reasons[0])
    skipped: list[dict] = []
    assert len(list(oc20_lmdb.read_lmdb(source / "train", skipped))) == 2
    assert [problem["key"] for problem in skipped] == [0, 1, 2, 3]
    with pytest.raises(BadRecord, match="record 0"):
        is2re_build.build(source, tmp_path / "cache")


def test_a_part_of_bad_records_only_is_refused(tmp_path):
    (tmp_path / "source/train").mkdir(parents=True)
    write(tmp_path / "source/train/data.lmdb", [b"?"])
    with pytest.raises(Is2reError, match=r"no record of train can be used; .*opcode 0x3f"):
        is2re_build.build(tmp_path / "source", tmp_path / "cache", bad="skip")


def test_a_missing_key_is_named(tmp_path):
    path = write(tmp_path / "gap.lmdb", [torch_pickle.dumps(fields())] * 3)
    with changed(path) as content:
        content.delete(b"1")
        content.put(b"3", b"")
    with pytest.raises(BadRecord, match=r"gap.lmdb, record 1: is missing, though .* 3"):
        list(oc20_lmdb.read_lmdb(path))


@pytest.mark.parametrize(
    ("length", "message"),
    [(pickle.dumps(4), "has 3 records instead of 4"), (pickle.dumps(-1), "has 3 .* of -1"),
     (pickle.dumps(1), "has 3 records instead of 1"),
     (pickle.dumps("3"), "key length: the pickle is no integer"), (b"3", "key length: .*copy it")],
)  # fmt: skip
def test_a_wrong_length_is_refused(tmp_path, length, message):
    path = write(tmp_path / "x.lmdb", [torch_pickle.dumps(fields())] * 3)
    with changed(path) as content:
        content.put(b"length", length)
    with pytest.raises(Is2reError, match=rf"x.lmdb.*{message}"):
        next(oc20_lmdb.read_lmdb(path))


def test_files_that_are_no_lmdb_are_refused(tmp_path):
    path = tmp_path / "x.lmdb"
    oc20_lmdb.write_lmdb(path, make_records(50))
    content = path.read_bytes()
    for spoiled, message in [
        (content[: len(content) // 2], "x.lmdb is cut short: copy it again"),
        (b"text" * 5000, r"x.lmdb cannot be read as LMDB .*: copy it again"),
        (b"", r"x.lmdb cannot be read as LMDB .*: copy it again"),
    ]:
        path.write_bytes(spoiled)
        with pytest.raises(Is2reError, match=message):
            next(oc20_lmdb.read_lmdb(path))


def test_an_unfinished_file_has_another_name(tmp_path):
    def broken():
        yield from make_records(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oc20_lmdb.write_lmdb(tmp_path / "x.lmdb", broken())
    assert not (tmp_path / "x.lmdb").exists()
    oc20_lmdb.write_lmdb(tmp_path / "x.lmdb", make_records(3))
    assert [path.name for path in tmp_path.iterdir()] == ["x.lmdb"]
    assert len(list(oc20_lmdb.read_lmdb(tmp_path))) == 3


def test_what_is_looked_for_is_said(tmp_path):
    (tmp_path / "a-b").mkdir()
    with pytest.raises(Is2reError, match=r"no .*/\*/\*.lmdb, such as .*train/data.lmdb: name the"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    with pytest.raises(Is2reError, match=r"no .*/\*.lmdb"):
        next(oc20_lmdb.read_lmdb(tmp_path))
    write(tmp_path / "a-b/data.lmdb", [])
    with pytest.raises(Is2reError, match="a-b: name it with letters"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    (tmp_path / "a-b").rename(tmp_path / "train")
    with pytest.raises(Is2reError, match=r"the files in .*train hold no records"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    with pytest.raises(Is2reError, match=r"manifest.json cannot be read"):
        is2re.parts(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("version", [None, 1, 3, "2", [2]])
def test_a_cache_of_another_version_is_refused_by_name(tmp_path, source, version):
    """Where the manifest says none, as the first version did, too."""
    is2re_build.build(source[0], tmp_path / "cache")
    manifest = tmp_path / "cache" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content.pop("version") == is2re.VERSION == 2
    if version is not None:
        content["version"] = version
    manifest.write_text(json.dumps(content))
    message = rf"another version of this program built {tmp_path / 'cache'}: build it again"
    for refused in (is2re.parts, lambda folder: is2re.read(folder, "train")):
        with pytest.raises(Is2reError, match=message):
            refused(tmp_path / "cache")
    is2re_build.build(source[0], tmp_path / "cache")
    check_cache(tmp_path / "cache", source[1])


def test_shards_of_another_version_are_made_again(tmp_path, source, monkeypatch):
    """What they hold may be something else."""
    with monkeypatch.context() as patch:
        patch.setattr(is2re_build, "VERSION", 1)
        is2re_build.build(source[0], tmp_path / "cache")
    with pytest.raises(Is2reError, match="another version of this program"):
        is2re.read(tmp_path / "cache", "train")
    names = made(monkeypatch)
    is2re_build.build(source[0], tmp_path / "cache")
    assert len(names) == 6
    check_cache(tmp_path / "cache", source[1])


def test_another_part_is_refused(tmp_path, source):
    is2re_build.build(source[0], tmp_path / "cache")
    with pytest.raises(Is2reError, match="has no part 'val_id', but test_id, train"):
        is2re.read(tmp_path / "cache", "val_id")


def test_the_missing_package_is_named(tmp_path, monkeypatch, source):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    message = r'the package lmdb is not installed: pip install "hdgnn_jax\[is2re\]"'
    with pytest.raises(Is2reError, match=message):
        is2re_build.build(source[0], tmp_path / "cache")
    with pytest.raises(Is2reError, match=message):
        oc20_lmdb.write_lmdb(tmp_path / "x.lmdb", [])
