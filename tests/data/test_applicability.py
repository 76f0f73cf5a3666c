"""Whoever leaves what a model was trained on is told how."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ase import build
from crystals import random_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import CUTOFF, KNOWN, random_molecules
from scipy.sparse.csgraph import connected_components

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures

WATER, ETHANOL = KNOWN[0], KNOWN[6]


def domain_of(structures: Structures) -> Domain:
    return Domain.of(structures, find_neighbors(structures, CUTOFF))


def warning(domain: Domain, structure: Structure) -> str:
    packed = Structures.pack([structure])
    (doubts,) = domain.doubts(packed, find_neighbors(packed, CUTOFF))
    return "; ".join(doubts)


def test_ranges_are_those_of_brute_force():
    molecules = random_molecules(12, 0)
    found = domain_of(molecules)
    alone: dict[int, list[float]] = {}
    pairs: dict[tuple[int, ...], list[float]] = {}
    for molecule in molecules:
        z = molecule.atomic_numbers.tolist()
        apart = np.linalg.norm(molecule.positions[:, None] - molecule.positions, axis=-1)
        np.fill_diagonal(apart, np.inf)
        for i, row in enumerate(apart):
            alone.setdefault(z[i], []).append(row.min())
            for j in np.flatnonzero(row <= CUTOFF):
                pairs.setdefault(tuple(sorted((z[i], z[j]))), []).append(row[j])
    assert found.atoms == (min(molecules.n_atoms), max(molecules.n_atoms))
    assert found.farthest.keys() == alone.keys()
    for z, high in found.farthest.items():
        np.testing.assert_allclose(high, max(alone[z]), rtol=1e-12)
    assert {(a, b) for a, b, _ in found.closest} == pairs.keys()
    for a, b, low in found.closest:
        np.testing.assert_allclose(low, min(pairs[a, b]), rtol=1e-12)


def test_more_atoms_other_than_hydrogen_than_in_training_are_named():
    """Naphthalene has fewer atoms than the largest molecules of QM9, and one more carbon."""
    domain = dataclasses.replace(domain_of(KNOWN), atoms=(3, 29))
    assert max(domain.sizes) == 3
    with_four = Structure.from_symbols("COOF", 1.3 * np.arange(12.0).reshape(4, 3))
    assert "4 atoms other than hydrogen (trained on up to 3)" in warning(domain, with_four)
    assert "hydrogen" not in warning(domain, WATER)
    assert domain.rare_sizes(Structures.pack([WATER, with_four])) == ["", ""]
    for heavy, words in ((3, "(trained on up to 3)"), (None, "")):
        older = {**domain.to_dict(), "heavy": heavy}
        del older["sizes"]
        assert words in warning(Domain.from_dict(older), with_four)
        assert "hydrogen" not in warning(Domain.from_dict(older), WATER)
    assert domain_of(Structures.pack([random_crystal(0)])).sizes == {}


def test_a_molecule_as_small_as_few_in_training_are_is_named():
    """Of QM9's 130,831 molecules 175 have up to five heavy atoms: 0.13 %."""
    molecules = Structures.pack([WATER] + [ETHANOL] * 300)
    domain = domain_of(molecules)
    heavy = int((ETHANOL.atomic_numbers != 1).sum())
    assert domain.sizes == {1: 1, heavy: 300}
    assert heavy > 1
    both = Structures.pack([WATER, ETHANOL])
    expected = (
        "only 1 of the 301 training molecules has at most 1 atom other than hydrogen: expect "
        "larger errors"
    )
    assert domain.rare_sizes(both) == [expected, ""]
    # It is within the domain all the same.
    assert warning(domain, WATER) == ""
    # Five of a thousand are not rare.
    for n, rare in ((5, False), (4, True), (0, True)):
        sizes = {1: n, heavy: 1000 - n} if n else {heavy: 1000}
        assert bool(dataclasses.replace(domain, sizes=sizes).rare_sizes(both)[0]) == rare


def test_atoms_repel_each_other_where_training_has_none():
    reach = domain_of(KNOWN).reach((1, 8, 9))
    np.testing.assert_array_equal(reach, reach.T)
    # O and H are bonded; two H are near each other but never bonded; F and O are never near.
    assert reach[0, 1] == pytest.approx(0.95 * 0.9621, abs=1e-4)
    assert reach[0, 0] == pytest.approx(0.62)
    assert reach[1, 2] == pytest.approx(1.23)


def test_what_it_was_made_of_is_inside_and_survives_json():
    for structures in (KNOWN, Structures.pack([random_crystal(0), random_crystal(1)])):
        found = Domain.from_dict(json.loads(json.dumps(domain_of(structures).to_dict())))
        assert found == domain_of(structures)
        neighbors = find_neighbors(structures, CUTOFF)
        assert found.doubts(structures, neighbors) == [[]] * len(structures)


