"""What a model has to beat: predictors that see no geometry, fitted on training data alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import SYMBOLS, Structures

ADSORBATE = 2
"""Tag of an adsorbate's atoms."""


def element_counts(structures: Structures, elements: Sequence[int]) -> np.ndarray:
    """[n, elements] how many atoms of each element a structure has."""
    column = np.full(len(SYMBOLS), len(elements))
    column[list(elements)] = np.arange(len(elements))
    n, width = len(structures), len(elements) + 1
    owner = np.repeat(np.arange(n), structures.n_atoms)
    cells = owner * width + column[structures.atomic_numbers]
    return np.bincount(cells, minlength=n * width).reshape(n, width)[:, :-1].astype(float)


def adsorbates(structures: Structures) -> list[str]:
    """[n] the atomic numbers of each structure's adsorbate, ascending, as "29 29 47"."""
    numbers = np.where(structures.tags == ADSORBATE, structures.atomic_numbers, 0)
    parts = np.split(numbers, structures.offsets[1:-1])
    return [" ".join(map(str, np.sort(part[part > 0]))) for part in parts]


@dataclasses.dataclass(frozen=True)
class Composition:
    """Least squares on the element counts and a constant; without elements, the mean.

    Attributes:
      elements: atomic numbers.
      per_element: the answer per atom of each.
      constant: the answer without any atom.
    """

    elements: tuple[int, ...]
    per_element: tuple[float, ...]
    constant: float

    @classmethod
    def fit(
        cls, structures: Structures, values: np.ndarray, elements: Sequence[int] = ()
    ) -> Composition:
        """From the training values [n]."""
        # With a constant, which an intensive property is mostly made of and no sum over atoms has.
        counts = element_counts(structures, elements)
        centre, mean = counts.mean(0), values.mean()
        per_element = np.linalg.lstsq(counts - centre, values - mean, rcond=None)[0]
        constant = float(mean - centre @ per_element)
        return cls(tuple(elements), tuple(per_element.tolist()), constant)

    def predict(self, structures: Structures) -> np.ndarray:
        """[n] answers."""
        counts = element_counts(structures, self.elements)
        return self.constant + counts @ np.array(self.per_element)


@dataclasses.dataclass(frozen=True)
class AdsorbateMean:
    """The mean over the training structures with the same adsorbate, or over all if none has it.

    Attributes:
      means: by adsorbate, named as in `adsorbates`.
      constant: the mean over all.
    """

    means: Mapping[str, float]
    constant: float

    @classmethod
    def fit(cls, structures: Structures, values: np.ndarray) -> AdsorbateMean:
        """From the training values [n]."""
        names, which = np.unique(adsorbates(structures), return_inverse=True)
        means = np.bincount(which, values) / np.bincount(which)
        by_name = dict(zip(names.tolist(), means.tolist(), strict=True))
        return cls(by_name, float(values.mean()))

    def predict(self, structures: Structures) -> np.ndarray:
        """[n] answers."""
        return np.array([self.means.get(name, self.constant) for name in adsorbates(structures)])


Baseline = Composition | AdsorbateMean


def from_dict(content: Mapping[str, Any]) -> Baseline:
    """The inverse of `dataclasses.asdict`, after JSON too."""
    if "means" in content:
        return AdsorbateMean(**content)
    elements, per_element = (tuple(content[name]) for name in ("elements", "per_element"))
    return Composition(elements, per_element, content["constant"])
