"""Reads and writes OC20 IS2RE's LMDB files (Chanussot et al. 2021) without torch."""

from __future__ import annotations

import math
import os
import pathlib
import pickle
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hdgnn_jax.data import torch_pickle
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.graphs.structure import CLOSEST_ATOMS
from hdgnn_jax.types import Fields, Json


class Record(NamedTuple):
    """One adsorbate on one slab, periodic in three directions.

    Attributes:
      sid: OC20's number of the system.
      atomic_numbers: [n] int32.
      positions: [n, 3] float64, Å, of the initial structure.
      cell: [3, 3] float64, Å, a lattice vector in each row.
      tags: [n] int8; 0 bulk, 1 surface, 2 adsorbate.
      fixed: [n] bool; True for atoms that the relaxation holds in place.
      positions_relaxed: [n, 3] float64, Å; None in test records.
      y_init: energy of the initial structure, eV; None in test records.
      y_relaxed: energy of the relaxed structure, eV; None in test records.
    """

    sid: int
    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    tags: np.ndarray
    fixed: np.ndarray
    positions_relaxed: np.ndarray | None = None
    y_init: float | None = None
    y_relaxed: float | None = None


THINNEST_CELL = 0.5
"""Å. Cells with two opposite faces nearer than this are refused: no atom fits in."""

FARTHEST = 1e4
"""Å. Coordinates beyond this are refused: they make no sense, and exceed float32's precision."""

MOST_ATOMS = 2000
"""Larger systems are refused, because all pairs are compared. OC20's have about 250 at most."""


class Is2reError(HDGNNError):
    """OC20 cannot be read; the message names the file or record and the fix."""


class BadRecord(Is2reError):
    """A record that no model can use.

    Attributes:
      problem: file, key and reason.
    """

    def __init__(self, file: pathlib.Path, key: int, reason: str):
        self.problem = {"file": str(file), "key": key, "reason": reason}
        super().__init__(
            f"{file}, record {key}: {reason}; to leave such records out, build with bad=skip "
            "(--bad=skip)"
        )


class Lmdb:
    """The records of one .lmdb file, in order of their keys; use it in a `with` statement.

    `[key]` is a record, or raises BadRecord.

    Raises:
      Is2reError: where the package lmdb is missing, or the file is damaged or no LMDB file.
    """

    def __init__(self, path: pathlib.Path):
        lmdb = _import_lmdb()
        self.path = path
        folder = path.is_dir()
        try:
            stat = (path / "data.mdb" if folder else path).stat()
            self.size, self.written = stat.st_size, stat.st_mtime_ns
            self._env = lmdb.open(str(path), subdir=folder, readonly=True, lock=False,
                                  readahead=True, meminit=False)  # fmt: skip
        except (OSError, lmdb.Error) as error:
            raise Is2reError(f"{path} cannot be read as LMDB ({error}): copy it again") from error
        try:
            self._length = self._count()
        except lmdb.Error as error:
            self._env.close()
            raise Is2reError(f"{path} is damaged ({error}): copy it again") from error
        except Is2reError:
            self._env.close()
            raise

    def _count(self) -> int:
        state = self._env.stat()
        # A read past the end of a mapped file would kill the process.
        if (self._env.info()["last_pgno"] + 1) * state["psize"] > self.size:
            raise Is2reError(f"{self.path} is cut short: copy it again")
        self._content = self._env.begin()
        length = self._content.get(b"length")
        if length is None:
            return sum(key.isdigit() for key in self._content.cursor().iternext(values=False))
        try:
            count = torch_pickle.load_int(length)
        except torch_pickle.PickleError as error:
            raise Is2reError(f"{self.path}, key length: {error}: copy it again") from error
        if count != state["entries"] - 1:
            raise Is2reError(
                f"{self.path} has {state['entries'] - 1} records instead of {count}: copy it again"
            )
        return count

    def __enter__(self) -> Lmdb:
        return self

    def __exit__(self, *error: object) -> None:
        self._content.abort()
        self._env.close()

    def __len__(self) -> int:
        return self._length

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record | BadRecord]:
        """Yields the records `start` to `stop`; for a bad one, the BadRecord that it raises."""
        for key in range(start, len(self) if stop is None else stop):
            try:
                found: Record | BadRecord = self[key]
            except BadRecord as error:
                found = error
            yield found

    def __getitem__(self, key: int) -> Record:
        try:
            content = self._content.get(b"%d" % key)
        except _import_lmdb().Error as error:
            raise BadRecord(self.path, key, f"cannot be found ({error})") from error
        if content is None:
            raise BadRecord(self.path, key, f"is missing, though there should be {len(self)}")
        try:
            return _checked(torch_pickle.loads(content))
        except ValueError as error:
            raise BadRecord(self.path, key, str(error)) from error


