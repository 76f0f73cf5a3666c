"""However odd the sizes: each structure once, unchanged, in any order and on any number of devices.

`graphs/test_batching.py` and `data/test_loader.py` have the laws of packing, dealing, budgets and
of the loader's order, for connected molecules of one size. Here are lone atoms, atoms out of each
other's reach, sets without any edge, one molecule that outweighs all others, and the way through
all of it to a prediction.
"""

from __future__ import annotations

import collections

import jax
import numpy as np
import pytest
from fuzz import law
from hypothesis import given
from hypothesis import strategies as st
from molecules import CUTOFF

from hdgnn_jax.data.loader import Loader
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.graphs.neighbors import Neighborhoods, neighbors_of
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.inference.batches import Batches, differentiate, predict
from hdgnn_jax.models.forces import Derivatives
from hdgnn_jax.training import step

pytestmark = pytest.mark.slow

KINDS = ("atom", "far", "near", "huge")
LIMIT = 3
"""Of neighbours, where there is one."""


def structure(kind: str, rng: np.random.Generator) -> Structure:
    n = {"atom": 1, "far": rng.integers(2, 5), "near": rng.integers(2, 7), "huge": 70}[kind]
    # A jittered grid: atoms do not meet; those of "far" are out of reach.
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3)
    apart = 20.0 if kind == "far" else 1.5
    positions = grid[rng.permutation(len(grid))[:n]] * apart + rng.uniform(-0.3, 0.3, (n, 3))
    return Structure(rng.choice([1, 6, 8], n), positions)


@st.composite
def sets(draw, most: int = 9) -> Structures:
    """Some structures with at most one huge one, in any order."""
    kinds = draw(st.lists(st.sampled_from(KINDS[:3]), min_size=1, max_size=most))
    if draw(st.booleans()):
        kinds.insert(draw(st.integers(0, len(kinds))), "huge")
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return Structures.pack(structure(kind, rng) for kind in kinds)


def edges_of(s: Structure, limit: int | None = None) -> set[tuple[int, int]]:
    """(sender, receiver), by brute force; the nearest `limit` + 1 of each receiver."""
    found = set()
    for i, x in enumerate(s.positions):
        distance = np.linalg.norm(s.positions - x, axis=1)
        near = [j for j in np.argsort(distance).tolist() if j != i and distance[j] <= CUTOFF]
        found |= {(j, i) for j in near[: None if limit is None else limit + 1]}
    return found


def contents(graph: batching.MolecularGraph, limit: int | None, structures: Structures) -> list:
    """Ids of the real structures of one device's graph, whose content is held against the set."""
    n_node, n_edge = np.asarray(graph.n_node), np.asarray(graph.n_edge)
    atoms, edges = np.cumsum([0, *n_node]), np.cumsum([0, *n_edge])
    assert atoms[-1] == len(graph.nodes.positions)
    assert edges[-1] == len(graph.senders)
    ids = [k for k in graph.globals.id.tolist() if k >= 0]
    assert (graph.globals.id[: len(ids)] >= 0).all()
    for g, k in enumerate(ids):
        rows, pairs = slice(*atoms[g : g + 2]), slice(*edges[g : g + 2])
        s = structures[k]
        np.testing.assert_array_equal(graph.nodes.positions[rows], np.float32(s.positions))
        np.testing.assert_array_equal(graph.nodes.atomic_numbers[rows], s.atomic_numbers)
        np.testing.assert_array_equal(graph.globals.target[g], np.float32(k / 7))
        if graph.nodes.forces is not None:
            np.testing.assert_array_equal(graph.nodes.forces[rows], np.float32(3 * s.positions))
        found = list(
            zip(
                (graph.senders[pairs] - atoms[g]).tolist(),
                (graph.receivers[pairs] - atoms[g]).tolist(),
                strict=True,
            )
        )
        assert len(set(found)) == len(found)
        assert set(found) == edges_of(s, limit)
    # What is left is padding: one graph has it all, and its edges join its first node to itself.
    first = atoms[len(ids)]
    assert first < len(graph.nodes.positions)
    assert not graph.nodes.atomic_numbers[first:].any()
    assert not graph.nodes.positions[first:].any()
    assert (graph.senders[edges[len(ids)] :] == first).all()
    assert (graph.receivers[edges[len(ids)] :] == first).all()
    assert not n_node[len(ids) + 1 :].any()
    assert not n_edge[len(ids) + 1 :].any()
    return ids


