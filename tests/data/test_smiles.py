"""Positions from SMILES: the right molecule, the same each time, and reasons for bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from hdgnn_jax.data import smiles
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.structure import StructureError


def test_ethanol_is_ethanol_and_the_same_twice():
    (first,), how = conformers("CCO")
    (second,), _ = conformers("CCO")
    assert sorted(first.atomic_numbers.tolist()) == [1] * 6 + [6, 6, 8]
    np.testing.assert_array_equal(first.positions, second.positions)
    apart = np.linalg.norm(first.positions[:, None] - first.positions, axis=-1)
    # Atoms 0, 1, 2 are C, C, O.
    np.testing.assert_allclose([apart[0, 1], apart[1, 2]], [1.52, 1.42], atol=0.03)
    assert how == "RDKit ETKDGv3, relaxed with MMFF94"


@pytest.mark.parametrize(
    ("one", "other"),
    [("CCO", "OCC"), ("CC(C)=O", "O=C(C)C"), ("C[C@H](O)CC", "CC[C@H](C)O"), ("C[2H]", "[2H]C"),
     ("CC(C)O", "[CH3:9][CH:1]([CH3:2])[OH:3]")],
)  # fmt: skip
def test_a_molecule_has_one_geometry_however_it_is_written(one, other):
    """With the atoms in the order of the SMILES, and its hydrogens after them, in that order."""
    from rdkit import Chem

    shapes = []
    for text in (one, other):
        (structure,), _ = conformers(text)
        written = Chem.AddHs(Chem.MolFromSmiles(text))
        assert structure.atomic_numbers.tolist() == [a.GetAtomicNum() for a in written.GetAtoms()]
        bonds = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in written.GetBonds()}
        assert {frozenset(bond) for bond in structure.bonds.tolist()} == bonds
        first, second = structure.positions[structure.bonds].swapaxes(0, 1)
        assert np.linalg.norm(first - second, axis=1).max() < 1.6
        shapes.append(np.sort(pdist(structure.positions)))
    np.testing.assert_array_equal(*shapes)


def test_of_several_conformers_the_lowest_is_first():
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers

    found, how = conformers("OCCCO", 6)
    assert how.endswith("the lowest of 6")
    molecule = Chem.AddHs(Chem.MolFromSmiles("OCCCO"))
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    energies = []
    for structure in found:
        conformer = Chem.Conformer(len(structure.positions))
        conformer.SetPositions(np.ascontiguousarray(structure.positions))
        molecule.RemoveAllConformers()
        molecule.AddConformer(conformer)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties)
        energies.append(field.CalcEnergy())
    assert energies == sorted(energies)
    assert energies[-1] > energies[0] + 0.1


def test_what_mmff_does_not_know_is_said():
    assert conformers("[Na+].[Cl-]")[1].startswith("RDKit ETKDGv3")
    assert "MMFF94 has not all its atom types" in conformers("[Au]C")[1]
    # Without energies none is the lowest.
    assert conformers("CC[Au]", 2)[1].endswith("the first of 2")


def test_what_a_model_does_not_see_is_said():
    for text, unseen in (
        ("C", ""),
        ("[NH4+]", "charge +1"),
        ("[2H]C", "isotopes"),
        ("[CH3]", "1 unpaired electron"),
        ("CC(=O)[O-].C[NH3+]", "separated charges"),
        ("[NH3+]CC([O-])=O", "separated charges"),
        # Each next to its opposite: one way to write a bond.
        ("C[N+](=O)[O-]", ""),
        ("[O-][n+]1ccccc1", ""),
        ("[N-]=[N+]=NC", ""),
    ):
        assert conformers(text)[0][0].unseen == unseen


def nearest(structure):
    return pdist(structure.positions).min()


def test_molecules_of_one_smiles_do_not_lie_in_one_another():
    (structure,), how = conformers("O.O.CCO")
    assert "3 molecules side by side" in how
    assert nearest(structure) > 0.9


def test_atoms_on_top_of_each_other_are_refused(monkeypatch):
    monkeypatch.setattr(smiles, "NEAREST", 2.0)
    with pytest.raises(StructureError, match=r"places two atoms of 'C' 1.09 Å from each other"):
        conformers("C")


def test_long_chains_are_embedded():
    ((structure,), _) = conformers("C" * 70)
    assert len(structure.atomic_numbers) == 212
    assert nearest(structure) > 0.9


@pytest.mark.parametrize("smiles", ["", "C1CC", "not a molecule", "C(C)(C)(C)(C)C"])
def test_bad_smiles_are_refused_in_silence(smiles, capfd):
    with pytest.raises(StructureError, match="is no SMILES that RDKit can read"):
        conformers(smiles)
    assert capfd.readouterr() == ("", "")
