"""A data set with forces that needs no download: molecules of QM9 in motion, with GFN2-xTB.

Each molecule starts from QM9's geometry and moves by Langevin dynamics. Shapes along the way are
written with energy, forces and dipole moment of GFN2-xTB (Bannwarth et al. 2019), computed by
`tblite`. This semi-empirical method is good enough for training, but errors on its data cannot be
compared with published ones.
"""

from __future__ import annotations

import importlib.metadata

import ase
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from tblite.ase import TBLite

from hdgnn_jax.graphs.structure import Structure

SHAPES = 4
"""Number of shapes of each molecule."""
BETWEEN = 12
"""fs from one shape to the next: about one period of a C-H bond."""
KELVIN = (300.0, 900.0)
"""The temperature of each molecule is drawn from this range."""


def method() -> str:
    """The origin of the numbers, for readers of the file."""
    return f"GFN2-xTB (tblite {importlib.metadata.version('tblite')}), made by hdgnn_jax"


def move(molecule: Structure, seed: int) -> list[ase.Atoms]:
    """Shapes of a molecule in motion, with `energy` (eV), `forces` (eV/Å) and `dipole` (e Å).

    The result depends on molecule and seed alone, except for rounding in tblite's sums.
    """
    rng = np.random.RandomState(seed)
    atoms = ase.Atoms(molecule.atomic_numbers, molecule.positions)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    kelvin = rng.uniform(*KELVIN)
    spread = np.sqrt(atoms.get_masses() * units.kB * kelvin)[:, None]
    atoms.set_momenta(spread * rng.normal(size=(len(atoms), 3)))
    dynamics = Langevin(
        atoms, units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    shapes = []
    for _ in range(SHAPES):
        dynamics.run(BETWEEN)
        shape = ase.Atoms(atoms.numbers, atoms.positions)
        shape.calc = SinglePointCalculator(
            shape,
            energy=float(atoms.get_potential_energy()),
            forces=atoms.get_forces(),
            dipole=atoms.get_dipole_moment(),
        )
        shape.info |= {"group": molecule.name, "kelvin": round(kelvin, 1), "method": method()}
        shapes.append(shape)
    return shapes
