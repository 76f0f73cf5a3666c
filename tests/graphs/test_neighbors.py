"""Neighbours are all pairs of one molecule within the cutoff."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import random_molecules

from hdgnn_jax.graphs.neighbors import Neighborhoods, find_neighbors, search_neighbors
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures


def pairs_of(neighbors, k):
    """(receiver, sender) of molecule k, in the stored order."""
    edges = slice(*neighbors.offsets[k : k + 2])
    return list(
        zip(neighbors.receivers[edges].tolist(), neighbors.senders[edges].tolist(), strict=True)
    )


@given(
    count=st.integers(1, 8),
    seed=st.integers(0, 999),
    cutoff=st.floats(0.5, 6),
    chunk=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_edges_are_all_pairs_within_the_cutoff_by_receiver(count, seed, cutoff, chunk):
    structures = random_molecules(count, seed, atoms=(1, 7))
    neighbors = find_neighbors(structures, cutoff, chunk=chunk)
    assert neighbors.n_edges.sum() == len(neighbors.senders) == len(neighbors.receivers)
    for k, molecule in enumerate(structures):
        found = pairs_of(neighbors, k)
        x = molecule.positions.tolist()
        assert [i for i, _ in found] == sorted(i for i, _ in found)
        assert sorted(found) == [
            (i, j)
            for i in range(len(x))
            for j in range(len(x))
            if i != j and math.dist(x[i], x[j]) <= cutoff
        ]


def test_an_atom_at_the_cutoff_is_a_neighbour():
    two = Structures.pack([Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 3, 0]]))])
    assert pairs_of(find_neighbors(two, 3.0), 0) == [(0, 1), (1, 0)]
    assert pairs_of(find_neighbors(two, np.nextafter(3.0, 0)), 0) == []


def test_taking_molecules_takes_their_edges():
    structures = random_molecules(6, seed=3, atoms=(1, 6))
    order = np.array([5, 1, 1, 0])
    taken = find_neighbors(structures, 2.5).take(order)
    expected = find_neighbors(structures.take(order), 2.5)
    for field in ("offsets", "senders", "receivers"):
        np.testing.assert_array_equal(getattr(taken, field), getattr(expected, field))


@pytest.mark.parametrize("gap", [0.0, 0.009])
def test_molecule_with_two_atoms_at_one_place_is_named(gap):
    good = list(random_molecules(3, seed=4))
    bad = Structure(np.ones(3, int), np.array([[0, 0, 0], [1, 0, 0], [1, gap, 0]]))
    with pytest.raises(StructureError, match="record 2 has atoms 1 and 2 at one place"):
        find_neighbors(Structures.pack([*good[:2], bad, good[2], bad], "record"), 3.0)


def test_a_search_names_all_that_collide_and_has_the_edges_of_the_others():
    good = list(random_molecules(3, seed=4))
    bad = Structure(np.ones(3, int), np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0]]))
    packed = Structures.pack([good[0], bad, *good[1:], bad])
    found, collisions = search_neighbors(packed, 3.0)
    reason = "has atoms 1 and 2 at one place (nearer than 0.01 Å)"
    assert collisions == {1: reason, 4: reason}
    expected = find_neighbors(Structures.pack(good), 3.0)
    few = Neighborhoods(packed, found).take(np.array([0, 2, 3]))
    assert few.structures.ids.tolist() == [0, 2, 3]
    assert len(few) == 3
    for field in ("offsets", "senders", "receivers"):
        np.testing.assert_array_equal(getattr(few.neighbors, field), getattr(expected, field))


def test_no_atoms_no_edges():
    empty = Structure(np.zeros(0, int), np.zeros((0, 3)))
    one = Structure(np.ones(1, int), np.zeros((1, 3)))
    assert find_neighbors(Structures.pack([empty, one, empty]), 3.0).offsets.tolist() == [0] * 4
