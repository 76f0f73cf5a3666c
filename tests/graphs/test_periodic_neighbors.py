"""Neighbours of structures with cells: every image within the cutoff, and the nearest k."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from crystals import other_cell, random_crystal, repeated, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import permuted, random_molecules

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import NeighborSearch, find_neighbors
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

CUTOFF = 5.0
law = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 999)
directions = st.tuples(*[st.booleans()] * 3)


def vectors(structure: Structure, cutoff=CUTOFF, k=None) -> list[np.ndarray]:
    """r_ij of each receiver i, sorted by length and then by coordinates."""
    neighbors = find_neighbors(Structures.pack([structure]), cutoff, k)
    x, i, j = structure.positions, neighbors.receivers, neighbors.senders
    r = x[j] - x[i]
    if neighbors.images is not None:
        r = r + neighbors.images @ structure.cell
    return [sort(r[i == a]) for a in range(len(x))]


def sort(r: np.ndarray) -> np.ndarray:
    return r[np.lexsort((*np.round(r, 6).T, np.round(np.linalg.norm(r, axis=-1), 6)))]


def brute_force(structure: Structure, cutoff=CUTOFF) -> list[np.ndarray]:
    """All images up to 8 cells away, compared one by one."""
    reach = [range(-8, 9) if p else (0,) for p in structure.periodic]
    steps = np.array(list(itertools.product(*reach))) @ structure.cell
    x = structure.positions
    r = x[None, :, None] + steps - x[:, None, None]
    length = np.linalg.norm(r, axis=-1)
    return [sort(r[a][(length[a] <= cutoff) & (length[a] > 1e-9)]) for a in range(len(x))]


@given(seed=seeds, n=st.integers(1, 5), periodic=directions)
@law
def test_neighbours_are_all_images_within_the_cutoff(seed, n, periodic):
    crystal = random_crystal(seed, n, periodic)
    every = brute_force(crystal)
    for ours, few, theirs in zip(vectors(crystal), vectors(crystal, k=7), every, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
        # Which of several at one distance is the last does not matter.
        lengths = (np.linalg.norm(r, axis=-1) for r in (few, theirs[:8]))
        np.testing.assert_allclose(*lengths, atol=1e-9)


@given(seed=seeds, periodic=directions, k=st.sampled_from([None, 9]))
@law
def test_how_a_crystal_is_written_does_not_matter(seed, periodic, k):
    crystal = random_crystal(seed, 3, periodic)

    def seen(structure: Structure) -> np.ndarray:
        found = np.concatenate(vectors(structure, k=k))
        return found if k is None else np.linalg.norm(found, axis=-1)

    usual = seen(crystal)
    np.testing.assert_allclose(seen(wrapped(crystal, seed)), usual, atol=1e-9)
    if all(periodic):
        np.testing.assert_allclose(seen(other_cell(crystal)), usual, atol=1e-9)
        many = seen(repeated(crystal, (2, 1, 3)))
        np.testing.assert_allclose(many, np.concatenate([usual] * 6), atol=1e-9)


def test_one_atom_in_a_cell_sees_its_images():
    """The twelve nearest of face-centred cubic, then six more; a lone atom sees none."""
    a = 3.6
    atom = Structure(np.array([29]), np.zeros((1, 3)), cell=a / 2 * (1 - np.eye(3)))
    assert len(vectors(atom, 0.8 * a)[0]) == 12
    assert len(vectors(atom, 1.1 * a)[0]) == 18
    alone = dataclasses.replace(atom, cell=np.eye(3) * 30)
    assert len(vectors(alone)[0]) == len(vectors(dataclasses.replace(atom, cell=None))[0]) == 0


@pytest.mark.parametrize("k", [1, 3, 11])
def test_nearest_come_first_and_one_more(k):
    structures = Structures.pack([*random_molecules(5, 0, atoms=(1, 8)), random_crystal(1)])
    neighbors = find_neighbors(structures, CUTOFF, k)
    every = find_neighbors(structures, CUTOFF)
    assert neighbors.n_edges.max() > 0
    for at, structure in enumerate(structures):
        few, all_of = neighbors.take(np.array([at])), every.take(np.array([at]))
        cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
        x = structure.positions

        def lengths(edges, i, x=x, cell=cell):
            r = x[edges.senders] - x[edges.receivers] + edges.images @ cell
            return np.linalg.norm(r[edges.receivers == i], axis=-1)

        for i in range(len(x)):
            np.testing.assert_allclose(lengths(few, i), np.sort(lengths(all_of, i))[: k + 1])


def test_search_when_asked_finds_the_same():
    structures = Structures.pack([random_crystal(s) for s in range(4)])
    search = NeighborSearch(structures, CUTOFF, 6)
    found = find_neighbors(structures, CUTOFF, 6)
    order = np.array([2, 0, 2])
    for field in ("offsets", "senders", "receivers", "images"):
        ours, theirs = (getattr(n.take(order).found(), field) for n in (search, found))
        np.testing.assert_array_equal(ours, theirs)
    assert (found.n_edges <= search.n_edges).all()


def test_large_molecules_are_searched_to_the_same_edges(monkeypatch):
    structures = random_molecules(4, 3, atoms=(5, 9))
    usual = find_neighbors(structures, 3.0)
    monkeypatch.setattr("hdgnn_jax.graphs.neighbors.DENSE", 0)
    other = find_neighbors(structures, 3.0)
    for k in range(4):
        pairs = [
            sorted(zip(n.take([k]).receivers, n.take([k]).senders, strict=True))
            for n in (usual, other)
        ]
        assert pairs[0] == pairs[1]


def test_a_batch_has_shifts_wherever_the_set_has_cells():
    """So that all batches of a set are arrays of one kind, also one without any structure."""
    structures = Structures.pack([*random_molecules(2, 0), random_crystal(0)])
    search = NeighborSearch(structures, CUTOFF, 5)
    budget = batching.Budget(128, 32, 4)
    for places in ([0], [], [2, 1]):
        places = np.array(places, int)
        graph = batching.collate(structures, search, np.zeros(3), places, budget)
        x, shift = graph.nodes.positions, graph.edges.shift
        r = x[graph.senders] + shift - x[graph.receivers]
        n = int(graph.n_edge[: len(places)].sum())
        assert (r[n:] == 0).all()
        assert (np.linalg.norm(r[:n], axis=-1) > 0.5).all()
    crystal = structures[2]
    np.testing.assert_array_equal(graph.nodes.tags[: len(crystal.tags)], crystal.tags)


def test_atoms_at_one_place_in_different_cells_are_found():
    crystal = random_crystal(0, 1)
    bad = dataclasses.replace(
        crystal,
        atomic_numbers=np.array([29, 29]),
        positions=np.vstack([crystal.positions, crystal.positions + crystal.cell[1]]),
        tags=None,
        fixed=None,
    )
    with pytest.raises(StructureError, match="slab 0 has atoms 0 and 1 at one place"):
        find_neighbors(Structures.pack([bad], "slab"), CUTOFF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": np.zeros((3, 3))}, "a cell without volume"),
        ({"cell": np.array([[1, 0, 0], [2, 0, 0], [0, 0, 1.0]])}, "a cell without volume"),
        ({"cell": np.full((3, 3), np.nan)}, "a cell without volume"),
        ({"cell": np.eye(2)}, r"a cell of shape \(2, 2\)"),
        ({"tags": np.zeros(9)}, r"tags of shape \(9,\)"),
        ({"fixed": np.zeros(9)}, r"fixed of shape \(9,\)"),
    ],
)
def test_bad_cells_are_refused(change, message):
    with pytest.raises(StructureError, match=message):
        Structures.pack([dataclasses.replace(random_crystal(0), **change)])


def test_structures_keep_what_they_are_made_of():
    crystal, molecule = random_crystal(3, periodic=(True, False, True)), random_molecules(1, 0)[0]
    back = Structures.pack([molecule, crystal]).take(np.array([1, 0]))
    for field in dataclasses.fields(Structure):
        if field.name != "name":
            ours, theirs = getattr(back[0], field.name), getattr(crystal, field.name)
            np.testing.assert_array_equal(ours, theirs)
    assert back[1].cell is None
    assert permuted(Structures.pack([molecule]), 0)[0].cell is None
