"""Baselines that a model has to beat: means and linear fits of the training data alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from hdgnn_jax.config import with_tuples
from hdgnn_jax.data.ridge import ridge
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch, within_cutoff
from hdgnn_jax.graphs.structure import SYMBOLS, Structures
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.linear import Linear, Terms
from hdgnn_jax.types import Fields, PyTree

Size = Literal["extensive", "intensive", "neither"]
"""An extensive property of two systems far apart is the sum of both, such as an energy. An
intensive one does not grow with the system, such as a gap. The norm of a dipole is neither."""
ADSORBATE = 2
"""Tag of an adsorbate's atoms."""
BATCH = 256
"""Structures in a batch of the linear model."""
FITTED_EDGES = 30_000_000
"""The linear model is fitted to the first structures, up to this number of edges: all 110,000
molecules of QM9, or as many slabs with thousands of edges as take a minute or two."""


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


class Atoms(NamedTuple):
    """Energies of isolated atoms, from which a fit to the elements starts.

    Attributes:
      energies: [elements]; what the training set does not determine stays as near as possible.
      given: [elements] whether the data give the energy; the fit shifts all of these by one number.
    """

    energies: Sequence[float]
    given: Sequence[bool]


def _fitted_together(n: int, around: Atoms | None) -> np.ndarray:
    """[n elements, F] 1 where number f of a fit changes an element, else 0."""
    alone = np.eye(n)
    if around is None or not any(around.given):
        return alone
    given = np.array(around.given)
    return np.hstack([alone[:, ~given], given[:, None]])


@dataclasses.dataclass(frozen=True)
class Composition:
    """Least squares on the counts of elements; without elements, the mean.

    Attributes:
      elements: atomic numbers.
      per_element: the contribution of an atom of each element.
      constant: the value without any atom.
      averaged: whether atoms are averaged over instead of summed.
    """

    elements: tuple[int, ...]
    per_element: tuple[float, ...]
    constant: float
    averaged: bool = False

    @classmethod
    def fit(
        cls,
        structures: Structures,
        values: np.ndarray,
        elements: Sequence[int] = (),
        size: Size = "neither",
        around: Atoms | None = None,
    ) -> Composition:
        """Fits the training values.

        Args:
          structures: the training set.
          values: [n].
          elements: atomic numbers.
          size: kind of property. An extensive one has no constant, so that two systems far apart
            add up; an intensive one is a mean over atoms.
          around: isolated atoms to start from; None: the fit starts from 0, so what the training
            set does not determine is as small as possible.
        """
        averaged, start = size == "intensive", np.zeros(len(elements))
        if around is not None:
            start = np.array(around.energies, float)
        counts = element_counts(structures, elements)
        if averaged:
            counts = counts / counts.sum(1, keepdims=True)
        left = values - counts @ start
        if size == "extensive":
            together = _fitted_together(len(elements), around)
            per_element = start + together @ np.linalg.lstsq(counts @ together, left, rcond=None)[0]
            return cls(tuple(elements), tuple(per_element.tolist()), 0.0)
        centre, mean = counts.mean(0), left.mean()
        change = np.linalg.lstsq(counts - centre, left - mean, rcond=None)[0]
        per_element, constant = start + change, float(mean - centre @ change)
        return cls(tuple(elements), tuple(per_element.tolist()), constant, averaged)

    def plus(self, per_element: np.ndarray, constant: float) -> Composition:
        """A copy with [elements] numbers added to `per_element` and a number to `constant`."""
        return dataclasses.replace(
            self,
            per_element=tuple((np.array(self.per_element) + per_element).tolist()),
            constant=float(self.constant + constant),
        )

    def predict(self, structures: Structures) -> np.ndarray:
        """[n] predictions."""
        counts = element_counts(structures, self.elements)
        if self.averaged:
            counts = counts / structures.n_atoms[:, None]
        answers: np.ndarray = self.constant + counts @ np.array(self.per_element)
        return answers


