"""Bonds as neighbours: those of a SMILES, else by covalent radii, against RDKit and brute force."""

from __future__ import annotations

import dataclasses
import itertools

import ase.data
import numpy as np
import pytest
from crystals import random_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import KNOWN, permuted, random_molecules
from rdkit import Chem

from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.neighbors import (
    Neighborhoods,
    NeighborSearch,
    find_neighbors,
    neighbors_of,
    search_neighbors,
    within_cutoff,
)
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

SMILES = (
    "C", "O", "CCO", "C#N", "C1CC1", "c1ccccc1", "CC(=O)N", "OC1CC1C#N", "c1cc[nH]c1", "FC(F)(F)CO",
    "N#CC1CO1", "O=C1CC2CC12", "[NH3+]CC([O-])=O",
)  # fmt: skip
"""Like QM9's molecules."""


def bonds_of(structures: Structures, cutoff: float = 5.0, **options) -> list[list]:
    """For each structure its edges, (receiver, sender, image of the sender), ascending."""
    found = find_neighbors(structures, cutoff, neighborhood="bonds", **options)
    images = np.zeros((len(found.senders), 3), int) if found.images is None else found.images
    columns = (found.receivers, found.senders, images)
    edges = list(zip(*(column.tolist() for column in columns), strict=True))
    return [sorted(edges[a:b]) for a, b in itertools.pairwise(found.offsets)]


def brute_force(structure: Structure, cutoff: float) -> list:
    """All ordered pairs, one after another, images up to two cells away."""
    steps = [range(-2, 3) if p and structure.cell is not None else (0,) for p in structure.periodic]
    cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
    radii = ase.data.covalent_radii[structure.atomic_numbers]
    found = []
    for i, j in itertools.product(range(len(radii)), repeat=2):
        for image in itertools.product(*steps):
            there = structure.positions[j] + np.array(image) @ cell
            distance = np.linalg.norm(there - structure.positions[i])
            if 0 < distance <= cutoff and distance < 1.3 * (radii[i] + radii[j]):
                found.append((i, j, list(image)))
    return sorted(found)


def of_rdkit(smiles: str) -> list:
    """The bonds of the molecule itself."""
    pairs = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx())
        for b in Chem.AddHs(Chem.MolFromSmiles(smiles)).GetBonds()
    ]
    return sorted((i, j, [0, 0, 0]) for a, b in pairs for i, j in ((a, b), (b, a)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), cutoff=st.floats(1.0, 4.0), chunk=st.integers(1, 3))
def test_of_molecules_and_crystals_they_are_pairs_nearer_than_the_radii_allow(seed, cutoff, chunk):
    crystals = [
        random_crystal(seed, n=2),
        random_crystal(seed + 1, periodic=(True, False, True)),
        random_crystal(seed + 2, periodic=(False, False, False)),
    ]
    structures = Structures.pack([*random_molecules(3, seed, (1, 7)), *crystals])
    found = bonds_of(structures, cutoff, chunk=chunk)
    assert found == [brute_force(structure, cutoff) for structure in structures]


def test_large_molecules_too():
    apart = [np.array([0, 0, 9.0 * k]) for k in range(14)]
    side_by_side = Structure(
        np.tile(KNOWN.atomic_numbers, 2),
        np.concatenate([s.positions + a for s, a in zip([*KNOWN] * 2, apart, strict=True)]),
    )
    assert len(side_by_side.positions) > 60
    assert bonds_of(Structures.pack([side_by_side])) == [brute_force(side_by_side, 5.0)]


@pytest.mark.parametrize("smiles", SMILES)
def test_the_radii_give_the_graph_of_the_smiles(smiles):
    """Of a structure that an xyz file could hold; and the SMILES gives its own."""
    (structure,), _ = conformers(smiles)
    bare = dataclasses.replace(structure, bonds=None)
    assert bonds_of(Structures.pack([structure, bare])) == [of_rdkit(smiles)] * 2


