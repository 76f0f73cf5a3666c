"""Molecules in motion: real forces of a real method, the same from the same seed."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from molecules import KNOWN

from hdgnn_jax.data import dynamics
from hdgnn_jax.data.ase_files import read_labelled
from hdgnn_jax.data.processes import map_in_processes
from hdgnn_jax.graphs.structure import StructureError


@pytest.fixture(scope="module")
def moved():
    return list(map_in_processes(dynamics.move, list(KNOWN)[:3], [0, 1, 2], processes=1))


def test_shapes_are_a_function_of_molecule_and_seed(moved):
    again = dynamics.move(KNOWN[1], 1)
    other = dynamics.move(KNOWN[1], 2)
    for a, b, c in zip(moved[1], again, other, strict=True):
        # tblite's sums depend on where its arrays lie in memory.
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-9)
        np.testing.assert_allclose(a.get_potential_energy(), b.get_potential_energy(), rtol=1e-9)
        assert np.abs(a.positions - c.positions).max() > 1e-3


def test_forces_are_finite_differences_of_the_energy_of_tblite(moved):
    from tblite.ase import TBLite

    atoms = moved[0][-1]
    forces = atoms.get_forces()
    direction = np.random.default_rng(0).normal(size=forces.shape)

    def energy(t: float) -> float:
        there = ase.Atoms(atoms.numbers, atoms.positions + t * direction)
        there.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
        return there.get_potential_energy()

    slope = (energy(1e-3) - energy(-1e-3)) / 2e-3
    np.testing.assert_allclose(slope, -np.sum(forces * direction), rtol=1e-3)


def test_a_file_of_them_reads_back(moved, tmp_path):
    path = tmp_path / "moved.extxyz"
    frames = [atoms for shapes in moved for atoms in shapes]
    ase.io.write(path, frames)
    found = read_labelled(path, "energy")
    assert len(found) == 3 * dynamics.SHAPES
    assert found.labels.keys() == {"energy"}
    assert len(np.unique(found.groups)) == 3
    energies = [atoms.calc.results["energy"] for atoms in frames]
    np.testing.assert_allclose(found.labels["energy"], energies, rtol=1e-12)
    np.testing.assert_allclose(
        found.forces, np.concatenate([atoms.get_forces() for atoms in frames]), atol=1e-7
    )
    dipoles = read_labelled(path, "dipole")
    assert dipoles.forces is None
    found = dipoles.labels["dipole"]
    np.testing.assert_allclose(found[0], frames[0].calc.results["dipole"], atol=1e-7)


def test_what_a_file_lacks_is_named(moved, tmp_path):
    path = tmp_path / "moved.extxyz"
    bare = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    ase.io.write(path, [moved[0][0], bare])
    with pytest.raises(StructureError, match=r"moved.extxyz, structure 2 has no energy; beside"):
        read_labelled(path, "energy")
    with pytest.raises(StructureError, match=r"there is no file .*nowhere.xyz"):
        read_labelled(tmp_path / "nowhere.xyz", "energy")
    path.write_text("2\n\nH 0 0 0\nH 0 zero 1\n")
    with pytest.raises(StructureError, match=r"moved.extxyz, structure 1 cannot be read"):
        read_labelled(path, "energy")
