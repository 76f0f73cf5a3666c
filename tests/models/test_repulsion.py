"""The repulsion of near nuclei is that of Ziegler, Biersack and Littmark."""

from __future__ import annotations

import itertools

import ase.data
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from crystals import random_crystal
from molecules import doubled, graph_of, random_molecules

from hdgnn_jax.graphs.covalent import COVALENT_RADII
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.forces import with_derivatives
from hdgnn_jax.models.repulsion import Repulsion

ELEMENTS = (1, 6, 7, 8, 9, 29, 47, 79)
RADII = COVALENT_RADII[list(ELEMENTS)]
REACH = tuple(map(tuple, (RADII[:, None] + RADII).tolist()))
REPULSION = Repulsion(ELEMENTS, REACH, 1000.0)


def expected(structure: Structure) -> float:
    """meV, by a loop over pairs of atoms and images."""
    total, x = 0.0, structure.positions
    cells = itertools.product((-1, 0, 1), repeat=3) if structure.cell is not None else [(0, 0, 0)]
    for cell in cells:
        shift = np.array(cell) @ structure.cell if any(cell) else np.zeros(3)
        for (i, z), (j, w) in itertools.product(enumerate(structure.atomic_numbers), repeat=2):
            r = float(np.linalg.norm(x[j] + shift - x[i]))
            t = r / (COVALENT_RADII[z] + COVALENT_RADII[w])
            if r == 0 or t >= 1:
                continue
            length = 0.8854 * ase.units.Bohr / (z**0.23 + w**0.23)
            screened = sum(
                c * np.exp(-b * r / length)
                for c, b in ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4029), (0.02817, 0.2016))
            )
            fading = 1 - 21 * t**5 + 35 * t**6 - 15 * t**7
            coulomb = ase.units.Hartree * ase.units.Bohr * z * w / r
            total += coulomb * screened * fading / 2
    return 1000 * total


def test_energy_is_the_sum_over_pairs():
    near = random_molecules(8, 0)
    crystals = [random_crystal(k) for k in range(2)]
    for structures in (near, Structures.pack(crystals)):
        with jax.enable_x64(True):
            found = jax.jit(REPULSION.energies)(doubled(graph_of(structures)))[: len(structures)]
        wanted = [expected(structure) for structure in structures]
        assert max(wanted) > 10
        # Positions of a graph are rounded to float32.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-3)


def test_it_ends_smoothly_at_its_reach_and_its_slope_is_exact():
    """In float64, by central differences; 0 beyond, and for atoms far inside still finite."""
    pair = Structures.pack([Structure(np.array([6, 8]), np.eye(3)[:2])])
    graph = doubled(graph_of(pair))

    @jax.jit
    def energy(r: float) -> tuple[jax.Array, jax.Array]:
        x = jnp.zeros_like(graph.nodes.positions).at[1, 2].set(r)
        there = graph._replace(nodes=graph.nodes._replace(positions=x))
        found = with_derivatives(lambda moved: REPULSION.energies(moved)[:, None], there)
        return found.value[0, 0], found.forces[1, 2]

    with jax.enable_x64(True):
        for r in (0.05, 0.5, 1.0, 1.3, 1.41, 1.5, 2.9):
            h = 1e-5
            slope = (energy(r - h)[0] - energy(r + h)[0]) / (2 * h)
            np.testing.assert_allclose(energy(r)[1], slope, rtol=1e-6, atol=1e-6)
            assert (energy(r)[0] > 0) == (r < 1.42)


def test_radii_are_those_of_ase():
    np.testing.assert_array_equal(COVALENT_RADII[1:97], ase.data.covalent_radii[1:97])
