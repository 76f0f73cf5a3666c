"""OC20's files give the records that went in, or an error says which is wrong."""

from __future__ import annotations

import pathlib
import pickle
import shutil

import numpy as np
import pytest
from oc20_records import (
    SPOILED,
    TARGETS,
    assert_same,
    changed,
    fields,
    make_records,
    read_lmdb,
    write,
)

from hdgnn_jax.data import oc20_lmdb, torch_pickle
from hdgnn_jax.data.oc20_lmdb import BadRecord, Is2reError


def test_lmdb_files_give_the_records_to_the_bit(source):
    folder, parts = source
    for part, expected in parts.items():
        for found, record in zip(read_lmdb(folder / part), expected, strict=True):
            assert_same(found, record)
    first = list(read_lmdb(folder / "train/data.0000.lmdb"))
    assert [record.sid for record in first] == [record.sid for record in parts["train"][:8]]


def test_more_precise_positions_stay_so(tmp_path):
    record = make_records(1)[0]
    record = record._replace(positions=record.positions + 1e-12)
    oc20_lmdb.write_lmdb(tmp_path / "one.lmdb", [record])
    assert_same(next(read_lmdb(tmp_path)), record)


def test_real_records_and_keys_in_the_order_of_numbers(tmp_path):
    """Twelve records without `length`: as text, key 10 comes before key 2."""
    folder = pathlib.Path(__file__).parent / "oc20"
    real = [(folder / f"{d}_{r}.pickle").read_bytes() for d in ("pyg1", "pyg2", "pyg2_protocol2")
            for r in ("slab", "test")]  # fmt: skip
    write(tmp_path / "real.lmdb", real * 2, length=False)
    records = list(read_lmdb(tmp_path))
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
        assert len(list(read_lmdb(path))) == 2


@pytest.mark.parametrize("reason", SPOILED)
def test_a_bad_record_is_named(tmp_path, reason):
    write(tmp_path / "bad.lmdb", [torch_pickle.dumps(f) for f in (fields(), SPOILED[reason])])
    with pytest.raises(BadRecord, match=rf"bad.lmdb, record 1: {reason}"):
        list(read_lmdb(tmp_path / "bad.lmdb"))


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


def test_a_missing_key_is_named(tmp_path):
    path = write(tmp_path / "gap.lmdb", [torch_pickle.dumps(fields())] * 3)
    with changed(path) as content:
        content.delete(b"1")
        content.put(b"3", b"")
    with pytest.raises(BadRecord, match=r"gap.lmdb, record 1: is missing, though .* 3"):
        list(read_lmdb(path))


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
        next(read_lmdb(path))


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
            next(read_lmdb(path))


def test_an_unfinished_file_has_another_name(tmp_path):
    def broken():
        yield from make_records(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oc20_lmdb.write_lmdb(tmp_path / "x.lmdb", broken())
    assert not (tmp_path / "x.lmdb").exists()
    oc20_lmdb.write_lmdb(tmp_path / "x.lmdb", make_records(3))
    assert [path.name for path in tmp_path.iterdir()] == ["x.lmdb"]
    assert len(list(read_lmdb(tmp_path))) == 3
