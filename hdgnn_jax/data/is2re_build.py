"""Builds a cache of OC20 IS2RE (Chanussot et al. 2021) from its LMDB files.

The cache has a `tensorflow_datasets` data set (array_record files), and packed arrays that load
quickly. It is built and checked shard by shard, so that an interrupted build can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from hdgnn_jax.data.cache import sha256
from hdgnn_jax.data.is2re import IS2RE, VERSION, is_intact
from hdgnn_jax.data.oc20_lmdb import BadRecord, Is2reError, Lmdb, Record, lmdb_files, narrowed
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.types import Json

SHARD = 10_000
"""Number of records in a shard, which is built, kept or rebuilt as a whole."""

PROBLEMS = 100
"""The most skipped records of a part that the manifest names."""


def _exact(shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> tfds.features.Tensor:
    # Stored as bytes, because TFDS would round float64 to float32.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)


FEATURES = tfds.features.FeaturesDict(
    {
        "sid": tfds.features.Scalar(np.int64),
        "atomic_numbers": _exact((None,), np.int32),
        "positions": _exact((None, 3), np.float64),
        "cell": _exact((3, 3), np.float64),
        "tags": _exact((None,), np.int8),
        "fixed": _exact((None,), np.bool_),
        "positions_relaxed": _exact((None, 3), np.float64),
        "y_init": _exact((), np.float64),
        "y_relaxed": _exact((), np.float64),
    }
)
"""The fields of `Record` in the TFDS data set; fields that test records lack are NaN."""


class _Shard(NamedTuple):
    """Records `start` to `stop` of one file of a part, which are built together."""

    part: str
    source: Lmdb
    start: int
    stop: int
    stem: pathlib.Path


def build(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    bad: Literal["stop", "skip"] = "stop",
) -> None:
    """Converts OC20's files into a cache; intact shards of earlier calls are kept.

    Args:
      source: has a folder for each part (`train`, `val_id`, `test_id`, ...) with one or more .lmdb
        files.
      folder: folder of the cache; shards of other parts are removed from it.
      bad: whether a bad record stops the build or is skipped and named in `manifest.json`.

    Raises:
      Is2reError: where there is nothing to convert, or a file or record cannot be read.
    """
    source, folder = pathlib.Path(source), pathlib.Path(folder)
    with contextlib.ExitStack() as opened, progress_bar("records") as progress:
        shards = _planned(source, folder, opened)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [_kept(shard, bad) for shard in shards]
        todo = [shard for shard, entry in zip(shards, kept, strict=True) if entry is None]
        if todo:
            (folder / "manifest.json").unlink(missing_ok=True)
        total = sum(shard.stop - shard.start for shard in todo)
        task = progress.add_task("OC20 IS2RE: building", total=total)
        entries = [
            entry or _made(shard, bad, lambda: progress.advance(task))
            for shard, entry in zip(shards, kept, strict=True)
        ]
    _finish(folder, shards, entries)


def _planned(
    source: pathlib.Path, folder: pathlib.Path, opened: contextlib.ExitStack
) -> list[_Shard]:
    shards = []
    names = sorted({path.parent.name for path in source.glob("*/*.lmdb")})
    if not names:
        raise Is2reError(
            f"there is no {source}/*/*.lmdb, such as {source}/train/data.lmdb: name the folder "
            "that holds OC20's train, val_id, ... as unpacked"
        )
    known = [prefix + part for prefix in ("val_", "test_") for part in IS2RE.PARTS]
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise Is2reError(f"{source / name}: name it with letters, digits and underscores only")
        if name.startswith(("val_", "test_")) and name not in known:
            parts = ", ".join(known)
            raise Is2reError(f"{source / name} is none of OC20's parts; rename it: {parts}")
    if "train" not in names:
        raise Is2reError(f"there is no {source}/train/*.lmdb, but files of {', '.join(names)}")
    for part in names:
        files = [opened.enter_context(Lmdb(path)) for path in lmdb_files(source / part)]
        ranges = [(file, start) for file in files for start in range(0, len(file), SHARD)]
        if not ranges:
            raise Is2reError(f"the files in {source / part} hold no records: remove the folder")
        for number, (file, start) in enumerate(ranges):
            stem = f"is2re-{part}.array_record-{number:05}-of-{len(ranges):05}"
            stop = min(start + SHARD, len(file))
            shards.append(_Shard(part, file, start, stop, folder / stem))
    return shards


def _kept(shard: _Shard, bad: str) -> Json | None:
    """The entry of a shard that exists, is intact and has the same source; None otherwise."""
    files = shard.stem, _beside(shard.stem, ".npz")
    try:
        entry: Json = json.loads(_beside(shard.stem, ".json").read_text())
        good = (
            entry["origin"] == _origin(shard)
            and not (bad == "stop" and entry["skipped"])
            # No digest protects these.
            and entry["records"] + entry["skipped"] == shard.stop - shard.start
            and len(entry["problems"]) == min(entry["skipped"], PROBLEMS)
            and all(is_intact(file, entry["files"][file.name]) for file in files)
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return entry if good else None


def _origin(shard: _Shard) -> Json:
    file = shard.source
    return {"version": VERSION, "file": file.path.name, "bytes": file.size, "written": file.written,
            "records": len(file), "start": shard.start, "stop": shard.stop}  # fmt: skip


def _made(shard: _Shard, bad: str, advance: Callable[[], object]) -> Json:
    records: list[Record] = []
    problems: list[Json] = []
    packed = _beside(shard.stem, ".npz")
    # One record per group, as TFDS writes for random access. Its default, zstd, takes five times
    # as long.
    options = "group_size:1,snappy"
    writer = array_record_module.ArrayRecordWriter(str(_unfinished(shard.stem)), options)
    try:
        for found in shard.source.records(shard.start, shard.stop):
            if not isinstance(found, BadRecord):
                records.append(_filled(found))
                writer.write(FEATURES.serialize_example(records[-1]._asdict()))
            elif bad == "stop":
                raise found
            else:
                problems.append(found.problem)
            advance()
    finally:
        writer.close()
    with _unfinished(packed).open("wb") as file:
        np.savez(file, **_packed(records))
    for path in (shard.stem, packed):
        _unfinished(path).rename(path)
    entry = {
        "origin": _origin(shard),
        "records": len(records),
        "skipped": len(problems),
        "problems": problems[:PROBLEMS],
        "files": {path.name: sha256(path) for path in (shard.stem, packed)},
    }
    _write_json(_beside(shard.stem, ".json"), entry)
    return entry


def _filled(record: Record) -> Record:
    """The record, with NaN in the fields that a test record lacks."""
    return record._replace(
        y_init=math.nan if record.y_init is None else record.y_init,
        y_relaxed=math.nan if record.y_relaxed is None else record.y_relaxed,
        positions_relaxed=np.full_like(record.positions, np.nan)
        if record.positions_relaxed is None
        else record.positions_relaxed,
    )


def _packed(records: list[Record]) -> Json:
    def joined(name: str, dtype: npt.DTypeLike, *shape: int) -> np.ndarray:
        return np.concatenate([np.empty((0, *shape), dtype), *(getattr(r, name) for r in records)])

    def listed(name: str, dtype: npt.DTypeLike, *shape: int) -> np.ndarray:
        return np.array([getattr(r, name) for r in records], dtype).reshape(-1, *shape)

    return {
        "counts": np.array([len(record.positions) for record in records], np.int64),
        "sids": listed("sid", np.int64),
        "atomic_numbers": joined("atomic_numbers", np.int32),
        "positions": narrowed(joined("positions", np.float64, 3)),
        "cells": narrowed(listed("cell", np.float64, 3, 3)),
        "tags": joined("tags", np.int8),
        "fixed": joined("fixed", bool),
        "y_init": listed("y_init", np.float64),
        "y_relaxed": listed("y_relaxed", np.float64),
    }


def _finish(folder: pathlib.Path, shards: list[_Shard], entries: list[Json]) -> None:
    """Removes files of other builds, writes the metadata of TFDS, and last the manifest."""
    wanted = {shard.stem.name + suffix for shard in shards for suffix in ("", ".npz", ".json")}
    for path in folder.glob("is2re-*"):
        if path.name not in wanted:
            path.unlink()
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="is2re", filetype_suffix="array_record"
    )
    parts: Json = {}
    splits = []
    for part in dict.fromkeys(shard.part for shard in shards):
        own = [entry for shard, entry in zip(shards, entries, strict=True) if shard.part == part]
        problems = [problem for entry in own for problem in entry["problems"]]
        parts[part] = {
            "records": sum(entry["records"] for entry in own),
            "skipped": sum(entry["skipped"] for entry in own),
            "problems": problems[:PROBLEMS],
            "files": {name: digest for entry in own for name, digest in entry["files"].items()},
        }
        if parts[part]["records"] == 0:
            raise Is2reError(f"no record of {part} can be used; the first: {problems[0]}")
        splits.append(
            tfds.core.SplitInfo(
                name=part,
                shard_lengths=[entry["records"] for entry in own],
                num_bytes=sum(shard.stem.stat().st_size for shard in shards if shard.part == part),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=FEATURES, split_infos=splits, filename_template=template,
        check_data=False,
    )  # fmt: skip
    _write_json(folder / "manifest.json", {"version": VERSION, "parts": parts})


def _write_json(path: pathlib.Path, content: object) -> None:
    _unfinished(path).write_text(json.dumps(content, indent=1) + "\n")
    _unfinished(path).rename(path)


def _beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(path.name + suffix)


def _unfinished(path: pathlib.Path) -> pathlib.Path:
    return _beside(path, ".unfinished")
