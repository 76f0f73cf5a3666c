"""QM9 (Ramakrishnan et al. 2014) from the package `qm9pack`, offline.

Packed once into a cache, as arrays that load in a moment. For other programs, `write_tfds` writes
the molecules beside them as a `tensorflow_datasets` data set (array_record files, no TensorFlow).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hdgnn_jax.data import polarizability
from hdgnn_jax.data.cache import cache_folder, is_unchanged, sha256
from hdgnn_jax.data.splits import N_MOLECULES
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.errors import HDGNNError
from hdgnn_jax.graphs.structure import ATOMIC_NUMBERS, Structures
from hdgnn_jax.progress import progress_bar

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
"""Our names, which are those of the TFDS catalogue's `qm9`, and the package's."""

PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
TENSORS = "qm9_polarizability.csv"
MAX_ATOMS = 29


class QM9Error(HDGNNError):
    """QM9 cannot be had; the message says which file and how to mend it."""


@dataclasses.dataclass(frozen=True)
class QM9:
    """The molecules in order of their QM9 index.

    Attributes:
      structures: ids are QM9 indices.
      targets: name to [n] float64 in the unit QM9 stores (Hartree, Debye, bohr, cal/(mol K)).
    """

    structures: Structures
    targets: Mapping[str, np.ndarray]


def load(cache: str | os.PathLike[str] | None = None) -> QM9:
    """All 130,831 molecules; the first call builds the cache, in some seconds.

    Args:
      cache: folder; see `cache_folder`.

    Raises:
      QM9Error: where `qm9pack` is missing or incomplete, or the cache is damaged.
    """
    folder = cache_folder(cache) / "qm9"
    if not folder.exists():
        build(package_folder(), folder, expected=N_MOLECULES)
    return read(folder)


def load_polarizability(cache: str | os.PathLike[str] | None = None) -> np.ndarray:
    """[130,831, 3, 3] bohr^3, in the frame of the positions; NaN where that cannot be told.

    The first call takes about two minutes; see `polarizability`.

    Args and errors: of `load`.
    """
    structures = load(cache).structures
    path = cache_folder(cache) / "qm9" / "polarizability.npy"
    digest = path.with_suffix(".sha256")
    if not (path.exists() and digest.exists()):
        with progress_bar("molecules") as progress:
            progress.add_task("QM9: turning polarizabilities", total=None)
            tensors = parse_tensors(_read_csv(package_folder() / TENSORS))
            turned, _ = polarizability.in_frame_of_positions(structures, tensors)
        # A name of its own, for another process may be at it too; what it makes is the same.
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=path.parent) as folder:
            unfinished = pathlib.Path(folder) / path.name
            np.save(unfinished, turned)
            (written := unfinished.with_suffix(".sha256")).write_text(sha256(unfinished) + "\n")
            unfinished.replace(path)
            # The last, so that tensors without one are made anew.
            written.replace(digest)
    if not is_unchanged(path, digest):
        raise QM9Error(f"{path} is damaged (its SHA-256 has changed): delete it and run again")
    found = np.load(path)
    if found.shape != (len(structures), 3, 3):
        raise QM9Error(f"{path} is of other molecules: delete it and run again")
    return found


def read(folder: pathlib.Path) -> QM9:
    """The packed arrays of a built cache.

    Raises:
      QM9Error: where they are not what was written.
    """
    packed, digest = folder / "packed.npz", folder / "packed.sha256"
    fix = f"delete the folder {folder} and run again: it is rebuilt in some seconds"
    try:
        if not is_unchanged(packed, digest):
            raise QM9Error(f"{packed} is damaged (its SHA-256 has changed): {fix}")
        with np.load(packed) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise QM9Error(f"{packed} cannot be read ({error.strerror or error}): {fix}") from error
    structures = Structures.molecules(
        content["offsets"],
        content["atomic_numbers"],
        content["positions"],
        content["ids"],
        source="QM9 molecule",
    )
    return QM9(structures, {name: content[name] for name in TARGETS})


def build(source: pathlib.Path, folder: pathlib.Path, expected: int) -> None:
    """Packs the molecules: all or nothing.

    Args:
      source: folder with the package's CSV files.
      folder: of the cache; must not exist.
      expected: number of molecules.

    Raises:
      QM9Error: where a source file is missing or has other rows than it should.
    """
    with _all_or_nothing(folder) as unfinished, progress_bar("molecules") as progress:
        progress.add_task("QM9: parsing", total=None)
        table = parse(source)
        if len(table["index"]) != expected:
            raise QM9Error(
                f"{source} holds {len(table['index'])} molecules instead of {expected}: "
                "reinstall qm9pack"
            )
        arrays = {"offsets": table["offsets"], "atomic_numbers": table["atomic_numbers"],
                  "positions": table["positions"], "ids": table["index"],
                  **{name: table[name] for name in TARGETS}}  # fmt: skip
        packed = unfinished / "packed.npz"
        np.savez(packed, **arrays)
        (unfinished / "packed.sha256").write_text(sha256(packed) + "\n")


def write_tfds(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes all that the package holds as a TFDS data set, `Qm9`, into a folder: all or nothing.

    Args:
      source: folder with the package's CSV files.
      folder: `qm9`, the data set's name; nothing is done where it exists.

    Raises:
      QM9Error: where a source file is missing or damaged.
    """
    if folder.exists():
        return
    with _all_or_nothing(folder) as unfinished, progress_bar("molecules") as progress:
        task = progress.add_task("QM9: parsing", total=None)
        table = parse(source)
        progress.update(task, description="QM9: writing", total=len(table["index"]))
        with _quiet():
            builder = Qm9(table=table, advance=lambda: progress.advance(task),
                          data_dir=str(unfinished.parent), file_format="array_record")  # fmt: skip
            builder.download_and_prepare()


