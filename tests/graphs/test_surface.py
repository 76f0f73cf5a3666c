"""Slabs whose bulk atoms see no neighbours, against brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from crystals import random_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import permuted

from hdgnn_jax.graphs.neighbors import (
    NeighborSearch,
    find_neighbors,
    neighbors_of,
    search_neighbors,
    within_cutoff,
)
from hdgnn_jax.graphs.structure import StructureError, Structures

BULK = "structure 1 has no atom of the surface .tag 1. or the adsorbate .tag 2."


def slabs(seed: int) -> Structures:
    """Three, each with an atom of the bulk and one of the adsorbate."""
    found = []
    for k in range(3):
        crystal = random_crystal(seed + k, periodic=(True, True, False))
        tags = np.concatenate([[0, 2], crystal.tags[2:]])
        found.append(dataclasses.replace(crystal, tags=tags))
    return Structures.pack(found)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), cutoff=st.floats(2.0, 5.0), limit=st.sampled_from([None, 1, 4]))
def test_edges_are_those_of_all_that_do_not_end_in_the_bulk(seed, cutoff, limit):
    structures = slabs(seed)
    every = find_neighbors(structures, cutoff, limit)
    found = find_neighbors(structures, cutoff, limit, "surface")
    owner = np.repeat(np.arange(3), every.n_edges)
    kept = structures.tags[structures.offsets[owner] + every.receivers] > 0
    for name in ("senders", "receivers", "images"):
        np.testing.assert_array_equal(getattr(found, name), getattr(every, name)[kept])
    np.testing.assert_array_equal(found.n_edges, np.bincount(owner[kept], minlength=3))
    if limit is not None:
        search = neighbors_of(structures, cutoff, limit, "surface")
        assert isinstance(search, NeighborSearch)
        np.testing.assert_array_equal(search.found().senders, found.senders)
        assert (search.n_edges >= found.n_edges).all()
        assert (search.n_edges < NeighborSearch(structures, cutoff, limit).n_edges).all()


def test_the_order_of_atoms_does_not_matter():
    structures = slabs(0)
    here, there = (
        find_neighbors(s, 4.0, 3, "surface") for s in (structures, permuted(structures, 1))
    )
    np.testing.assert_array_equal(here.n_edges, there.n_edges)


def test_the_linear_model_sees_all_pairs():
    structures = slabs(0)
    found = within_cutoff(structures, find_neighbors(structures, 4.0, None, "surface"))
    np.testing.assert_array_equal(found.senders, find_neighbors(structures, 4.0).senders)


def test_a_structure_of_bulk_alone_is_refused():
    structures = slabs(0)
    structures.tags[structures.offsets[1] : structures.offsets[2]] = 0
    for find in (find_neighbors, neighbors_of):
        for limit in (None, 3):
            with pytest.raises(StructureError, match=BULK):
                find(structures, 4.0, limit, "surface")
    edges, reasons = search_neighbors(structures, 4.0, None, "surface")
    assert list(reasons) == [1]
    assert edges.n_edges[1] == 0
    assert edges.n_edges[0] > 0
