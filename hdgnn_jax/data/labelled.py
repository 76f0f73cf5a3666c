"""Structures with labels, the common form of all data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import Structures


@dataclasses.dataclass(frozen=True)
class LabelledStructures:
    """Structures and their labels, in the units that the data set stores.

    Attributes:
      structures: the structures.
      labels: for each target, by name, [n, ...] float64; NaN where unknown.
      forces: [atoms, 3] float64, in the energy's unit per Å; None without forces.
      virials: [n, 3, 3] float64, the stress times the volume, in the energy's unit; NaN where
        unknown, None without virials. It is dE/d epsilon, see `models.forces.Derivatives`.
      groups: [n] integers. Structures of one group, such as shapes of one molecule, belong in one
        part of a split. None: each structure is a group of its own.
      notes: lines for the user about the structures.
    """

    structures: Structures
    labels: Mapping[str, np.ndarray]
    forces: np.ndarray | None = None
    virials: np.ndarray | None = None
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.structures)

    def take(self, rows: np.ndarray) -> LabelledStructures:
        """The structures at `rows`, in that order."""
        return LabelledStructures(
            self.structures.take(rows),
            {name: values[rows] for name, values in self.labels.items()},
            None if self.forces is None else self.forces[self.structures.atoms_of(rows)],
            known(self.virials, rows),
            None if self.groups is None else self.groups[rows],
            self.notes,
        )


def labelled_rows(values: np.ndarray) -> np.ndarray:
    """Indices of the labels [n, ...] that are known."""
    return np.flatnonzero(~np.isnan(values).any(tuple(range(1, values.ndim))))


def known(virials: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """The virials at these rows; None where all are unknown."""
    some: np.ndarray | None = None if virials is None else virials[rows]
    return None if some is None or np.isnan(some).any((1, 2)).all() else some


def merged(parts: Mapping[str, LabelledStructures]) -> LabelledStructures:
    """Merges the labels of several targets.

    The structures are those of the target that is known for most; unknown labels are NaN.

    Args:
      parts: by target, each with its own label; ids identify the structures.

    Raises:
      InputError: where another target is known for further structures.
    """
    most = max(parts, key=lambda name: len(parts[name]))
    whole = parts[most]
    if len(parts) == 1:
        return whole
    place = {key: k for k, key in enumerate(whole.structures.ids.tolist())}
    labels, forces, virials = {}, whole.forces, whole.virials
    for name, part in parts.items():
        ids, values = part.structures.ids.tolist(), part.labels[name]
        if not place.keys() >= set(ids):
            raise InputError(f"{name} is known where {most} is not: train them one at a time")
        labels[name] = np.full((len(whole), *values.shape[1:]), np.nan)
        labels[name][[place[key] for key in ids]] = values
        if ids == whole.structures.ids.tolist():
            forces = part.forces if forces is None else forces
            virials = part.virials if virials is None else virials
    return dataclasses.replace(whole, labels=labels, forces=forces, virials=virials)