def undetermined(
    structures: Structures, elements: Sequence[int], given: Collection[int] = ()
) -> list[int]:
    """Atomic numbers whose share of an extensive property the training set leaves open.

    For example carbon and hydrogen, if every molecule has two hydrogen atoms for each carbon.
    Shares of the `given` elements are known except for one common shift.
    """
    elements = [z for z in elements if z not in given]
    shift = element_counts(structures, sorted(given)).sum(1, keepdims=True)
    counts = np.hstack([element_counts(structures, elements), shift])
    there = np.flatnonzero(counts.any(0))
    # Each composition once, so that a rare one counts as much.
    compositions = np.unique(counts[:, there], axis=0)
    values, vectors = np.linalg.eigh(compositions.T @ compositions)
    free = vectors[:, values <= 1e-9 * max(values.max(initial=0), 1)]
    open_ = there[np.abs(free).max(1, initial=0) > 1e-6]
    return [elements[k] for k in open_ if k < len(elements)]


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
        """Fits the training values [n]."""
        names, which = np.unique(adsorbates(structures), return_inverse=True)
        means = np.bincount(which, values) / np.bincount(which)
        by_name = dict(zip(names.tolist(), means.tolist(), strict=True))
        return cls(by_name, float(values.mean()))

    def predict(self, structures: Structures) -> np.ndarray:
        """[n] predictions."""
        return np.array([self.means.get(name, self.constant) for name in adsorbates(structures)])


@dataclasses.dataclass(frozen=True)
class LinearFit:
    """Ridge regression on counts of elements and on features of pairs and bonded triples.

    Attributes:
      composition: the part from counts of elements, and the constant; float64, on the host.
      linear: the part from geometry; float32, in compiled programs.
    """

    composition: Composition
    linear: Linear

    @classmethod
    def fit(
        cls,
        structures: Structures,
        neighbors: Neighbors | NeighborSearch,
        values: np.ndarray,
        elements: Sequence[int],
        cutoff: float,
        size: Size = "neither",
        around: Sequence[Atoms | None] = (None,),
        sums: np.ndarray | None = None,
    ) -> tuple[list[LinearFit], np.ndarray]:
        """Fits the training values of T properties.

        Args:
          structures, neighbors: the training set, in random order, and its edges or bonds.
          values: [n, T].
          elements, cutoff: atomic numbers, and Å.
          size: kind of the properties; see `Composition.fit`.
          around: for each, as in `Composition.fit`; all give the same elements.
          sums: `feature_sums` of the structures, where they are known.

        Returns:
          T fits, and their parts from geometry, [n, T], for the training structures.
        """
        sums = feature_sums(structures, neighbors, elements, cutoff) if sums is None else sums
        averaged, rows = size == "intensive", np.arange(len(sums))
        some, rest, y = structures.take(rows), np.arange(len(sums), len(structures)), values[rows]
        compositions = [
            Composition.fit(some, of_one, elements, size, atoms)
            for of_one, atoms in zip(y.T, around, strict=True)
        ]
        together = _fitted_together(len(elements), around[0])
        design = np.hstack([element_counts(some, elements) @ together, sums], dtype=np.float32)
        # Means are scaled to the size of counts, for which `ridge` is made.
        mean_size = float(some.n_atoms.mean()) if averaged else 1.0
        if averaged:
            design /= (some.n_atoms[:, None] / mean_size).astype(np.float32)
        # The composition is subtracted first, in float64: it is a thousand times what is left.
        left = y - np.stack([composition.predict(some) for composition in compositions], 1)
        weights, constants = ridge(design, left, size != "extensive")
        n_counts = together.shape[1]
        known = design[:, n_counts:] @ weights[n_counts:].astype(np.float32)
        weights *= mean_size
        fits = []
        for composition, own, constant in zip(compositions, weights.T, constants, strict=True):
            whole = composition.plus(together @ own[:n_counts], constant)
            own = tuple(own[n_counts:].tolist())
            fits.append(cls(whole, Linear(tuple(elements), cutoff, own, averaged)))
        of_rest = geometry(fits, structures.take(rest), neighbors.take(rest))
        return fits, np.concatenate([known, of_rest])

    def slopes(self, structures: Structures, neighbors: Neighbors | NeighborSearch) -> Derivatives:
        """The part from geometry, [n], with forces [atoms, 3], per Å, and virials [n, 3, 3]."""
        n, forces = len(structures), np.zeros((len(structures.positions), 3))
        energies, virials = np.zeros(n), np.zeros((n, 3, 3))
        weights = np.array(self.linear.weights, np.float32)[:, None]
        compiled = _derivatives(self.linear.terms)
        batches = _over_batches(lambda graph: compiled(graph, weights), structures, neighbors)
        for at, found in batches:
            atoms = structures.atoms_of(at)
            forces[atoms] = found.forces[: len(atoms)]
            energies[at], virials[at] = found.value[: len(at), 0], found.virial[: len(at)]
        if self.linear.averaged:
            sizes = structures.n_atoms
            energies /= sizes
            forces /= np.repeat(sizes, sizes)[:, None]
            virials /= sizes[:, None, None]
        return Derivatives(energies, forces, virials)


