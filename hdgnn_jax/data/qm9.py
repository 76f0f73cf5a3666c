"""QM9 (Ramakrishnan et al. 2014), packed once into a cache, as arrays that load quickly."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from hdgnn_jax.data import polarizability, qm9_smiles, splits
from hdgnn_jax.data.cache import cache_folder, is_complete, write_with_digest
from hdgnn_jax.data.dataset import Dataset, check_part, first_rows
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.qm9pack import (
    COLUMNS,
    POLARIZABILITIES,
    QM9Error,
    package_folder,
    parse,
    parse_tensors,
    read_arrays,
    read_csv,
    refuse_damaged,
    structures_of,
)
from hdgnn_jax.data.targets import (
    OF_QM9,
    POLARIZABILITY,
    TARGETS,
    Accuracy,
    ReferenceKind,
    Target,
)
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.progress import progress_bar

PACKED = "packed.3.npz"
TENSORS = "polarizability.2.npy"
"""The number is the version of the layout; files of other versions are left alone."""


@dataclasses.dataclass(frozen=True)
class QM9(Dataset):
    """QM9 with one of its published splits.

    Attributes:
      split: `standard` or `cormorant`.
      train_size: number of training molecules, the first of the split; None: all. Those without
        positions from SMILES count.
      reference: `none`, `fitted`, `tabulated` or `linear`; None: the default of the target.
      cache: folder; None: see `cache_folder`.
      positions: None: as published, relaxed with B3LYP; `smiles`: as RDKit makes them from the
        molecules' SMILES. Molecules for which it makes none are then in no part.
    """

    split: str
    train_size: int | None = None
    reference: ReferenceKind | None = None
    cache: str | None = None
    positions: Literal["smiles"] | None = None

    family: ClassVar[str] = "QM9"
    targets: ClassVar[Mapping[str, Target]] = OF_QM9

    def __post_init__(self) -> None:
        if self.positions not in (None, "smiles"):
            raise InputError(f"config.data.positions must be smiles, not {self.positions!r}")

    @property
    def title(self) -> str:
        """Says where the positions are from, if not QM9's own."""
        return self.family + ", positions from SMILES" * (self.positions is not None)

    def chosen(self, names: Sequence[str]) -> list[Target]:
        """The targets of one run.

        Raises:
          InputError: also for polarizability tensors, with positions from SMILES: they belong to
            the orientation of QM9's own.
        """
        if self.positions and POLARIZABILITY.name in names:
            raise InputError(f"{POLARIZABILITY.name} needs config.data.positions=None")
        return super().chosen(names)

    @property
    def all_targets(self) -> tuple[str, ...]:
        """The twelve scalar targets."""
        return tuple(TARGETS)

    def paper(self, target: Target) -> Mapping[str, Accuracy]:
        """The paper's error on the test part, with QM9's positions; empty where it has none."""
        if target.paper_mae is None or self.positions:
            return {}
        return {"test": Accuracy(target.paper_mae)}

    def digest(self) -> str:
        """The SHA-256 of the split's lists of molecules, and of the kind of positions.

        RDKit's version is not in it: the run's card has that.
        """
        lists = splits.split(self.split).digest
        if self.positions is None:
            return lists
        return hashlib.sha256(f"{lists} {qm9_smiles.PACKED}".encode()).hexdigest()

    def summary(self, target: str) -> list[str]:
        """A line on molecules that have no positions from their SMILES."""
        if self.positions is None:
            return []
        absent = len(self._molecules) - len(self._from_smiles)
        return [f"{absent:,} of QM9's molecules have no positions from SMILES and are in no part"]

    def part(self, name: str, target: str) -> LabelledStructures:
        """The molecules of a part of the split.

        Raises:
          InputError: where the part or the split does not exist, or `train_size` is out of range.
          QM9Error: where the data cannot be read.
        """
        check_part(name, ("train", *self.reported))
        rows, molecules = getattr(splits.split(self.split), name), self._molecules
        rows = first_rows(rows, self.train_size) if name == "train" else rows
        if target == POLARIZABILITY.name:
            tensors = self._tensors
            rows = rows[np.isfinite(tensors[rows]).all((1, 2))]
            molecules = dataclasses.replace(molecules, labels={target: tensors})
        else:
            molecules = dataclasses.replace(molecules, labels={target: molecules.labels[target]})
        molecules = molecules.take(rows)
        return molecules if self.positions is None else self._remade(molecules)

    def _remade(self, molecules: LabelledStructures) -> LabelledStructures:
        """Those that have positions from their SMILES, in these."""
        made, ids = self._from_smiles, molecules.structures.ids
        kept = molecules.take(np.flatnonzero(np.isin(ids, made.ids)))
        places = np.searchsorted(made.ids, kept.structures.ids)
        return dataclasses.replace(kept, structures=made.take(places))

    @functools.cached_property
    def _from_smiles(self) -> Structures:
        return qm9_smiles.load(self.cache)

    @functools.cached_property
    def _molecules(self) -> LabelledStructures:
        return load(self.cache)

    @functools.cached_property
    def _tensors(self) -> np.ndarray:
        return load_polarizability(self._molecules.structures, self.cache)


