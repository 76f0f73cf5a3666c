"""Reads QM9 (Ramakrishnan et al. 2014) from the CSV files of the package `qm9pack`."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hdgnn_jax.data.cache import is_unchanged
from hdgnn_jax.errors import HDGNNError
from hdgnn_jax.graphs.structure import ATOMIC_NUMBERS, Structures
from hdgnn_jax.types import Json

COLUMNS = {
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "U0": "InternalEnergy_0K_au",
    "U": "InternalEnergy_298K_au",
    "H": "Enthalphy_298K_au",
    "G": "GibbsFreeEnergy_298K_au",
    "Cv": "Heatcapacity_Cv_cal_mol_K",
    "A": "RotA_GHz",
    "B": "RotB_GHz",
    "C": "RotC_GHz",
}
"""Our names of the columns, which are those of the TFDS catalogue's `qm9`, to the package's."""

PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
POLARIZABILITIES = "qm9_polarizability.csv"


class QM9Error(HDGNNError):
    """QM9 cannot be read; the message names the file and the fix."""


def parse(source: pathlib.Path) -> Json:
    """The package's CSV files as columns, in order of QM9 index.

    There is a row per molecule in `index`, `SMILES`, `InChI`, the `COLUMNS` and `polarizability`
    [n, 3, 3]; a row per atom in `atomic_numbers`, `positions` and `Mulliken_charges`, divided by
    `offsets`; a row per vibration in `frequencies`, 1/cm, divided by `mode_offsets`.

    Raises:
      QM9Error: naming the file or molecule that is missing or wrong.
    """
    parts = [read_csv(source / part) for part in PARTS if (source / part).exists()]
    if not parts:
        raise QM9Error(f"{source} holds none of {', '.join(PARTS)}: reinstall qm9pack")
    tensors = read_csv(source / POLARIZABILITIES)

    def joined(column: str) -> np.ndarray:
        return np.concatenate([part[column].to_numpy(zero_copy_only=False) for part in parts])

    try:
        index = joined("Index").astype(np.int64)
        columns = {name: joined(column).astype(np.float64) for name, column in COLUMNS.items()}
        names = [_tokens(part["Elements"]) for part in parts]
        symbols = np.concatenate([t.to_numpy(zero_copy_only=False) for t, _ in names])
        counts = np.concatenate([count for _, count in names])
        positions, position_counts = _numbers(parts, "XYZ_Ang")
        charges, charge_counts = _numbers(parts, "Mulliken_pop")
        modes, mode_counts = _numbers(parts, "Harmonic_Freq_cmi")
        polarizabilities = parse_tensors(tensors)
    except (KeyError, ValueError) as error:
        raise QM9Error(f"{source} is not as qm9pack ships it ({error}): reinstall it") from error
    if (np.diff(index) <= 0).any() or list(joined("XYZ_file")) != tensors["XYZ_file"].to_pylist():
        raise QM9Error(f"the molecules in {source} are not in order: reinstall qm9pack")
    wrong = (position_counts != 3 * counts) | (charge_counts != counts)
    if wrong.any():
        raise QM9Error(
            f"{source}: QM9 molecule {index[wrong][0]} lacks a number: reinstall qm9pack"
        )
    return {
        "index": index,
        "SMILES": joined("SMILES"),
        "InChI": joined("InChi"),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "atomic_numbers": _atomic_numbers(symbols, source),
        "positions": positions.reshape(-1, 3),
        "Mulliken_charges": charges,
        "mode_offsets": np.concatenate([[0], np.cumsum(mode_counts)]),
        "frequencies": modes,
        "polarizability": polarizabilities,
        **columns,
    }


def read_smiles(source: pathlib.Path) -> dict[int, str]:
    """The SMILES of QM9's molecules, of the positions as relaxed, by index.

    Raises:
      QM9Error: where a file cannot be read.
    """
    found: dict[int, str] = {}
    for part in filter(pathlib.Path.exists, map(source.joinpath, PARTS)):
        table = read_csv(part)
        try:
            found |= zip(table["Index"].to_pylist(), table["SMILES"].to_pylist(), strict=True)
        except KeyError as error:
            raise QM9Error(f"{part} has no column {error}: reinstall qm9pack") from error
    return found


def _atomic_numbers(symbols: np.ndarray, source: pathlib.Path) -> np.ndarray:
    """Atomic numbers of these symbols; raises a QM9Error for an unknown symbol."""
    lookup, place = np.unique(symbols.astype(str), return_inverse=True)
    unknown = set(lookup.tolist()) - ATOMIC_NUMBERS.keys()
    if unknown:
        raise QM9Error(f"{source}: {min(unknown)!r} is not a chemical element: reinstall qm9pack")
    return np.array([ATOMIC_NUMBERS[s] for s in lookup], np.int32)[place]


def parse_tensors(table: Any) -> np.ndarray:
    """[n, 3, 3] polarizabilities from the package's file, bohr^3, in the standard orientation."""
    rows = ("xx", "xy", "xz", "xy", "yy", "yz", "xz", "yz", "zz")
    columns = [table[f"A_{r}"].to_numpy(zero_copy_only=False).astype(np.float64) for r in rows]
    return np.stack(columns, -1).reshape(-1, 3, 3)


