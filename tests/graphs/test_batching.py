"""A padded batch holds its molecules unchanged, and nothing else that is real."""

from __future__ import annotations

import itertools
import operator
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import CUTOFF, graph_of, random_molecules

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures

law = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 999)
slacks = st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 4))


@st.composite
def batches(draw):
    """[batches] nodes and edges, more or less in proportion."""
    edges = draw(st.lists(st.integers(0, 90), min_size=1, max_size=12))
    return np.array([e // 4 + draw(st.integers(1, 5)) for e in edges]), np.array(edges)


def molecules(count, seed):
    structures = random_molecules(count, seed, atoms=(1, 7))
    return structures, find_neighbors(structures, CUTOFF)


@given(count=st.integers(1, 8), seed=seeds, slack=slacks, data=st.data())
@law
def test_collated_molecules_are_unchanged_and_the_rest_is_one_padding_graph(
    count, seed, slack, data
):
    structures, neighbors = molecules(count, seed)
    places = st.lists(st.integers(0, count - 1), min_size=1, max_size=8)
    chosen = np.array(data.draw(places))
    targets = np.random.default_rng(seed).normal(size=count)
    taken, edges = structures.take(chosen), neighbors.take(chosen)
    nodes, k = len(taken.positions), len(chosen)
    budget = Budget(len(edges.senders) + slack[0], nodes + slack[1], k + slack[2])
    graph = batching.collate(structures, neighbors, targets, chosen, budget)

    assert graph.edges == batching.Edges(None, neighbors.cutoff)
    assert [(leaf.dtype.name, leaf.shape) for leaf in jax.tree.leaves(graph)] == [
        ("int32", (budget.n_node,)),
        ("float32", (budget.n_node, 3)),
        ("int32", (budget.n_node,)),
        ("int32", (budget.n_edge,)),
        ("int32", (budget.n_edge,)),
        ("float32", (budget.n_graph,)),
        ("int32", (budget.n_graph,)),
        ("int32", (budget.n_graph,)),
        ("int32", (budget.n_graph,)),
    ]
    np.testing.assert_array_equal(graph.nodes.atomic_numbers[:nodes], taken.atomic_numbers)
    np.testing.assert_array_equal(graph.nodes.positions[:nodes], np.float32(taken.positions))
    np.testing.assert_array_equal(graph.globals.target[:k], np.float32(targets[chosen]))
    np.testing.assert_array_equal(graph.globals.id[:k], chosen)
    owner = np.repeat(np.arange(k), edges.n_edges)
    for ours, theirs in ((graph.senders, edges.senders), (graph.receivers, edges.receivers)):
        np.testing.assert_array_equal(ours[: len(owner)], theirs + taken.offsets[owner])
        assert (ours[len(owner) :] == nodes).all()
    assert (np.diff(graph.receivers) >= 0).all()

    rest = [0] * (slack[2] - 1)
    assert graph.n_node.tolist() == [*taken.n_atoms, slack[1], *rest]
    assert graph.n_edge.tolist() == [*edges.n_edges, slack[0], *rest]
    assert not graph.nodes.atomic_numbers[nodes:].any()
    assert not graph.nodes.positions[nodes:].any()
    assert (graph.globals.id[k:] == -1).all()


@pytest.mark.parametrize("slack", [(0, 1, 1), (0, 4, 3), (7, 1, 2)])
def test_masks_tell_the_real_from_the_padding(slack):
    structures, neighbors = molecules(4, 1)
    nodes, edges = len(structures.positions), len(neighbors.senders)
    budget = Budget(edges + slack[0], nodes + slack[1], 4 + slack[2])
    graph = graph_of(structures, budget=budget)
    np.testing.assert_array_equal(batching.graph_mask(graph), np.arange(budget.n_graph) < 4)
    np.testing.assert_array_equal(batching.edge_mask(graph), np.arange(budget.n_edge) < edges)
    owner = np.repeat(np.arange(budget.n_graph), graph.n_node)
    np.testing.assert_array_equal(batching.graph_of_node(graph), owner)


@pytest.mark.parametrize("missing", ["n_edge", "n_node", "n_graph"])
def test_molecules_that_exceed_the_budget_are_not_collated(missing):
    structures, neighbors = molecules(3, 0)
    exact = {
        "n_edge": len(neighbors.senders), "n_node": len(structures.positions) + 1, "n_graph": 4
    }  # fmt: skip
    graph_of(structures, budget=Budget(**exact))
    exact[missing] -= 1
    with pytest.raises(ValueError, match=re.escape(f"exceed {Budget(**exact)}")):
        graph_of(structures, budget=Budget(**exact))


def test_stacked_graphs_lie_along_a_new_axis():
    budget = Budget(120, 40, 5)
    graphs = [graph_of(random_molecules(3, seed), budget=budget) for seed in (0, 1)]
    stacked = batching.stack(graphs)
    for k, graph in enumerate(graphs):
        of_device = jax.tree.map(operator.itemgetter(k), stacked)
        jax.tree.map(np.testing.assert_array_equal, of_device, graph)


@given(count=st.integers(1, 12), seed=seeds, slack=slacks)
@law
def test_packing_keeps_the_order_and_fills_each_batch(count, seed, slack):
    """Each molecule once; no batch over the budget; none could take the next one's first."""
    structures, neighbors = molecules(count, seed)
    n_atoms, n_edges = structures.n_atoms, neighbors.n_edges
    budget = Budget(n_edges.max() + 5 * slack[0], n_atoms.max() + 3 * slack[1], 1 + slack[2])

    def fits(molecules):
        return budget.fits(n_atoms[molecules].sum(), n_edges[molecules].sum(), len(molecules))

    packed = batching.pack(structures, neighbors, budget)
    assert np.concatenate(packed).tolist() == list(range(count))
    assert all(fits(batch) for batch in packed)
    for batch, following in itertools.pairwise(packed):
        assert not fits(np.append(batch, following[0]))


@pytest.mark.parametrize("budget", [Budget(6, 10, 9), Budget(99, 4, 9)])
def test_molecule_larger_than_every_batch_is_named(budget):
    """Four atoms in reach of each other are 12 edges; the padding needs a fifth place."""
    square = Structure(np.ones(4, int), np.eye(4, 3))
    small = Structure(np.ones(2, int), np.eye(2, 3))
    structures = Structures.pack([small, small, square, square], "record")
    with pytest.raises(StructureError, match="record 2 has 4 atoms and 12 edges"):
        batching.pack(structures, find_neighbors(structures, CUTOFF), budget)


@given(shards=st.integers(1, 5), rounds=st.integers(1, 5), count=st.integers(1, 4), seed=seeds)
@law
def test_deal_gives_each_molecule_to_one_shard_and_evens_the_edges(shards, rounds, count, seed):
    """Shards differ by no more edges than the largest and the smallest molecule do."""
    n_edges = np.random.default_rng(seed).integers(0, 200, (count, shards * rounds))
    dealt = batching.deal(n_edges, shards)
    assert dealt.shape == (count, shards, rounds)
    for edges, hands in zip(n_edges, dealt, strict=True):
        assert sorted(hands.ravel()) == list(range(len(edges)))
        assert np.ptp(edges[hands].sum(1)) <= np.ptp(edges)


def test_equal_steps_are_dealt_to_equal_sums():
    """Back and forth: what one round gives to a shard, the next takes away."""
    n_edges = 7 * np.random.default_rng(0).permutation(24)[None]
    sums = n_edges[0][batching.deal(n_edges, 4)[0]].sum(1)
    assert sums.tolist() == [n_edges.sum() // 4] * 4


def test_a_batch_that_does_not_divide_is_not_dealt():
    with pytest.raises(ValueError, match="10 molecules cannot be dealt to 4 devices"):
        batching.deal(np.zeros((2, 10), int), 4)


@given(sizes=batches(), count=st.integers(1, 4), multiple=st.sampled_from([1, 16]))
@law
def test_budgets_waste_the_fewest_padded_edges(sizes, count, multiple):
    """As brute force over all sets of shapes, where there are few batches; each batch fits."""
    nodes, edges = sizes
    budgets = batching.choose_budgets(nodes, edges, 3, count, multiple)
    assert len(set(budgets)) == len(budgets) <= count
    assert budgets == sorted(budgets)
    assert all(b.n_graph == 4 and not (b.n_edge % multiple or b.n_node % multiple) for b in budgets)
    drawn = [
        next(b.n_edge for b in budgets if b.fits(n, e, 3))
        for n, e in zip(nodes, edges, strict=True)
    ]
    tops = np.unique(-(-edges // multiple) * multiple)
    best = min(
        sum(min(t for t in (*some, tops[-1]) if t >= e) for e in edges)
        for some in itertools.combinations(tops, min(count, len(tops)) - 1)
    )
    assert sum(drawn) == best


def test_budgets_hold_every_one_of_many_batches():
    rng = np.random.default_rng(0)
    edges = rng.integers(300, 900, 500)
    nodes = edges // 10 + rng.integers(0, 30, 500)
    budgets = batching.choose_budgets(nodes, edges, 8, 3)
    assert len(budgets) == 3
    padded = sum(
        next(b.n_edge for b in budgets if b.fits(n, e, 8))
        for n, e in zip(nodes, edges, strict=True)
    )
    assert padded < 500 * budgets[-1].n_edge