def rounded(sizes: tuple[int, int, int]) -> Budget:
    """A budget that holds it; of few shapes, for each is compiled."""
    n_node, n_edge, n_graph = sizes
    return Budget(256 * (n_edge // 256 + 1), 128 * (n_node // 128 + 1), 8 * (n_graph // 8 + 1))


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_odd_sizes_are_packed_once_unchanged_and_the_padding_masked(tried, limit):
    @law(60)
    @given(sets(), st.integers(0, 400))
    def check(structures, room):
        tried["batches"] += 1
        neighbors = neighbors_of(structures, CUTOFF, limit)
        n_atoms, n_edges = structures.n_atoms, neighbors.n_edges
        budget = rounded((n_atoms.max() + room // 4, n_edges.max() + room, 2 + room // 50))
        seen = []
        for places in batching.pack(structures, neighbors, budget):
            graph = batching.collate(
                structures, neighbors, np.arange(len(structures)) / 7, places, budget,
                3 * structures.positions,
            )  # fmt: skip
            ids = contents(graph, limit, structures)
            assert ids == places.tolist()
            assert np.asarray(batching.graph_mask(graph)).sum() == len(ids)
            real = np.asarray(batching.edge_mask(graph))
            assert real.sum() == graph.n_edge[: len(ids)].sum()
            assert real[: real.sum()].all()
            owners = np.asarray(batching.graph_of_node(graph))
            np.testing.assert_array_equal(
                owners, np.repeat(np.arange(len(graph.n_node)), graph.n_node)
            )
            seen += ids
        assert seen == list(range(len(structures)))

    check()


def test_budgets_chosen_for_odd_sizes_hold_every_batch(tried):
    """Most batches small, some without an edge, one huge."""
    sizes = st.tuples(
        st.one_of(st.integers(0, 3), st.integers(0, 60), st.just(5000)),
        st.one_of(st.just(0), st.integers(0, 90), st.just(200_000)),
    )

    @law(150)
    @given(
        st.lists(sizes, min_size=1, max_size=100), st.integers(1, 5), st.sampled_from([1, 16]),
        st.integers(1, 9),
    )  # fmt: skip
    def check(batches, count, multiple, n_graph):
        tried["budgets"] += 1
        nodes, edges = np.array(batches).T
        budgets = batching.choose_budgets(nodes, edges, n_graph, count, multiple)
        assert 1 <= len(budgets) <= count
        assert budgets == sorted(budgets)
        for n, e in batches:
            assert budgets[-1].fits(n, e, n_graph)

    check()


def linear(structures: Structures) -> np.ndarray:
    """Of each structure, what `graph_linear` gives for it; edges counted by brute force."""
    return np.array(
        [
            np.float32(s.positions).astype(float).sum(0) @ (1.0, -2.0, 0.5)
            + 10 * s.atomic_numbers.sum()
            + 100 * len(edges_of(s))
            for s in (structures[k] for k in range(len(structures)))
        ]
    )


def graph_linear(graph: batching.MolecularGraph) -> Derivatives:
    """[devices, G] linear in positions, numbers and edges; "forces" are a function of an atom."""
    shards, n_graph = graph.n_node.shape
    value = np.zeros((shards, n_graph))
    for d in range(shards):
        owner = np.repeat(np.arange(n_graph), graph.n_node[d])
        of_atom = graph.nodes.positions[d].astype(float) @ (1.0, -2.0, 0.5)
        np.add.at(value[d], owner, of_atom + 10 * graph.nodes.atomic_numbers[d])
        value[d] += 100 * np.asarray(graph.n_edge[d])
    # Padding must never be looked at.
    value[np.asarray(graph.globals.id) < 0] = np.nan
    forces = np.where(
        graph.nodes.atomic_numbers[..., None] > 0, 2 * graph.nodes.positions.astype(float), np.nan
    )
    return Derivatives(value, forces, np.einsum("dg,ab->dgab", value, np.eye(3)))


def test_predictions_do_not_depend_on_order_batches_and_devices(tried):
    devices = jax.devices()

    @law(40)
    @given(sets(14), st.sampled_from([1, 2, 4]), st.integers(0, 300), st.randoms())
    def check(structures, shards, room, random):
        tried["predictions of sets"] += 1
        order = list(range(len(structures)))
        random.shuffle(order)
        sharding = step.sharded(jax.sharding.Mesh(np.array(devices[:shards]), ("data",)))
        for places in (np.array(order), np.arange(len(structures))):
            taken = structures.take(places)
            neighbors = neighbors_of(taken, CUTOFF, None)
            budget = Budget(
                int(neighbors.n_edges.max()) + room, int(taken.n_atoms.max()) + 1 + room // 5,
                2 + room // 60,
            )  # fmt: skip
            told = []

            def numpy_step(params, graph):
                return graph_linear(jax.tree.map(np.asarray, graph))

            batches = Batches(Neighborhoods(taken, neighbors), budget, sharding, told.append)
            found = predict(lambda p, g: numpy_step(p, g).value, None, batches)
            np.testing.assert_allclose(found, linear(structures)[places], rtol=1e-12, atol=1e-9)
            assert sum(told) == len(structures)
            of = differentiate(numpy_step, None, batches)
            np.testing.assert_array_equal(of.value, found)
            np.testing.assert_array_equal(of.forces, 2.0 * np.float32(taken.positions))
            np.testing.assert_array_equal(of.virial, found[:, None, None] * np.eye(3))

    check()


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_a_loader_of_odd_sizes_draws_the_same_molecules_for_all_devices(tried, limit):
    """Batch k of 1, 2 and 4 shards; drawn in any order; its content is the molecules' own."""

    @law(25)
    @given(
        sets(20), st.integers(0, 10**6), st.sampled_from([4, 8]), st.integers(1, 4), st.randoms()
    )
    def check(structures, seed, batch_size, n_budgets, random):
        n, steps = len(structures), 6
        targets = np.arange(n) / 7
        neighbors = neighbors_of(structures, CUTOFF, limit)
        ids: dict[int, list] = {}
        for shards in (1, 2, 4):
            one = Loader(
                structures, neighbors, targets, batch_size, seed, steps, shards, n_budgets,
                3 * structures.positions,
            )  # fmt: skip
            order = list(range(steps))
            random.shuffle(order)
            for k in order:
                tried["batches"] += 1
                batch = one.batch(k)
                assert len(batch.n_node) == shards
                shape = (batch.senders.shape[1], batch.nodes.positions.shape[1])
                assert shape in {(b.n_edge, b.n_node) for b in one.budgets}
                drawn = []
                for d in range(shards):
                    graph = jax.tree.map(lambda leaf, d=d: leaf[d], batch)
                    drawn += contents(graph, limit, structures)
                assert len(drawn) == batch_size
                assert sorted(drawn) == ids.setdefault(k, sorted(drawn))
        # Each structure as often as any other, but for the epoch that is not over.
        times = collections.Counter(k for batch in ids.values() for k in batch)
        counts = [times[k] for k in range(n)]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == steps * batch_size

    check()
