"""What ASE reads comes as structures, with why some of a file cannot be had."""

from __future__ import annotations

import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import molecule

from hdgnn_jax.data.ase_files import ASEFile, read_structures
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import StructureError


def test_files_give_structures_or_reasons(tmp_path):
    path = tmp_path / "two.xyz"
    path.write_text("1\n\nH 0 0 0\n3\n\nO 0 0 0\nH 0 0 1\nH zero 0 1\n")
    first, second = read_structures(path)
    assert first.atomic_numbers.tolist() == [1]
    assert isinstance(second, StructureError)
    assert "two.xyz, structure 2 cannot be read" in str(second)
    (missing,) = read_structures(tmp_path / "nowhere.xyz")
    assert "nowhere.xyz, structure 1 cannot be read" in str(missing)


@pytest.mark.parametrize(
    ("words", "unseen"),
    [
        ("", ""),
        ("charge=0 spin=1 multiplicity=1", ""),
        ("charge=1", "charge 1"),
        ("charge=-1 multiplicity=2", "charge -1, multiplicity 2"),
        ("charge=two", "charge two"),
    ],
)
def test_a_charge_and_a_spin_are_what_no_model_sees(tmp_path, words, unseen):
    path = tmp_path / "ion.extxyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:3 {words}\nH 0 0 0\n")
    (structure,) = read_structures(path)
    assert structure.unseen == unseen


@pytest.mark.parametrize(("unit", "ev"), [("kcal/mol", ase.units.kcal / ase.units.mol),
                                          ("kJ/mol", ase.units.kJ / ase.units.mol),
                                          ("Ha", ase.units.Ha), ("Ry", ase.units.Ry)])  # fmt: skip
def test_other_units_and_names_are_read(tmp_path, unit, ev):
    """Held against ASE's units, of CODATA 2014."""
    water, frames = molecule("H2O"), []
    for k in range(10):
        moved = water.copy()
        moved.rattle(0.05, seed=k)
        moved.info["REF_energy"] = -10.0 - k
        moved.arrays["REF_forces"] = moved.positions * k
        frames.append(moved)
    ase.io.write(tmp_path / "own.extxyz", frames)
    path = str(tmp_path / "own.extxyz")
    named = ASEFile(path, energy_unit=unit, energy_key="REF_energy", forces_key="REF_forces")
    part = named.part("train", "energy")
    k = -part.labels["energy"] / ev - 10
    np.testing.assert_allclose(k, part.structures.ids - 1, atol=1e-5)
    per_atom = np.repeat(part.structures.ids - 1, 3)[:, None]
    expected = part.structures.positions * per_atom * ev
    np.testing.assert_allclose(part.forces, expected, rtol=1e-6, atol=1e-5)
    assert named.digest() != ASEFile(path).digest()
    there = "has no energy that is a number; beside positions it has REF_energy, REF_forces: set "
    with pytest.raises(StructureError, match=there + "config.data.energy_key"):
        ASEFile(path).part("train", "energy")
    with pytest.raises(StructureError, match="has no MY_forces"):
        ASEFile(path, energy_key="REF_energy", forces_key="MY_forces").part("train", "energy")


def test_a_unit_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="one of eV, meV, Ha, Ry, kcal/mol, kJ/mol, not 'kcal'"):
        ASEFile("file.xyz", energy_unit="kcal")