def load(cache: str | os.PathLike[str] | None = None) -> LabelledStructures:
    """All 130,831 molecules in order of their index, with a label for each of `TARGETS`.

    The first call packs them in some seconds. Ids are QM9 indices; labels are in QM9's own units.

    Args:
      cache: folder; see `cache_folder`.

    Raises:
      QM9Error: where `qm9pack` is missing or incomplete, or the cache is damaged.
    """
    folder = cache_folder(cache) / "qm9"
    if not is_complete(folder / PACKED):
        build(package_folder(), folder, expected=splits.N_MOLECULES)
    return read(folder)


def read(folder: pathlib.Path) -> LabelledStructures:
    """The molecules of a built cache.

    Raises:
      QM9Error: where the packed file is unreadable or damaged.
    """
    path = folder / PACKED
    content = read_arrays(path)
    if missing := [name for name in TARGETS if name not in content]:
        raise QM9Error(
            f"{path} has no column {missing[0]}: add it to COLUMNS of qm9pack.py and raise the "
            "number in PACKED, so that QM9 is packed again (CONTRIBUTING.md)"
        )
    return LabelledStructures(structures_of(content), {name: content[name] for name in TARGETS})


def build(source: pathlib.Path, folder: pathlib.Path, expected: int) -> None:
    """Packs the molecules.

    Args:
      source: folder with the package's CSV files.
      folder: folder of the cache.
      expected: number of molecules.

    Raises:
      QM9Error: where a source file is missing or damaged, or the number of molecules is wrong.
    """
    with progress_bar("molecules") as progress:
        progress.add_task("QM9: parsing", total=None)
        table = parse(source)
        if len(table["index"]) != expected:
            raise QM9Error(
                f"{source} holds {len(table['index'])} molecules instead of {expected}: "
                "reinstall qm9pack"
            )
        arrays = {"offsets": table["offsets"], "atomic_numbers": table["atomic_numbers"],
                  "positions": table["positions"], "ids": table["index"],
                  **{name: table[name] for name in COLUMNS}}  # fmt: skip
        write_with_digest(folder / PACKED, lambda path: np.savez(path, **arrays))


def load_polarizability(
    structures: Structures, cache: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """[130,831, 3, 3] bohr^3, in the frame of the positions; NaN where that frame is not certain.

    The first call takes about two minutes; see `polarizability`.

    Args:
      structures: the structures from `load`.
      cache: folder; see `cache_folder`.

    Raises:
      QM9Error: as `load` does, or where the cached file is of other molecules.
    """
    path = cache_folder(cache) / "qm9" / TENSORS
    if not is_complete(path):
        with progress_bar("molecules") as progress:
            progress.add_task("QM9: turning polarizabilities", total=None)
            tensors = parse_tensors(read_csv(package_folder() / POLARIZABILITIES))
            turned, _ = polarizability.in_frame_of_positions(structures, tensors)
        write_with_digest(path, lambda path: np.save(path, turned))
    refuse_damaged(path)
    found: np.ndarray = np.load(path)
    if found.shape != (len(structures), 3, 3):
        raise QM9Error(f"{path} is of other molecules: delete it and run again")
    return found
