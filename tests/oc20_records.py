"""Records of OC20 made here, good and bad, and files that hold them."""

from __future__ import annotations

import contextlib
import pathlib
import pickle
from collections.abc import Iterator

import lmdb
import numpy as np
import pytest

from hdgnn_jax.data import is2re_build, oc20_lmdb
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb, Record

TARGETS = ("positions_relaxed", "y_init", "y_relaxed")


def read_lmdb(path: pathlib.Path) -> Iterator[Record]:
    """The records of a file, or of the files of a folder; a bad one raises."""
    for file in oc20_lmdb.lmdb_files(path):
        with Lmdb(file) as content:
            for record in content.records():
                if isinstance(record, BadRecord):
                    raise record
                yield record


def single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def make_records(count: int, seed: int = 0, targets: bool = True) -> list[Record]:
    """Random ones that a file keeps to the bit; without `targets` as in OC20's test parts."""
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
            tags=np.append(rng.integers(0, 3, n)[1:], 2).astype(np.int8),
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
def changed(path: pathlib.Path):
    """An .lmdb file, to put and delete keys."""
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as env,
        env.begin(write=True) as content,
    ):
        yield content


def write(path: pathlib.Path, pickles: list[bytes], length: bool = True) -> pathlib.Path:
    """An .lmdb file with these under 0, 1, ..., and how many they are."""
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
    "atomic_numbers has an": fields(atomic_numbers=np.full(N, 6.5, "f4")),
    "atomic_numbers has an entry that": fields(atomic_numbers=np.full(N, np.nan, "f4")),
    "atomic_numbers has an entry that is": fields(atomic_numbers=np.full(N, 119)),
    "tags has an entry that is no whole number from 0 to 2": fields(tags=np.full(N, 3)),
    "fixed has an entry that is no whole number from 0 to 1": fields(fixed=np.full(N, 0.5, "f4")),
    "it has 0 atoms, not 1 to 2000": fields(natoms=0),
    "its cell is thinner": fields(cell=np.ones((1, 3, 3), "f4")),
    "its cell is thinner than": fields(cell=np.array([[[9, 0, 0], [0, 9, 0], [9, 9, 0.1]]], "f4")),
}  # fmt: skip
