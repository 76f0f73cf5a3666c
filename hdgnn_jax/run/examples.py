"""Structures with their neighbours and the values of the targets: what a run learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hdgnn_jax.data.baselines import geometry_of
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.labelled import known, labelled_rows
from hdgnn_jax.graphs.neighbors import Neighborhoods


@dataclasses.dataclass(frozen=True)
class Examples(Neighborhoods):
    """Structures with their neighbours and the values of the targets.

    Attributes:
      labels: by target, [n, ...] as stored; NaN where unknown.
      forces: [atoms, 3], in the stored unit of the energy per Å; None where there are none or their
        weight is 0.
      virials: [n, 3, 3], in the stored unit of the energy, NaN where unknown; None as above.
    """

    labels: Mapping[str, np.ndarray]
    forces: np.ndarray | None = None
    virials: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Examples:
        """The examples at `rows`, in that order."""
        few = super().take(rows)
        labels = {name: values[rows] for name, values in self.labels.items()}
        forces = None if self.forces is None else self.forces[self.structures.atoms_of(rows)]
        virials = known(self.virials, rows)
        return Examples(few.structures, few.neighbors, labels, forces, virials)

    def first(self, n: int) -> Examples:
        """The first n examples, or all where there are fewer."""
        return self.take(np.arange(min(n, len(self))))

    def labelled(self, target: str) -> np.ndarray:
        """Indices of the examples whose value of a target is known."""
        return labelled_rows(self.labels[target])

    def places(self, target: str, hidden: bool) -> np.ndarray:
        """As `labelled`, or all indices where the value may be hidden."""
        return np.arange(len(self)) if hidden else self.labelled(target)

    def without_linear(
        self, fitted: Sequence[FittedTarget], of_linear: Mapping[str, np.ndarray]
    ) -> Examples:
        """The examples, less the parts from geometry of linear references.

        Args:
          fitted: the targets.
          of_linear: by target, [n] energies of its linear reference, as far as known already.
        """
        at, labels = (self.structures, self.neighbors), dict(self.labels)
        forces, virials = self.forces, self.virials
        missing = {
            one.name: one.linear for one in fitted if one.linear and one.name not in of_linear
        }
        of_linear = {**of_linear, **geometry_of(missing, *at)}
        for one in fitted:
            fit, factor = one.linear, one.target.factor
            if fit is None:
                continue
            labels[one.name] = labels[one.name] - of_linear[one.name] / factor
            if one.target.potential and not (forces is None and virials is None):
                slopes = fit.slopes(*at)
                forces = None if forces is None else forces - slopes.forces / factor
                virials = None if virials is None else virials - slopes.virial / factor
        return dataclasses.replace(self, labels=labels, forces=forces, virials=virials)
