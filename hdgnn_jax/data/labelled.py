"""Structures with what is known of them: what every data set gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hdgnn_jax.graphs.structure import Structures


@dataclasses.dataclass(frozen=True)
class LabelledStructures:
    """Structures and their labels, in the units that the data set stores.

    Attributes:
      structures: the structures.
      labels: name of a target to [n, ...] float64; NaN where it is not known.
      forces: [atoms, 3] float64, of the energy among the labels, per Å; None where there are none.
      groups: [n] integers; structures of one group, such as one molecule in several shapes, belong
        in one part of a split. None: each is a group of its own.
    """

    structures: Structures
    labels: Mapping[str, np.ndarray]
    forces: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.structures)

    def take(self, rows: np.ndarray) -> LabelledStructures:
        """The structures at `rows`, in that order."""
        return LabelledStructures(
            self.structures.take(rows),
            {name: values[rows] for name, values in self.labels.items()},
            None if self.forces is None else self.forces[self.structures.atoms_of(rows)],
            None if self.groups is None else self.groups[rows],
        )
