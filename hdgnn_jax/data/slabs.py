"""A stand-in for OC20 IS2RE that needs no download: metal dimers and trimers on alloy slabs, EMT.

Records and parts are like OC20's, but energies are from ASE's effective medium theory. Errors on
them cannot be compared with errors on OC20.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from ase.optimize import LBFGS

from hdgnn_jax.data.oc20_lmdb import Record

METALS = ("Ni", "Cu", "Pd", "Ag", "Pt", "Au", "Al")
"""The metals that EMT is made for. A combination is held out of training if the indices of its
metals here (from 0) add up to a multiple of 5; each metal is in combinations of both kinds."""


def _by_held_out(combinations: Iterable[tuple[str, ...]]) -> dict[bool, list[tuple[str, ...]]]:
    split: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for metals in combinations:
        split[sum(map(METALS.index, metals)) % 5 == 0].append(metals)
    return split


ADSORBATES = _by_held_out(
    metals for n in (2, 3) for metals in itertools.combinations_with_replacement(METALS, n)
)
CATALYSTS = _by_held_out(metals for n in (1, 2) for metals in itertools.combinations(METALS, n))
"""The metals of each adsorbate and of each slab, by whether they are held out of training."""

PARTS = {
    "train": (False, False),
    "id": (False, False),
    "ood_ads": (True, False),
    "ood_cat": (False, True),
    "ood_both": (True, True),
}
"""Whether adsorbate and catalyst are held out of training."""

FMAX = 0.05
"""Largest force on a free atom of a relaxed structure, eV/Å."""

_RADII = {metal: bulk(metal).cell.lengths()[0] / 2 for metal in METALS}
"""Half the distance of neighbours in the bulk metal, Å."""

_SLABS: tuple[tuple[Callable[..., Atoms], tuple[int, int, int]], ...] = (
    (fcc111, (3, 3, 3)), (fcc111, (3, 3, 4)), (fcc111, (4, 3, 3)),
    (fcc100, (3, 3, 3)), (fcc100, (3, 3, 4)), (fcc100, (4, 3, 3)),
    (fcc110, (2, 3, 5)), (fcc110, (2, 3, 6)),
)  # fmt: skip


def plan(n: int) -> dict[str, int]:
    """Sizes of the parts of n systems: a twentieth in each, except `train`, which has the rest."""
    return dict.fromkeys(PARTS, n // 20) | {"train": n - 4 * (n // 20)}


def make_system(seed: int, part: str, k: int) -> Record:
    """System k of a part, the same to the bit in any process and order.

    The adsorbate is put on the relaxed clean slab, whose atoms below the surface stay fixed. A
    system is drawn again if atoms of the initial structure overlap, a relaxation takes more than
    200 steps, or the adsorbate leaves the slab or falls apart.

    Args:
      seed: seed of the data set.
      part: name in `PARTS`.
      k: number of the system, from 0.

    Returns:
      The record. Its energies are the system's minus that of the relaxed clean slab, so the zero of
      each atom of the adsorbate is its bulk metal. `sid` is 5 k plus the index of the part.

    Raises:
      KeyError: where the part does not exist.
      ValueError: where seed or k is negative.
    """
    held_out_adsorbate, held_out_catalyst = PARTS[part]
    adsorbates, catalysts = ADSORBATES[held_out_adsorbate], CATALYSTS[held_out_catalyst]
    place = list(PARTS).index(part)
    rng = np.random.default_rng([seed, place, k])
    while True:
        slab = _slab(rng, catalysts[rng.integers(len(catalysts))])
        adsorbate = _adsorbate(rng, adsorbates[rng.integers(len(adsorbates))])
        if _relax(slab):
            record = _relaxed(len(PARTS) * k + place, slab, _adsorbed(rng, slab, adsorbate))
            if record is not None:
                return record


def _slab(rng: np.random.Generator, metals: tuple[str, ...]) -> Atoms:
    """A slab in 20 Å of vacuum: a random alloy, or alternating layers."""
    build, size = _SLABS[rng.integers(len(_SLABS))]
    n = int(np.prod(size))
    if rng.random() < 0.5:
        is_second = np.arange(n) // (size[0] * size[1]) % 2 == 1
    else:
        is_second = rng.permutation(n) < rng.choice([0.25, 0.5, 0.75]) * n
    first, second = rng.permutation([metals[0], metals[-1]])
    symbols = np.where(is_second, second, first)
    a = 8**0.5 * _radii(symbols).mean()
    slab: Atoms = build("Cu", size, a=a, vacuum=10.0)
    slab.pbc = True
    slab.symbols[:] = symbols
    height = slab.positions[:, 2]
    coordination = np.bincount(neighbor_list("i", slab, 0.85 * a))
    surface = (coordination < 12) & (height > height.mean())
    slab.set_tags(surface.astype(int))
    slab.set_constraint(FixAtoms(mask=~surface))
    return slab


def _adsorbate(rng: np.random.Generator, metals: tuple[str, ...]) -> Atoms:
    """A dimer or trimer at the origin, nearly flat, turned at random."""
    atoms = Atoms(rng.permutation(metals), tags=[2] * len(metals))
    radii = _radii(atoms.symbols)
    angles = np.deg2rad([0, rng.choice([60, 120, 180])])[: len(metals) - 1]
    bonds = 0.95 * (radii[0] + radii[1:])
    atoms.positions[1:, 0] = bonds * np.cos(angles)
    atoms.positions[1:, 1] = bonds * np.sin(angles)
    atoms.positions -= atoms.positions.mean(axis=0)
    atoms.euler_rotate(rng.uniform(0, 360), rng.uniform(0, 20), rng.uniform(0, 360))
    return atoms


def _adsorbed(rng: np.random.Generator, slab: Atoms, adsorbate: Atoms) -> Atoms:
    """The slab with the adsorbate, which is lowered until the first atoms touch.

    Its centre is above the mean of the 1 to 4 surface atoms nearest to a random point (on top,
    bridge, hollow), or above that point.
    """
    shifts = np.array([i * slab.cell[0] + j * slab.cell[1] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    images = slab.positions[:, None] + shifts
    site = rng.uniform(size=2) @ slab.cell[:2, :2]
    surface = images[slab.get_tags() == 1].reshape(-1, 3)[:, :2]
    nearest = np.argsort(np.linalg.norm(surface - site, axis=1))[: rng.integers(5)]
    if nearest.size:
        site = surface[nearest].mean(axis=0)
    adsorbate.positions[:, :2] += site

    contact = _radii(slab.symbols)[:, None, None] + _radii(adsorbate.symbols)
    contact *= rng.uniform(0.9, 1.05)
    apart = images[:, :, None] - adsorbate.positions
    above = contact**2 - apart[..., 0] ** 2 - apart[..., 1] ** 2
    adsorbate.positions[:, 2] += (apart[..., 2] + np.sqrt(above.clip(0)))[above > 0].max()
    both: Atoms = slab + adsorbate
    return both


def _relaxed(sid: int, slab: Atoms, atoms: Atoms) -> Record | None:
    """The relaxed system; None where it must be drawn again."""
    radii = _radii(atoms.symbols)
    i, j, distance = neighbor_list("ijd", atoms, 3.0)
    if (distance < 0.8 * (radii[i] + radii[j])).any():
        return None
    initial = atoms.positions.copy()
    atoms.calc = EMT()
    energy_init = atoms.get_potential_energy()
    if not _relax(atoms):
        return None
    tags = atoms.get_tags()
    bonded = atoms.get_all_distances(mic=True) < 1.3 * (radii[:, None] + radii)
    np.fill_diagonal(bonded, False)
    bonded = bonded[tags == 2]
    if not (bonded[:, tags == 2].any(axis=1).all() and bonded[:, tags < 2].any()):
        return None
    return Record(
        sid=sid,
        atomic_numbers=atoms.numbers.astype(np.int32),
        positions=initial,
        cell=atoms.cell.array.copy(),
        tags=tags.astype(np.int8),
        fixed=tags == 0,
        positions_relaxed=atoms.positions.copy(),
        y_init=float(energy_init - slab.get_potential_energy()),
        y_relaxed=float(atoms.get_potential_energy() - slab.get_potential_energy()),
    )


def _relax(atoms: Atoms) -> bool:
    """Relaxes the atoms in place; returns whether it converged."""
    atoms.calc = EMT()
    silent: Any = None
    # BFGS takes as long, but its matrices are so large that BLAS may use threads, which changes the
    # last bits.
    return bool(LBFGS(atoms, logfile=silent).run(fmax=FMAX, steps=200))


def _radii(symbols: Iterable[str]) -> np.ndarray:
    return np.array([_RADII[symbol] for symbol in symbols])
