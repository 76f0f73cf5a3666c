"""OC20's files: a valid record or the documented error; nothing they hold is run."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from fuzz import damaged, law
from hypothesis import given
from hypothesis import strategies as st
from oc20_records import assert_same, make_records

from hdgnn_jax.data import oc20_lmdb, torch_pickle
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb, Record

pytestmark = pytest.mark.slow

# ---- OC20. Documented: PickleError (a ValueError) of a pickle; Is2reError of a file, and its
# BadRecord of a record.

OC20 = pathlib.Path(__file__).parents[1] / "data" / "oc20"


def assert_valid(record: Record) -> None:
    n = len(record.atomic_numbers)
    assert record.positions.shape == (n, 3)
    assert record.cell.shape == (3, 3)
    assert np.isfinite(record.positions).all()
    assert np.isfinite(record.cell).all()
    assert ((record.atomic_numbers >= 1) & (record.atomic_numbers <= 118)).all()
    assert ((record.tags >= 0) & (record.tags <= 2)).all()
    for energy in (record.y_init, record.y_relaxed):
        assert energy is None or math.isfinite(energy)


SPIED = {"watching": False, "seen": []}


def spy(event: str, arguments: tuple) -> None:
    """Hooks cannot be removed: this one looks only while it is told to."""
    if SPIED["watching"] and event.partition(".")[0] in (
        "exec", "compile", "import", "open", "os", "subprocess", "pickle", "socket", "ctypes",
    ):  # fmt: skip
        SPIED["seen"].append(event)


def test_a_damaged_pickle_is_refused_or_a_valid_record_and_calls_nothing(tried):
    """Seven kinds of damage, in records of torch and in ours; nothing is imported, opened or run,
    and no memory beyond a few times the pickle's."""
    sources = [path.read_bytes() for path in sorted(OC20.glob("*_slab.pickle"))]
    sources.append(torch_pickle.dumps(oc20_lmdb._fields(make_records(2)[1])))
    sys.addaudithook(spy)

    @law(400)
    @given(st.sampled_from(sources).flatmap(damaged))
    def check(case):
        tried["damaged pickles"] += 1
        SPIED["watching"] = True
        try:
            fields = torch_pickle.loads(case[0])
        except torch_pickle.PickleError:
            return
        finally:
            SPIED["watching"] = False
        assert all(isinstance(v, np.ndarray | int | float | str) for v in fields.values())
        assert sum(np.asarray(v).nbytes for v in fields.values()) < 10 * len(case[0])
        with contextlib.suppress(ValueError):
            assert_valid(oc20_lmdb._checked(fields))

    tracemalloc.start()
    check()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert SPIED["seen"] == []
    assert peak < 1e8


def test_records_with_damaged_pickles_are_named_and_the_others_read(tmp_path, tried):
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "some.lmdb"
    good = make_records(3)
    pickled = [torch_pickle.dumps(oc20_lmdb._fields(record)) for record in good]

    @law(60)
    @given(damaged(pickled[1]))
    def check(case):
        tried["damaged LMDB files"] += 1
        path.unlink(missing_ok=True)
        with (
            lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=1 << 20) as env,
            env.begin(write=True) as content,
        ):
            for k, value in enumerate((pickled[0], case[0], pickled[2])):
                content.put(b"%d" % k, value)
            content.put(b"length", pickle.dumps(3))
        with Lmdb(path) as content:
            first, second, third = content.records()
        assert_same(first, good[0])
        assert_same(third, good[2])
        if isinstance(second, BadRecord):
            assert str(second).startswith(f"{path}, record 1: ")
        else:
            assert_valid(second)

    check()


DAMAGED_PAGES = """
import pathlib, random, signal, sys
from hdgnn_jax.data import oc20_lmdb

path, cases = pathlib.Path(sys.argv[1]), int(sys.argv[2])
content = path.read_bytes()
signal.alarm(60)
counts = {"read": 0, "named": 0, "refused": 0}
for case in range(cases):
    rng = random.Random(f"pages {case}")
    spoiled = bytearray(content)
    for _ in range(rng.choice([1, 2, 4])):
        # Headers of LMDB's pages, where its structure is, more often than what they hold.
        at = rng.randrange(0, len(spoiled), 4096) + rng.randrange(rng.choice([48, 4096]))
        kind = rng.choice(["flip", "byte", "zeros", "cut"])
        if kind == "flip" and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and at < len(spoiled):
            spoiled[at] = rng.randrange(256)
        elif kind == "zeros":
            spoiled[at : at + 16] = bytes(len(spoiled[at : at + 16]))
        elif kind == "cut" and rng.random() < 0.2:
            del spoiled[max(at, 4096) :]
    damaged = path.with_name("damaged.lmdb")
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(spoiled)
    try:
        with oc20_lmdb.Lmdb(damaged) as file:
            records = list(file.records())
        good = [record for record in records if not isinstance(record, oc20_lmdb.BadRecord)]
        assert all(len(record.positions) == len(record.atomic_numbers) for record in good)
        counts["read" if len(good) == len(records) else "named"] += 1
    except oc20_lmdb.Is2reError as error:
        assert str(damaged) in str(error), error
        counts["refused"] += 1
print(*counts.values())
"""


def test_an_lmdb_file_with_damaged_pages_is_refused_or_read(tmp_path, tried):
    """In a process of its own, for LMDB maps the file and checks little of what its pages say.

    Its own limit: about one in a thousand such damages, of a page's list of sizes, makes LMDB read
    past the end of the map, and the process ends with SIGBUS. None of these cases is of that kind.
    """
    cases = 200
    path = tmp_path / "some.lmdb"
    oc20_lmdb.write_lmdb(path, make_records(12))
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", DAMAGED_PAGES, str(path), str(cases)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split()]
    assert sum(counts) == cases
    assert min(counts) > 0
    tried["damaged LMDB files"] += cases
