"""What ASE reads comes as structures, with why some of a file cannot be had."""

from __future__ import annotations

import gzip

import ase.db
import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from hdgnn_jax.data.ase_files import read_labelled, read_structures, structure_of
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


@pytest.mark.parametrize("end", ["", "\n\n"])
def test_what_ase_does_not_read_is_no_silence(tmp_path, end):
    """It stops at an empty line."""
    frame = "1\n\nH 0 0 0\n"
    path = tmp_path / "two.xyz"
    path.write_text(frame * 2 + end)
    assert len(list(read_structures(path))) == 2
    path.write_text(frame + "\n" + frame + end)
    _, second = read_structures(path)
    assert "two.xyz, structure 2 cannot be read (ASE stops at the empty line" in str(second)
    path.write_text(frame, encoding="utf-8-sig")
    assert "cannot be read (it begins with a byte-order mark" in str(*read_structures(path))


def test_all_molecules_of_an_sdf_file_are_read(tmp_path):
    """As RDKit writes them, with titles, data fields and charges."""
    path, written = tmp_path / "three.sdf", []
    with Chem.SDWriter(str(path)) as file:
        for smiles in ("CCO", "[NH4+]", "CC(=O)[O-].[NH4+]"):
            molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
            rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
            molecule.SetProp("_Name", f"title of {smiles}")
            molecule.SetProp("activity", "1.5")
            file.write(molecule)
            written.append(molecule)
    found = list(read_structures(path))
    assert [s.comment for s in found] == [m.GetProp("_Name") for m in written]
    assert [s.unseen for s in found] == ["", "charge 1", ""]
    for structure, molecule in zip(found, written, strict=True):
        assert structure.atomic_numbers.tolist() == [a.GetAtomicNum() for a in molecule.GetAtoms()]
        expected = molecule.GetConformer().GetPositions()
        np.testing.assert_allclose(structure.positions, expected, atol=1e-4)
    with gzip.open(tmp_path / "packed.sdf.gz", "wb") as packed:
        packed.write(path.read_bytes())
    assert len(list(read_structures(tmp_path / "packed.sdf.gz"))) == 3
    labelled = read_labelled(path, "energy", key="activity")
    assert labelled.labels["energy"].tolist() == [1.5] * 3


def test_a_bad_molecule_of_an_sdf_file_costs_no_other(tmp_path):
    """Drawings, a cut one, and what RDKit cannot read; V3000, radicals and mol files are read."""
    molecule = Chem.AddHs(Chem.MolFromSmiles("C[CH2]"))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    good, newer = Chem.MolToMolBlock(molecule), Chem.MolToV3KMolBlock(molecule)
    drawn = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    blocks = [drawn, good, "\n".join(good.split("\n")[:6]) + "\n", "words\n", newer]
    path = tmp_path / "some.sdf"
    path.write_text("\ufeff" + "".join(f"{block}$$$$\n" for block in blocks), encoding="utf-8")
    found = list(read_structures(path))
    assert [isinstance(one, StructureError) for one in found] == [True, False, True, True, False]
    assert "structure 1 cannot be read (its positions are those of a drawing, 2D" in str(found[0])
    assert "some.sdf, structure 3 cannot be read (RDKit finds no molecule in it)" in str(found[2])
    for structure in (found[1], found[4]):
        assert structure.atomic_numbers.tolist() == [6, 6, 1, 1, 1, 1, 1]
        assert structure.unseen == "multiplicity 2"
    (tmp_path / "one.mol").write_text(good)
    (one,) = read_structures(tmp_path / "one.mol")
    np.testing.assert_array_equal(one.positions, found[1].positions)


def test_a_file_as_qm9_publishes_it_is_read(tmp_path):
    """Numbers as Mathematica writes them; charges, frequencies, SMILES and InChI are no atoms."""
    file = tmp_path / "dsgdb9nsd_000003.xyz"
    atoms = ["O\t-0.034\t 0.978\t 7.6*^-6\t-0.59", "H\t0.065\t0.021\t0.002\t0.3"]
    after = ["3803.6\t3907.7", "O\tO", "InChI=1S/H2O\tInChI=1S/H2O"]
    file.write_text("\n".join(["2", "gdb 3\t799.6\t437.9", *atoms, *after]))
    (read,) = read_structures(file)
    assert read.atomic_numbers.tolist() == [8, 1]
    assert read.positions.tolist() == [[-0.034, 0.978, 7.6e-6], [0.065, 0.021, 0.002]]
    assert read.comment.startswith("gdb 3")
    file.write_text("\n".join(["2", "gdb 3", atoms[0]]))
    (cut,) = read_structures(file)
    assert str(cut) == (
        "dsgdb9nsd_000003.xyz, structure 1 cannot be read (it ends after 1 of 2 atoms)"
    )


def test_a_comment_like_that_of_qm9_is_no_file_of_qm9(tmp_path):
    atoms = "H 0 0 0 0.1\nH 0 0 0.75 0.2\n"
    (tmp_path / "two.xyz").write_text(f"2\ngdb 1\n{atoms}2\ngdb 2\n{atoms}")
    assert [s.comment for s in read_structures(tmp_path / "two.xyz")] == ["gdb 1", "gdb 2"]
    named = "gdb 3 energy=-1.5 Properties=species:S:1:pos:R:3:charge:R:1"
    (tmp_path / "one.xyz").write_text(f"2\n{named}\n{atoms}")
    assert read_labelled(tmp_path / "one.xyz", "energy").labels["energy"].tolist() == [-1.5]


def test_a_name_with_an_at_sign_is_that_file(tmp_path):
    (tmp_path / "water").write_text("1\n\nO 0 0 0\n")
    path = tmp_path / "water@300.xyz"
    path.write_text("2\n\nH 0 0 0\nF 0 0 1\n")
    (structure,) = read_structures(path)
    assert structure.atomic_numbers.tolist() == [1, 9]


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


def test_a_database_has_energies_among_its_data(tmp_path):
    """As SchNetPack writes them."""
    with ase.db.connect(tmp_path / "some.db") as rows:
        for k in range(3):
            rows.write(molecule("H2O"), data={"energy": np.array([float(k)]),
                                              "forces": np.full((3, 3), k)}, group=f"g{k % 2}")
    found = read_labelled(tmp_path / "some.db", "energy")
    assert found.labels["energy"].tolist() == [0, 1, 2]
    assert found.forces[:, 0].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert found.groups.tolist() == [0, 1, 0]


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