def feature_sums(
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    elements: Sequence[int],
    cutoff: float,
) -> np.ndarray:
    """[m, features] float32, of the first m structures, which have about `FITTED_EDGES` edges."""
    neighbors = within_cutoff(structures, neighbors)
    m = int(np.searchsorted(np.cumsum(neighbors.n_edges), FITTED_EDGES)) or 1
    rows = np.arange(min(m, len(structures)))
    terms = Terms(tuple(elements), cutoff)
    sums = np.empty((len(rows), terms.n_features), np.float32)
    some = structures.take(rows), neighbors.take(rows)
    for at, found in _over_batches(_features(terms), *some):
        sums[at] = found[: len(at)]
    return sums


def geometry(
    fits: Sequence[LinearFit], structures: Structures, neighbors: Neighbors | NeighborSearch
) -> np.ndarray:
    """[n, T] the parts from geometry of T fits with the same elements and cutoff.

    One program computes all of them, in float32; the result is float64.
    """
    energies = np.zeros((len(structures), len(fits)))
    if not fits:
        return energies
    (terms,) = {fit.linear.terms for fit in fits}
    weights = np.stack([fit.linear.weights for fit in fits], 1).astype(np.float32)
    compiled = _energies(terms)
    batches = _over_batches(lambda graph: compiled(graph, weights), structures, neighbors)
    for at, found in batches:
        energies[at] = found[: len(at)]
    averaged = np.array([fit.linear.averaged for fit in fits])
    return np.where(averaged, energies / structures.n_atoms[:, None], energies)


def geometry_of(
    fits: Mapping[str, LinearFit], structures: Structures, neighbors: Neighbors | NeighborSearch
) -> dict[str, np.ndarray]:
    """`geometry` of fits by name, [n] each."""
    found = geometry(list(fits.values()), structures, neighbors)
    return dict(zip(fits, found.T, strict=True))


@functools.cache
def _features(terms: Terms) -> Callable[..., jax.Array]:
    return jax.jit(terms.features)


@functools.cache
def _energies(terms: Terms) -> Callable[..., jax.Array]:
    return jax.jit(terms.energies)


@functools.cache
def _derivatives(terms: Terms) -> Callable[..., Derivatives]:
    def derivatives(graph: batching.MolecularGraph, weights: jax.Array) -> Derivatives:
        return with_derivatives(lambda moved: terms.energies(moved, weights), graph)

    return jax.jit(derivatives)


def _over_batches(
    compiled: Callable[[batching.MolecularGraph], PyTree],
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
) -> Iterator[tuple[np.ndarray, PyTree]]:
    """Yields indices of structures, and the result of `compiled` for their padded graph."""
    if not len(structures):
        return
    n = min(BATCH, len(structures))
    neighbors = within_cutoff(structures, neighbors)

    def enough(counts: np.ndarray) -> int:
        # A power of two, so that parts of one data set mostly share a shape.
        return 1 << int(max(n * counts.mean(), counts.max())).bit_length()

    budget = batching.Budget(enough(neighbors.n_edges), enough(structures.n_atoms), n + 1)
    nothing = np.zeros(len(structures))
    for at in batching.pack(structures, neighbors, budget):
        yield (
            at,
            jax.device_get(compiled(batching.collate(structures, neighbors, nothing, at, budget))),
        )


Baseline = Composition | AdsorbateMean | LinearFit


def from_dict(content: Fields) -> Baseline:
    """The inverse of `dataclasses.asdict`, also after a pass through JSON."""
    if "means" in content:
        return AdsorbateMean(**content)
    if "linear" in content:
        return LinearFit(
            Composition(**with_tuples(content["composition"])),
            Linear(**with_tuples(content["linear"])),
        )
    return Composition(**with_tuples(content))