def test_a_smiles_gives_its_own_graph_wherever_the_atoms_are():
    """Cyclobutadiene flattened to a line of atoms, between molecules that have no graph."""
    smiles = "C1=CC=C1"
    (structure,), _ = conformers(smiles)
    line = np.outer(np.arange(len(structure.positions)), [0.3, 0.1, 0])
    moved = dataclasses.replace(structure, positions=line)
    structures = Structures.pack([KNOWN[0], moved, KNOWN[1], structure])
    found = bonds_of(structures)
    assert found[1] == found[3] == of_rdkit(smiles)
    assert [found[0], found[2]] == [brute_force(KNOWN[k], 5.0) for k in (0, 1)]
    taken = structures.take(np.array([3, 1, 0]))
    assert bonds_of(taken) == [found[3], found[1], found[0]]
    assert taken.take(np.array([2]))[0].bonds is None
    np.testing.assert_array_equal(taken[1].bonds, structure.bonds)
    # Beyond the cutoff the model sees nothing.
    near = [(i, j, image) for i, j, image in found[1] if abs(i - j) * np.hypot(0.3, 0.1) <= 1.0]
    assert 0 < len(near) < len(found[1])
    assert bonds_of(structures, 1.0)[1] == near


def test_two_molecules_of_one_smiles_are_not_bonded_and_an_ion_has_no_edge():
    (pair,), _ = conformers("O.O")
    halves = [{i for i, _, _ in edges} for edges in bonds_of(Structures.pack([pair]))]
    assert bonds_of(Structures.pack([pair])) == [of_rdkit("O.O")]
    assert halves == [set(range(6))]
    (salt,), _ = conformers("[Na+].[Cl-]")
    near = dataclasses.replace(salt, positions=np.array([[0.0, 0, 0], [0, 0, 2.4]]))
    bare = dataclasses.replace(near, bonds=None)
    assert bonds_of(Structures.pack([near, bare])) == [[], brute_force(bare, 5.0)]
    assert brute_force(bare, 5.0)


def test_own_bonds_in_a_cell_join_no_images():
    cell = np.diag([2.0, 9, 9])
    chain = Structure(np.array([6, 6]), np.array([[0.0, 0, 0], [1.4, 0, 0]]), cell=cell)
    own = dataclasses.replace(chain, bonds=np.array([[0, 1]]))
    by_radii, by_own = bonds_of(Structures.pack([chain, own]))
    assert by_radii == brute_force(chain, 5.0)
    assert (0, 1, [-1, 0, 0]) in by_radii
    assert by_own == [(0, 1, [0, 0, 0]), (1, 0, [0, 0, 0])]


def test_the_order_of_atoms_does_not_matter():
    here, there = (find_neighbors(s, 5.0, None, "bonds") for s in (KNOWN, permuted(KNOWN, 0)))
    np.testing.assert_array_equal(here.n_edges, there.n_edges)


def test_with_a_limit_the_nearest_bonds_are_kept():
    methane = Structures.pack([KNOWN[1]])
    found = find_neighbors(methane, 5.0, 2, "bonds")
    assert np.bincount(found.receivers).tolist() == [3, 1, 1, 1, 1]
    search = neighbors_of(methane, 5.0, 2, "bonds")
    assert isinstance(search, NeighborSearch)
    np.testing.assert_array_equal(search.found().senders, found.senders)


def test_what_was_found_says_how_and_leads_back_to_all_pairs():
    bonds = find_neighbors(KNOWN, 3.0, None, "bonds")
    assert bonds.neighborhood == bonds.take(np.array([1])).neighborhood == "bonds"
    every = find_neighbors(KNOWN, 3.0)
    assert within_cutoff(KNOWN, every) is every
    for few in (np.arange(7), np.array([6, 2])):
        here = Neighborhoods(KNOWN, bonds).take(few)
        again, expected = within_cutoff(here.structures, here.neighbors), every.take(few)
        assert again.neighborhood == "cutoff"
        np.testing.assert_array_equal(again.senders, expected.senders)


def test_atoms_at_one_place_are_named_though_not_bonded():
    own = np.array([[0, 1]])
    bad = Structure(np.array([1, 1, 1]), np.array([[0.0, 0, 0], [0.7, 0, 0], [0.7, 0, 0.001]]))
    packed = Structures.pack([dataclasses.replace(bad, bonds=own)])
    assert "atoms 1 and 2 at one place" in search_neighbors(packed, 3.0, None, "bonds")[1][0]


@pytest.mark.parametrize("bonds", [[[0, 3]], [[-1, 0]], [[1, 1]], [[0, 1, 2]]])
def test_bonds_of_other_atoms_are_refused(bonds):
    water = dataclasses.replace(KNOWN[0], bonds=np.array(bonds))
    with pytest.raises(StructureError, match="has bonds that are not pairs of its 3 atoms"):
        Structures.pack([water])