def lmdb_files(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The file itself, or the .lmdb files in the folder, sorted.

    Raises:
      Is2reError: where there is no such file.
    """
    path = pathlib.Path(path)
    if path.is_file() or (path / "data.mdb").exists():
        return [path]
    files = sorted(path.glob("*.lmdb"))
    if not files:
        raise Is2reError(f"there is no {path}/*.lmdb: name a file or folder of OC20 as unpacked")
    return files


def write_lmdb(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Writes records in OC20's format, readable by torch_geometric 2 and `Lmdb`.

    Coordinates are stored in float32 where that is exact. The file gets its name at the end.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    # The size of the map is address space, not memory or disk.
    with _import_lmdb().open(str(unfinished), subdir=False, lock=False, sync=False,
                             map_size=1 << 40) as env:  # fmt: skip
        length = 0
        for record in records:
            with env.begin(write=True) as content:
                content.put(b"%d" % length, torch_pickle.dumps(_fields(record)))
            length += 1
        with env.begin(write=True) as content:
            content.put(b"length", pickle.dumps(length))
        env.sync(True)
    unfinished.rename(path)


def _fields(record: Record) -> Json:
    fields = {
        "pos": narrowed(record.positions),
        "cell": narrowed(record.cell[None]),
        "atomic_numbers": record.atomic_numbers.astype(np.float32),
        "tags": record.tags.astype(np.int64),
        "fixed": record.fixed.astype(np.float32),
        "natoms": len(record.positions),
        "sid": record.sid,
        "y_init": record.y_init,
        "y_relaxed": record.y_relaxed,
    }
    if record.positions_relaxed is not None:
        fields["pos_relaxed"] = narrowed(record.positions_relaxed)
    return {name: value for name, value in fields.items() if value is not None}


def narrowed(array: np.ndarray) -> np.ndarray:
    """The array in float32 where that is exact, else unchanged."""
    narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array


def _checked(fields: Fields) -> Record:
    """The record with OC20's fields, after checks.

    Raises:
      InputError: saying what is wrong with the record.
    """
    natoms = _integer(fields, "natoms")
    if not 0 < natoms <= MOST_ATOMS:
        raise InputError(f"it has {natoms} atoms, not 1 to {MOST_ATOMS}")
    sid = _integer(fields, "sid")
    if not 0 <= sid < 2**31:
        raise InputError(f"its sid is {sid}, not a number of 31 bits")
    relaxed = "pos_relaxed" in fields
    record = Record(
        sid=sid,
        atomic_numbers=_whole(fields, "atomic_numbers", natoms, 1, 118).astype(np.int32),
        positions=_coordinates(fields, "pos", (natoms, 3)),
        cell=_coordinates(fields, "cell", (1, 3, 3))[0],
        tags=_whole(fields, "tags", natoms, 0, 2),
        fixed=_whole(fields, "fixed", natoms, 0, 1).astype(bool),
        positions_relaxed=_coordinates(fields, "pos_relaxed", (natoms, 3)) if relaxed else None,
        y_init=_energy(fields, "y_init"),
        y_relaxed=_energy(fields, "y_relaxed"),
    )
    if not record.tags.any():
        raise InputError("its tags are all 0: there is no surface (1) and no adsorbate (2)")
    _check_distances(record.positions, record.cell)
    return record


def _array(fields: Fields, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in fields:
        raise InputError(f"{name} is missing")
    array = np.asarray(fields[name])
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape} instead of {shape}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is no array of numbers")
    return array


def _coordinates(fields: Fields, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(fields, name, shape).astype(np.float64)
    if not np.abs(array).max() < FARTHEST:  # NaN is not
        raise InputError(f"{name} has a coordinate that is no number below {FARTHEST:g} Å")
    return array


def _whole(fields: Fields, name: str, natoms: int, low: int, high: int) -> np.ndarray:
    array = _array(fields, name, (natoms,))
    if array.min() >= low and array.max() <= high:  # NaN is neither
        whole = array.astype(np.int8)
        if (whole == array).all():
            return whole
    raise InputError(f"{name} has an entry that is no whole number from {low} to {high}")


def _scalar(fields: Fields, name: str) -> Any:
    value = fields.get(name)
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _integer(fields: Fields, name: str) -> int:
    value = _scalar(fields, name)
    if type(value) is not int:
        raise InputError(f"{name} is missing or no whole number")
    return value


def _energy(fields: Fields, name: str) -> float | None:
    value = _scalar(fields, name)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not (plain and abs(value) < 1e9):  # NaN is not
        raise InputError(f"{name} is no energy below 1e9 eV")
    return float(value)


def _check_distances(positions: np.ndarray, cell: np.ndarray) -> None:
    try:
        inverse = np.linalg.inv(cell)
    except np.linalg.LinAlgError:
        inverse = np.full((3, 3), np.inf)
    if not (inverse * inverse).sum(0).max() < 1 / THINNEST_CELL**2:
        raise InputError(f"its cell is thinner than {THINNEST_CELL} Å")
    # Lattice vectors change this phase by whole numbers, so atoms at one place have nearly the same
    # phase up to whole numbers. Few other pairs have, and only such pairs are measured.
    wave = inverse @ (1.0, 2.0, 3.0)
    phases = positions @ wave
    phases = (phases - np.floor(phases)).astype(np.float32)
    apart = np.abs(phases[:, None] - phases)
    apart -= np.float32(0.5)
    near = np.abs(apart) >= np.float32(0.4999 - CLOSEST_ATOMS * math.sqrt(wave @ wave))
    first, second = np.divmod(np.flatnonzero(near), len(positions))
    later = first < second
    first, second = first[later], second[later]
    shifts = positions[first] - positions[second]
    shifts -= np.rint(shifts @ inverse) @ cell
    close = (shifts * shifts).sum(1) < CLOSEST_ATOMS**2
    if close.any():
        pair = np.argmax(close)
        raise InputError(
            f"its atoms {first[pair]} and {second[pair]} are at one place "
            f"(nearer than {CLOSEST_ATOMS} Å)"
        )


def _import_lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise Is2reError(
            'the package lmdb is not installed: pip install "hdgnn_jax[is2re]"'
        ) from error
    return lmdb
