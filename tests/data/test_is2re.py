"""The cache holds OC20's records to the bit, and is made again where it does not."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from damage import KINDS, damage
from oc20_records import SPOILED, make_records, read_lmdb, write

from hdgnn_jax.data import is2re, is2re_build, oc20_lmdb, torch_pickle
from hdgnn_jax.data.oc20_lmdb import BadRecord, Is2reError, Record


def check_cache(folder, parts):
    """The packed arrays are what a model needs of the records; the data set of TFDS is all."""
    assert sorted(is2re.parts(folder)) == sorted(parts)
    for part, records in parts.items():
        packed = is2re.read(folder, part, "slab")
        s = packed.structures
        assert set(packed.labels) == {"relaxed_energy", "initial_energy"}
        assert (packed.forces, packed.groups) == (None, None)
        types = {"offsets": "int64", "ids": "int64", "atomic_numbers": "int32", "tags": "int32",
                 "positions": "float64", "cells": "float64", "fixed": "bool",
                 "periodic": "bool"}  # fmt: skip
        assert {field: str(getattr(s, field).dtype) for field in types} == types
        assert {values.dtype for values in packed.labels.values()} == {np.dtype(np.float64)}
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
                "fixed": s.fixed[atoms], "y_relaxed": packed.labels["relaxed_energy"][k],
                "y_init": packed.labels["initial_energy"][k],
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
    with pytest.raises(Is2reError, match=r"manifest.json cannot be read: .* unfinished"):
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, "[]"), (None, '{"files": []}'), pytest.param(None, "[" * 100_000, id="deep"),
        ('"records": 3', '"records": 1'), ('"problems"', '"problemz"'),
    ],
)  # fmt: skip
def test_a_shard_whose_entry_is_damaged_is_made_again(tmp_path, source, monkeypatch, old, new):
    """JSON of another kind, and damage to a number or a name."""
    is2re_build.build(source[0], tmp_path / "cache")
    path = tmp_path / "cache/is2re-train.array_record-00001-of-00005.json"
    path.write_text(path.read_text().replace(old, new) if old else new)
    names = made(monkeypatch)
    is2re_build.build(source[0], tmp_path / "cache")
    assert names == ["train data.0000.lmdb 3"]


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
    with pytest.raises(BadRecord, match="record 0"):
        is2re_build.build(source, tmp_path / "cache")


def test_a_part_of_bad_records_only_is_refused(tmp_path):
    (tmp_path / "source/train").mkdir(parents=True)
    write(tmp_path / "source/train/data.lmdb", [b"?"])
    with pytest.raises(Is2reError, match=r"no record of train can be used; .*opcode 0x3f"):
        is2re_build.build(tmp_path / "source", tmp_path / "cache", bad="skip")


def test_what_is_looked_for_is_said(tmp_path):
    (tmp_path / "a-b").mkdir()
    with pytest.raises(Is2reError, match=r"no .*/\*/\*.lmdb, such as .*train/data.lmdb: name the"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    with pytest.raises(Is2reError, match=r"no .*/\*.lmdb"):
        next(read_lmdb(tmp_path))
    write(tmp_path / "a-b/data.lmdb", [])
    with pytest.raises(Is2reError, match="a-b: name it with letters"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    (tmp_path / "a-b").rename(tmp_path / "val_oodads")
    with pytest.raises(Is2reError, match="val_oodads is none of OC20's parts; rename it: val_id, "):
        is2re_build.build(tmp_path, tmp_path / "cache")
    (tmp_path / "val_oodads").rename(tmp_path / "training")
    with pytest.raises(Is2reError, match=r"no .*/train/\*.lmdb, but files of training"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    (tmp_path / "training").rename(tmp_path / "train")
    with pytest.raises(Is2reError, match=r"the files in .*train hold no records"):
        is2re_build.build(tmp_path, tmp_path / "cache")
    with pytest.raises(Is2reError, match=r"manifest.json cannot be read"):
        is2re.parts(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("version", [None, 2, 4, "3", [3]])
def test_a_cache_of_another_version_is_refused_by_name(tmp_path, source, version):
    """Where the manifest says none, as the first version did, too."""
    is2re_build.build(source[0], tmp_path / "cache")
    manifest = tmp_path / "cache" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content.pop("version") == is2re.VERSION == 3
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
