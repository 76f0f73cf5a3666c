"""The domain of a training set in a few numbers, and how a structure differs from it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.covalent import BOND, RADII, bonded
from hdgnn_jax.graphs.neighbors import Neighbors, within_cutoff
from hdgnn_jax.graphs.structure import SYMBOLS, Structures
from hdgnn_jax.types import Fields, Json

SAMPLE = 10_000
"""Number of structures that give distances and bonds; all structures give elements and sizes."""
MARGIN = 0.05
"""Share by which distances may leave the range without a warning, since bonds vibrate."""
RARE = 0.005
"""Below this share of the training molecules, small ones are learned badly: of QM9 those with up to
five heavy atoms, whose errors of the gap are 2 to 20 times the mean."""
Bonded = tuple[int, tuple[int, ...]]
"""The elements of an atom and of the atoms that are bonded to it."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Ranges over the training structures.

    Attributes:
      atoms: fewest and most atoms of a structure.
      periodic: whether any, and whether all, structures have a cell.
      farthest: by element, the largest distance, Å, from an atom to the one nearest to it;
        infinite where none is within the model's cutoff.
      closest: (z, Z, Å) of pairs of elements, z <= Z, the smallest distance of two such atoms;
        pairs that are never within the cutoff are left out.
      bonded: kinds of atoms in molecules: an element, and the elements bonded to it, ascending. In
        water they are (1, (8,)) and (8, (1, 1)). 10,000 molecules of QM9 have 83 kinds, all 110,000
        have 88. Structures with cells have too many kinds to know them all, and are left out.
      odd: whether any molecule has an odd sum of atomic numbers, as radicals and ions have.
      sizes: by number of atoms other than hydrogen, the number of molecules; empty where all
        structures have cells.
      fragments: the most molecules in one structure without a cell, as the bonds have it.
    """

    atoms: tuple[int, int]
    periodic: tuple[bool, bool]
    farthest: Mapping[int, float]
    closest: tuple[tuple[int, int, float], ...]
    bonded: frozenset[Bonded] = frozenset()
    odd: bool = False
    sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    fragments: int = 1

    @classmethod
    def of(cls, structures: Structures, neighbors: Neighbors) -> Domain:
        """The domain of a training set, of whose first structures the neighbours are given."""
        n_atoms = structures.n_atoms
        few = structures.take(np.arange(len(neighbors.n_edges)))
        pairs, z = _pairs(few, neighbors), few.atomic_numbers
        alone = pairs.nearest(len(z))
        farthest = {
            int(e): float(alone[z == e].max(initial=0.0))
            for e in np.unique(structures.atomic_numbers)
        }
        kinds, which = np.unique(pairs.kinds(z), axis=0, return_inverse=True)
        low = np.full(len(kinds), np.inf)
        np.minimum.at(low, which.ravel(), pairs.distance)
        with_cell = structures.periodic.any(1)
        in_molecules: np.ndarray = np.repeat(np.logical_not(few.periodic.any(1)), few.n_atoms)
        return cls(
            (int(n_atoms.min()), int(n_atoms.max())),
            (bool(with_cell.any()), bool(with_cell.all())),
            farthest,
            tuple((*kind, r) for kind, r in zip(kinds.tolist(), low.tolist(), strict=True)),
            frozenset(map(_kind, np.unique(pairs.bonded(z)[in_molecules], axis=0).tolist())),
            bool(_odd_molecules(structures).any()),
            dict(Counter(_heavy(structures)[np.logical_not(with_cell)].tolist())),
            int(_fragments(few, pairs).max(initial=1)),
        )

    def reach(self, elements: Sequence[int]) -> np.ndarray:
        """[elements, elements] Å: two atoms nearer than this are nearer than any two in training.

        It is at most the sum of the covalent radii, which pairs without a bond in training get.
        """
        at = np.ix_(elements, elements)
        closest: np.ndarray = np.fmin(self._closest[at] * (1 - MARGIN), RADII[at])
        return closest

    def doubts(self, structures: Structures, neighbors: Neighbors) -> list[list[str]]:
        """[n] the ways in which each structure leaves the domain, in words."""
        words: list[list[str]] = [[] for _ in range(len(structures))]
        fewest, most = self.atoms
        for k in np.flatnonzero((structures.n_atoms < fewest) | (structures.n_atoms > most)):
            n = int(structures.n_atoms[k])
            trained = f"{fewest} to {most}" if fewest < most else f"{fewest}"
            words[k].append(f"{n} atom{'s' * (n != 1)} (trained on {trained})")
        self._too_large(words, structures)
        for text, of_structure in zip(words, structures.periodic, strict=True):
            cell = bool(of_structure.any())
            if cell and not self.periodic[0]:
                text.append("periodic (trained on molecules)")
            if not cell and self.periodic[1]:
                text.append("not periodic (trained on structures with cells)")
        pairs = _pairs(structures, neighbors)
        owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
        self._too_far(words, structures.atomic_numbers, owner, pairs)
        self._too_near(words, structures.atomic_numbers, owner, pairs)
        if self.bonded:
            molecules = np.logical_not(structures.periodic.any(1))[owner]
            self._otherwise_bonded(words, structures.atomic_numbers, owner, pairs, molecules)
            fragments = _fragments(structures, pairs)
            for k in np.flatnonzero(fragments > self.fragments):
                trained = f"up to {self.fragments}" if self.fragments > 1 else "one at a time"
                words[k].append(f"{fragments[k]} molecules side by side (trained on {trained})")
        for k in np.flatnonzero(_odd_molecules(structures)) if not self.odd else ():
            words[k].append(
                "an odd sum of atomic numbers, as radicals and ions have (not seen in training)"
            )
        return words

    def rare_sizes(self, structures: Structures) -> list[str]:
        """[n] a sentence on each molecule that is as small as few in training; empty for others.

        Predictions for these are worse, though they are within the domain.
        """
        said = [""] * len(structures)
        if not self.sizes:
            return said
        sizes, counts = np.array(sorted(self.sizes.items())).T
        up_to, heavy = np.append(0, np.cumsum(counts)), _heavy(structures)
        as_few, total = up_to[np.searchsorted(sizes, heavy, "right")], up_to[-1]
        # `doubts` names the others.
        inside = (heavy <= sizes[-1]) & (structures.n_atoms >= self.atoms[0])
        molecules = np.logical_not(structures.periodic.any(1))
        for k in np.flatnonzero(molecules & inside & (as_few < RARE * total)):
            have = f"only {as_few[k]:,}" if as_few[k] else "none"
            said[k] = (
                f"{have} of the {total:,} training molecules ha{'ve' if as_few[k] > 1 else 's'} at "
                f"most {heavy[k]} atom{'s' * int(heavy[k] != 1)} other than hydrogen: expect "
                "larger errors"
            )
        return said

    def _too_large(self, words: list[list[str]], structures: Structures) -> None:
        if not self.sizes:
            return
        largest, heavy = max(self.sizes), _heavy(structures)
        molecules = np.logical_not(structures.periodic.any(1))
        for k in np.flatnonzero(molecules & (heavy > largest)):
            words[k].append(f"{heavy[k]} atoms other than hydrogen (trained on up to {largest})")

    def _too_far(
        self, words: list[list[str]], z: np.ndarray, owner: np.ndarray, pairs: _Pairs
    ) -> None:
        alone = pairs.nearest(len(z))
        for e in np.unique(z).tolist():
            mine = z == e
            if e not in self.farthest:
                for k in np.unique(owner[mine]):
                    words[k].append(f"{SYMBOLS[e]}, which no training structure has")
                continue
            # 0 where the sample lacks the element.
            high = self.farthest[e] or np.inf
            out = mine & (alone > high * (1 + MARGIN))
            for k in np.unique(owner[out]):
                worst = alone[out & (owner == k)].max()
                words[k].append(
                    f"{SYMBOLS[e]} {worst:.2f} Å from the next atom (trained on up to {high:.2f})"
                    if np.isfinite(worst)
                    else f"{SYMBOLS[e]} with no other atom in reach (trained on up to {high:.2f} Å)"
                )

    def _too_near(
        self, words: list[list[str]], z: np.ndarray, owner: np.ndarray, pairs: _Pairs
    ) -> None:
        first, second = pairs.kinds(z).T
        low = self._closest[first, second]
        new = np.isnan(low)
        known = np.isin(first, list(self.farthest)) & np.isin(second, list(self.farthest))
        limit = np.where(new, np.where(known, RADII[first, second] * BOND, 0), low * (1 - MARGIN))
        out = np.flatnonzero(pairs.distance < limit)
        # Each kind of pair is reported once per structure, at its smallest distance.
        out = out[np.argsort(pairs.distance[out], kind="stable")]
        kinds = np.stack([owner[pairs.receivers[out]], first[out], second[out]], 1)
        for e in out[np.unique(kinds, axis=0, return_index=True)[1]]:
            a, b = SYMBOLS[first[e]], SYMBOLS[second[e]]
            seen = f"trained on {low[e]:.2f} and more"
            why = "bonded in no training structure" if new[e] else seen
            words[owner[pairs.receivers[e]]].append(
                f"{a} and {b} {pairs.distance[e]:.2f} Å apart ({why})"
            )

    def _otherwise_bonded(
        self,
        words: list[list[str]],
        z: np.ndarray,
        owner: np.ndarray,
        pairs: _Pairs,
        molecules: np.ndarray,
    ) -> None:
        atoms = np.hstack([owner[:, None], pairs.bonded(z)])[molecules]
        for k, *row in np.unique(atoms, axis=0).tolist():
            element, others = kind = _kind(row)
            # `_too_far` has reported atoms without neighbours and new elements.
            known = self.farthest.keys() >= {element, *others}
            if others and known and kind not in self.bonded:
                counts = Counter(SYMBOLS[other] for other in others)
                to = " and ".join(f"{n} {symbol}" for symbol, n in counts.items())
                words[k].append(f"{SYMBOLS[element]} bonded to {to} (not seen in training)")

    @property
    def _closest(self) -> np.ndarray:
        """[Z, Z] Å; NaN for pairs that are not in training."""
        table = np.full((len(SYMBOLS), len(SYMBOLS)), np.nan)
        for a, b, low in self.closest:
            table[a, b] = table[b, a] = low
        return table

    def to_dict(self) -> Json:
        """A JSON-able dict."""
        sizes = dict(sorted(self.sizes.items()))
        return {**dataclasses.asdict(self), "bonded": sorted(self.bonded), "sizes": sizes}

    @classmethod
    def from_dict(cls, content: Fields) -> Domain:
        """The inverse of `to_dict`, also after a pass through JSON."""
        (low, high), (some, every) = content["atoms"], content["periodic"]
        farthest = {int(z): far for z, far in content["farthest"].items()}
        closest = tuple((a, b, near) for a, b, near in content["closest"])
        bonded = frozenset((z, tuple(others)) for z, others in content["bonded"])
        # Records older than this field are of QM9, where no molecule is odd.
        odd = content.get("odd", False)
        # Older ones have the largest size alone, without a number of molecules.
        older = {content["heavy"]: 0} if content.get("heavy") else {}
        sizes = {int(n): count for n, count in content.get("sizes", older).items()}
        # Records older than this field are of QM9, where a structure is one molecule.
        fragments = content.get("fragments", 1)
        return cls((low, high), (some, every), farthest, closest, bonded, odd, sizes, fragments)


class _Pairs(NamedTuple):
    """Edges of several structures: [E] indices of the atoms, and their distances in Å."""

    senders: np.ndarray
    receivers: np.ndarray
    distance: np.ndarray

    def nearest(self, n: int) -> np.ndarray:
        """[n atoms] Å to the nearest other atom; infinite where there is none."""
        nearest = np.full(n, np.inf)
        np.minimum.at(nearest, self.receivers, self.distance)
        return nearest

    def kinds(self, z: np.ndarray) -> np.ndarray:
        """[E, 2] the elements of each edge, ascending."""
        return np.sort(np.stack([z[self.senders], z[self.receivers]], 1), 1)

    def bonds(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B], [B] receivers and senders of the edges that are bonds."""
        near = bonded(z[self.senders], z[self.receivers], self.distance)
        return self.receivers[near], self.senders[near]

    def bonded(self, z: np.ndarray) -> np.ndarray:
        """[n atoms, 1 + most bonds] each atom's element, then those it is bonded to, then zeros."""
        atoms, others = self.bonds(z)
        others = z[others]
        order = np.lexsort((others, atoms))
        atoms, others = atoms[order], others[order]
        number = np.bincount(atoms, minlength=len(z))
        place = np.arange(len(atoms)) - np.repeat(np.cumsum(number) - number, number)
        table = np.zeros((len(z), 1 + int(number.max(initial=0))), int)
        table[:, 0] = z
        table[atoms, 1 + place] = others
        return table