@contextlib.contextmanager
def _all_or_nothing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder of the same name elsewhere, which takes its place when all is written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{folder.name}.unfinished-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as part:
        unfinished = pathlib.Path(part) / folder.name
        unfinished.mkdir()
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            # Where another process was first, its folder is as good as ours.
            if not folder.exists():
                raise


class Qm9(tfds.core.GeneratorBasedBuilder):
    """QM9 under the feature names and in the units of the TFDS catalogue's own `qm9`.

    All numbers are float64 (stored as bytes: TFDS would round them to float32). The package holds
    one SMILES and one InChI, so `SMILES_relaxed` and `InChI_relaxed` are left out; added is
    `polarizability` [3, 3], bohr^3, in Gaussian's standard orientation, *not* the frame of
    `positions`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, table: dict[str, Any], advance: Callable[[], object], **kwargs: Any):
        self._table = table
        self._advance = advance
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def exact(*shape: int | None) -> tfds.features.Tensor:
            encoding = tfds.features.Encoding.BYTES
            return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding=encoding)

        integer = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "index": integer,
                    "num_atoms": integer,
                    "tag": tfds.features.Text(),
                    "SMILES": tfds.features.Text(),
                    "InChI": tfds.features.Text(),
                    "charges": tfds.features.Tensor(shape=(MAX_ATOMS,), dtype=np.int64),
                    "positions": exact(MAX_ATOMS, 3),
                    "Mulliken_charges": exact(MAX_ATOMS),
                    "frequencies": exact(None),
                    "polarizability": exact(3, 3),
                    **{name: exact() for name in COLUMNS},
                    **{f"{name}_atomization": exact() for name in ("U0", "U", "H", "G")},
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        table = self._table
        for k, index in enumerate(table["index"].tolist()):
            atoms = slice(table["offsets"][k], table["offsets"][k + 1])
            modes = slice(table["mode_offsets"][k], table["mode_offsets"][k + 1])
            charges = table["atomic_numbers"][atoms]
            example = {
                "index": index,
                "num_atoms": len(charges),
                "tag": "gdb",
                "SMILES": table["SMILES"][k],
                "InChI": table["InChI"][k],
                "charges": _padded(charges.astype(np.int64), MAX_ATOMS),
                "positions": _padded(table["positions"][atoms], MAX_ATOMS),
                "Mulliken_charges": _padded(table["Mulliken_charges"][atoms], MAX_ATOMS),
                "frequencies": table["frequencies"][modes],
                "polarizability": table["polarizability"][k],
                **{name: table[name][k] for name in COLUMNS},
            }
            for name in ("U0", "U", "H", "G"):
                energies = TARGETS[name].atom_energies or {}
                example[f"{name}_atomization"] = table[name][k] - sum(
                    energies[z] for z in charges.tolist()
                )
            self._advance()
            yield index, example


def parse(source: pathlib.Path) -> dict[str, Any]:
    """The package's CSV files as columns, in order of QM9 index.

    Per molecule: `index`, SMILES, InChI, the `COLUMNS`, `polarizability` [n, 3, 3]. Per atom, from
    `offsets`: `atomic_numbers`, `positions`, `Mulliken_charges`. Per vibration, from
    `mode_offsets`: `frequencies`, 1/cm.

    Raises:
      QM9Error: naming the file or molecule that is not as it should be.
    """
    parts = [_read_csv(source / part) for part in PARTS if (source / part).exists()]
    if not parts:
        raise QM9Error(f"{source} holds none of {', '.join(PARTS)}: reinstall qm9pack")
    tensors = _read_csv(source / TENSORS)

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
    lookup, place = np.unique(symbols.astype(str), return_inverse=True)
    unknown = set(lookup.tolist()) - ATOMIC_NUMBERS.keys()
    if unknown:
        raise QM9Error(f"{source}: {min(unknown)!r} is not a chemical element: reinstall qm9pack")
    return {
        "index": index,
        "SMILES": joined("SMILES"),
        "InChI": joined("InChi"),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "atomic_numbers": np.array([ATOMIC_NUMBERS[s] for s in lookup], np.int32)[place],
        "positions": positions.reshape(-1, 3),
        "Mulliken_charges": charges,
        "mode_offsets": np.concatenate([[0], np.cumsum(mode_counts)]),
        "frequencies": modes,
        "polarizability": polarizabilities,
        **columns,
    }


def parse_tensors(table: Any) -> np.ndarray:
    """[n, 3, 3] of the package's file of polarizabilities, bohr^3, in the standard orientation."""
    rows = ("xx", "xy", "xz", "xy", "yy", "yz", "xz", "yz", "zz")
    columns = [table[f"A_{r}"].to_numpy(zero_copy_only=False).astype(np.float64) for r in rows]
    return np.stack(columns, -1).reshape(-1, 3, 3)


def _read_csv(path: pathlib.Path) -> Any:
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
    """All numbers of a column of lists, and how many each row has.

    Not by JSON, which refuses the `0.` that five of the molecules have.
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


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def package_folder() -> pathlib.Path:
    """Of the CSV files of `qm9pack`.

    Raises:
      QM9Error: where it is not installed.
    """
    for package in ("pyarrow", "qm9pack"):
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise QM9Error(f'the package {package} is not installed: pip install "hdgnn_jax[qm9]"')
    return pathlib.Path(str(spec and spec.origin)).parent / "data"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its own bars, logs and warnings."""
    tfds.disable_progress_bar()
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # It prints where it writes; the folder has another name in the end.
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("absl").setLevel(level)
