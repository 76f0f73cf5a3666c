"""What ASE reads comes as structures, with why some of a file cannot be had."""

from __future__ import annotations

import pytest
from ase.build import molecule

from hdgnn_jax.data.ase_files import read_structures, structure_of
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
        ("Charge=1", "charge 1"),
        ("total_charge=-1", "total_charge -1"),
        ("charge 1", "charge named in its comment"),
    ],
)
def test_a_charge_and_a_spin_are_what_no_model_sees(tmp_path, words, unseen):
    path = tmp_path / "ion.extxyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:3 {words}\nH 0 0 0\n")
    (structure,) = read_structures(path)
    assert structure.unseen == unseen


@pytest.mark.parametrize(
    ("charges", "moments", "unseen"),
    [
        ((-0.8, 0.4, 0.4), (0, 0, 0), ""),
        ((0, 0.97, 0), (0, 0, 0), "charges of its atoms with the sum +0.97"),
        ((0, 0, 0), (1, 0, 0), "magnetic moments of its atoms with the sum +1"),
        ((0, 0, 0), (1, -1, 0), ""),
    ],
)
def test_charges_and_moments_of_atoms_are_summed(charges, moments, unseen):
    water = molecule("H2O")
    water.set_initial_charges(charges)
    water.set_initial_magnetic_moments(moments)
    assert structure_of(water).unseen == unseen