def _odd_molecules(structures: Structures) -> np.ndarray:
    """[n] whether the atomic numbers of a structure without a cell have an odd sum."""
    odd: np.ndarray = _of_molecules(structures, structures.atomic_numbers) % 2 == 1
    return odd


def _heavy(structures: Structures) -> np.ndarray:
    """[n] number of atoms other than hydrogen; 0 of a structure with a cell."""
    return _of_molecules(structures, (structures.atomic_numbers != 1).astype(int))


def _of_molecules(structures: Structures, of_atoms: np.ndarray) -> np.ndarray:
    """[n] sums of integers over the atoms of a structure; 0 of a structure with a cell."""
    sums = np.add.reduceat(of_atoms, structures.offsets[:-1])
    return np.where(structures.periodic.any(1), 0, sums)


def _fragments(structures: Structures, pairs: _Pairs) -> np.ndarray:
    """[n] number of groups of atoms without a bond between them; 1 for a structure with a cell."""
    first, second = pairs.bonds(structures.atomic_numbers)
    n = len(structures.atomic_numbers)
    # Each atom takes the lowest number among its neighbours, and then that atom's own, so that
    # chains shorten by half.
    lowest, before = np.arange(n), np.zeros(0, int)
    while not np.array_equal(lowest, before):
        before = lowest.copy()
        np.minimum.at(lowest, first, before[second])
        lowest = lowest[lowest]
    return np.where(structures.periodic.any(1), 1, structures.counts(lowest == np.arange(n)))


def _kind(row: Sequence[int]) -> Bonded:
    """A row of `_Pairs.bonded`, without its zeros."""
    element, *others = row
    return element, tuple(filter(None, others))


def _pairs(structures: Structures, neighbors: Neighbors) -> _Pairs:
    # Where edges are bonds: atoms without a bond can be too near or too far as well.
    neighbors = within_cutoff(structures, neighbors).found()
    before = np.repeat(structures.offsets[:-1], neighbors.n_edges)
    x = structures.positions
    senders, receivers = neighbors.senders + before, neighbors.receivers + before
    vectors = x[senders] - x[receivers]
    if neighbors.images is not None:
        cells = np.repeat(structures.cells, neighbors.n_edges, 0)
        vectors += np.einsum("ea,eab->eb", neighbors.images, cells)
    return _Pairs(senders, receivers, np.linalg.norm(vectors, axis=1))