def test_each_way_out_is_named():
    domain = domain_of(KNOWN)
    assert warning(domain, Structure(np.array([1]), np.zeros((1, 3)))).startswith(
        "1 atom (trained on 3 to 9); H with no other atom in reach (trained on up to "
    )
    boxed = dataclasses.replace(WATER, cell=9 * np.eye(3), periodic=(True,) * 3)
    assert warning(domain, boxed) == "periodic (trained on molecules)"
    crystals = domain_of(Structures.pack([random_crystal(0), random_crystal(1)]))
    assert "not periodic (trained on structures with cells)" in warning(crystals, WATER)
    platinum = dataclasses.replace(WATER, atomic_numbers=np.array([78, 1, 1]))
    assert warning(domain, platinum) == "Pt, which no training structure has"
    near = dataclasses.replace(WATER, positions=WATER.positions * 0.6)
    assert warning(domain, near) == (
        "H and H 0.92 Å apart (trained on 1.53 and more); "
        "H and O 0.58 Å apart (trained on 0.96 and more)"
    )
    far = dataclasses.replace(WATER, positions=WATER.positions * 1.5)
    assert "O 1.45 Å from the next atom (trained on up to 1.21" in warning(domain, far)
    fluorine = Structure(np.array([9, 9, 9]), np.array([[0, 0, 0], [1.42, 0, 0], [2.84, 0, 0]]))
    assert "F and F 1.42 Å apart (bonded in no training structure)" in warning(domain, fluorine)


def test_atoms_that_are_bonded_as_none_in_training_are_named():
    """A cation and radicals of QM9's elements are no molecules of QM9."""
    ethanol, ammonia = molecule_of("CH3CH2OH"), molecule_of("NH3")
    domain = domain_of(Structures.pack([ethanol, ammonia]))
    assert domain.bonded == {
        (1, (6,)), (1, (7,)), (1, (8,)), (6, (1, 1, 1, 6)), (6, (1, 1, 6, 8)), (7, (1, 1, 1)),
        (8, (1, 6)),
    }  # fmt: skip
    assert warning(domain, ethanol) == ""
    assert "O bonded to 2 H (not seen in training)" in warning(domain, molecule_of("H2O"))
    assert "C bonded to 3 H and 1 C (not seen" not in warning(domain, molecule_of("C2H6"))
    assert "C bonded to 3 H (not seen in training)" in warning(domain, molecule_of("CH3"))
    # Metals have as many kinds of neighbourhoods as atoms.
    boxed = dataclasses.replace(WATER, cell=9 * np.eye(3), periodic=(True,) * 3)
    assert "bonded" not in warning(domain, boxed)
    assert not domain_of(Structures.pack([random_crystal(0)])).bonded


@pytest.mark.parametrize(("name", "odd"), [("CH3O", True), ("NO", True), ("CH3OH", False)])
def test_radicals_are_named_where_training_has_none(name, odd):
    """A file of positions says nothing of them."""
    structure = molecule_of(name)
    assert (structure.atomic_numbers.sum() % 2 == 1) == odd
    assert ("an odd sum of atomic numbers" in warning(domain_of(KNOWN), structure)) == odd
    with_radical = Structures.pack([*KNOWN, molecule_of("CH3")])
    assert "an odd sum" not in warning(domain_of(with_radical), structure)
    assert Domain.from_dict(json.loads(json.dumps(domain_of(with_radical).to_dict()))).odd


def molecule_of(name: str) -> Structure:
    atoms = build.molecule(name)
    return Structure(atoms.numbers, atoms.positions)


@given(st.integers(1, 12), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_molecules_side_by_side_are_counted_as_scipy_counts_components(n, seed):
    """Also long chains, whose atoms have any order."""
    rng = np.random.default_rng(seed)
    atoms = rng.permutation(np.arange(n * 6))
    # Carbon atoms 1.5 Å apart; every fourth distance is 4 Å.
    places = np.cumsum(np.where(rng.random(n * 6) < 0.25, 4.0, 1.5))
    chain = Structure.from_symbols("C" * (n * 6), np.outer(places, [1.0, 0, 0])[atoms])
    packed = Structures.pack([chain])
    found = domain_of(packed).fragments
    near = np.abs(np.subtract.outer(chain.positions[:, 0], chain.positions[:, 0])) < 1.6
    assert found == connected_components(near)[0]


def test_molecules_side_by_side_are_named_where_training_has_none():
    apart = WATER.positions + np.array([0, 0, 4.0])
    two = Structure.from_symbols("OHHOHH", np.concatenate([WATER.positions, apart]))
    assert "2 molecules side by side (trained on one at a time)" in warning(domain_of(KNOWN), two)
    seen = domain_of(Structures.pack([two, *KNOWN]))
    assert seen.fragments == 2
    assert "side by side" not in warning(seen, two)
    content = seen.to_dict()
    del content["fragments"]
    assert Domain.from_dict(content).fragments == 1