def read_csv(path: pathlib.Path) -> Any:
    """One of the package's files as a `pyarrow.Table`.

    Raises:
      QM9Error: where the file cannot be read.
    """
    import pyarrow
    import pyarrow.csv

    text = {name: pyarrow.string() for name in
            ("XYZ_Ang", "Mulliken_pop", "Harmonic_Freq_cmi", "Elements", "XYZ_file")}  # fmt: skip
    try:
        options = pyarrow.csv.ConvertOptions(column_types=text)
        return pyarrow.csv.read_csv(path, convert_options=options)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise QM9Error(f"{path} cannot be read ({error}): reinstall qm9pack") from error


def _numbers(parts: list[Any], column: str) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of a column of lists, and the number of them in each row.

    JSON cannot parse these lists: five of the molecules have the number `0.`.
    """
    tokens, counts = zip(*(_tokens(part[column]) for part in parts), strict=True)
    values = [t.cast("float64").to_numpy(zero_copy_only=False) for t in tokens]
    return np.concatenate(values), np.concatenate(counts)


def _tokens(column: Any) -> tuple[Any, np.ndarray]:
    """The comma-separated tokens of all rows, without brackets and quotes, and their counts."""
    import pyarrow.compute as pc

    bare = pc.replace_substring_regex(column, r"[\[\]' ]", "")
    lists = pc.split_pattern(bare, ",").combine_chunks()
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = lists.flatten()
    return flat, counts


def package_folder() -> pathlib.Path:
    """The folder of the CSV files of `qm9pack`.

    Raises:
      QM9Error: where `qm9pack` or `pyarrow` is not installed.
    """
    for package in ("pyarrow", "qm9pack"):
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise QM9Error(f'the package {package} is not installed: pip install "hdgnn_jax[qm9]"')
    return pathlib.Path(str(spec and spec.origin)).parent / "data"


MADE_ANEW = "run again: it is made anew"


def read_arrays(path: pathlib.Path, then: str = MADE_ANEW) -> dict[str, np.ndarray]:
    """The arrays of a cached file, by name.

    Raises:
      QM9Error: as `refuse_damaged` does.
    """
    refuse_damaged(path, then)
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def structures_of(content: Mapping[str, np.ndarray]) -> Structures:
    """The molecules of a cached file's arrays."""
    return Structures.molecules(
        content["offsets"], content["atomic_numbers"], content["positions"], content["ids"],
        source="QM9 molecule",
    )  # fmt: skip


def refuse_damaged(path: pathlib.Path, then: str = MADE_ANEW) -> None:
    """Checks a cached file.

    Raises:
      QM9Error: where it is unreadable or damaged, with what to do when it is deleted.
    """
    fix = f"delete it and {then}"
    try:
        if is_unchanged(path):
            return
    except OSError as error:
        raise QM9Error(f"{path} cannot be read ({error.strerror or error}): {fix}") from error
    raise QM9Error(f"{path} is damaged (its SHA-256 has changed): {fix}")
