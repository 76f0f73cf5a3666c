"""Reads the inputs of predictions: files, SMILES, and molecules of QM9 by index."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import read_structures
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.graphs.structure import Structure, StructureError
from hdgnn_jax.inference.batches import nobody
from hdgnn_jax.inference.predictor import Advance
from hdgnn_jax.inference.rows import Row

LAST_OF_QM9 = 133_885
"""Index of QM9's last molecule."""


def rows_of(
    names: Sequence[str], n_conformers: int = 1, advance: Advance = nobody
) -> list[Row]:
    """The structures of all inputs, in their order; each input leaves at least one row.

    Args:
      names: files, smiles:SMILES or qm9:INDEX; see `experiments.predict`.
      n_conformers: number of conformers of a SMILES.
      advance: told 1 after each row (a progress bar).
    """
    rows: list[Row] = []
    # Files of one name in different folders are called by their paths.
    files = collections.Counter(pathlib.Path(name).name for name in set(names))
    for name in names:
        base = pathlib.Path(name).name
        before = len(rows)
        try:
            for row in read(name, n_conformers, name if files[base] > 1 else base):
                rows.append(row)
                advance(1)
        except (HDGNNError, OSError) as error:
            del rows[before:]
            rows.append(Row(name, reason=" ".join(str(error).split())))
        if len(rows) == before:
            rows.append(Row(name, reason="holds no structure"))
    return rows


def read(name: str, n_conformers: int = 1, called: str | None = None) -> Iterator[Row]:
    """Yields a row for each structure of an input, with the structure or a reason.

    Args:
      name, n_conformers: as in `rows_of`.
      called: name of a file in the rows; None: its name without the folder.

    Raises:
      InputError: where it is no file, no SMILES and not of QM9.
      Is2reError: where an LMDB file cannot be read.
    """
    kind, _, rest = name.partition(":")
    path = pathlib.Path(name)
    called = called or path.name
    if kind == "qm9":
        yield from _of_qm9(rest)
    elif kind == "smiles":
        yield _of_smiles(rest, rest, n_conformers)
    elif path.is_dir():
        raise InputError(f"{name} is a folder: name the files in it")
    elif not path.is_file():
        raise InputError(f"there is no file {name} (a SMILES is written smiles:CCO)")
    elif path.suffix == ".lmdb":
        with Lmdb(path) as content:
            for r in content.records():
                if isinstance(r, BadRecord):
                    key, reason = r.problem["key"], str(r.problem["reason"])
                    yield Row(f"{called}, record {key}", reason=reason)
                else:
                    named = f"{called}, system {r.sid}"
                    found = Structure(r.atomic_numbers, r.positions, named, r.cell,
                                      tags=r.tags, fixed=r.fixed)  # fmt: skip
                    yield Row(named, [found])
    elif path.suffix.lower() == ".smi":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: save it as such") from error
        for line in filter(str.strip, lines):
            smiles, *words = line.split(maxsplit=1)
            yield _of_smiles(smiles, " ".join(words).strip() or smiles, n_conformers)
    else:
        for number, found_or_not in enumerate(read_structures(path), start=1):
            named = f"{called}, structure {number}"
            if isinstance(found_or_not, StructureError):
                yield Row(named, reason=found_or_not.reason)
            else:
                yield Row(named, [found_or_not])


def _of_smiles(smiles: str, name: str, n: int) -> Row:
    try:
        structures, how = conformers(smiles, n)
    except StructureError as error:
        return Row(name, smiles=smiles, reason=str(error))
    return Row(name, structures, smiles, how)


def _of_qm9(text: str) -> Iterator[Row]:
    first, _, last = text.partition("-")
    numbers = first, last or first
    if not all(n.isdecimal() and len(n) < 10 and int(n) <= LAST_OF_QM9 for n in numbers):
        raise InputError(
            f"qm9:{text[:40]} must be qm9:INDEX or qm9:FIRST-LAST, of numbers to {LAST_OF_QM9}"
        )
    molecules = qm9.load().structures
    for index in range(int(numbers[0]), int(numbers[1]) + 1):
        at = int(np.searchsorted(molecules.ids, index))
        there = at < len(molecules) and molecules.ids[at] == index
        if there:
            yield Row(f"qm9:{index}", [molecules[at]])
        else:
            left_out = "one of the 3,054 of QM9 left out, which relaxed to other molecules"
            yield Row(f"qm9:{index}", reason=left_out if index else "QM9 begins with index 1")
