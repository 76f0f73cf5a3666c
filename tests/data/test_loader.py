"""Batch k is a function of (seed, k), every epoch a permutation, and no batch overflows."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import CUTOFF, random_molecules

from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.training import step

MOLECULES = random_molecules(37, 0)
NEIGHBORS = find_neighbors(MOLECULES, CUTOFF)
TARGETS = np.arange(37) / 7
LAWS = settings(max_examples=15, deadline=None)


def loader(seed=0, *, batch_size=8, steps=30, shards=1, n_budgets=3) -> Loader:
    return Loader(MOLECULES, NEIGHBORS, TARGETS, batch_size, seed, steps, shards, n_budgets)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def real_edges(batch) -> int:
    real = np.asarray(batch.globals.id) >= 0
    return int(np.where(real, batch.n_edge, 0).sum())


@LAWS
@given(st.integers(0, 10**6), st.lists(st.integers(0, 29), min_size=1, max_size=5))
def test_a_batch_does_not_depend_on_those_before_it(seed, order):
    one, fresh = loader(seed), loader(seed)
    for k in order:
        assert_same(one.batch(k), fresh.batch(k))
    assert_same(loader(seed).batch(order[-1]), one.batch(order[-1]))


@LAWS
@given(st.integers(0, 10**6), st.sampled_from([1, 4, 8, 37, 40]), st.integers(1, 40))
def test_no_molecule_is_drawn_twice_before_all_are_drawn_once(seed, batch_size, batches):
    one = loader(seed, batch_size=batch_size)
    drawn = np.concatenate([one.molecules(k).ravel() for k in range(batches)])
    times = np.bincount(drawn, minlength=37)
    assert times.max() - times.min() <= 1
    assert times.sum() == batches * batch_size


def test_epochs_and_seeds_have_orders_of_their_own():
    one, other = loader(batch_size=37), loader(1, batch_size=37)
    stream = [tuple(x._stream(37 * k, 37 * k + 37)) for x in (one, other) for k in range(4)]
    assert len(set(stream)) == 8


@LAWS
@given(st.integers(0, 10**6), st.integers(0, 29))
def test_the_number_of_devices_does_not_change_the_molecules_of_a_batch(seed, k):
    expected = np.sort(loader(seed).molecules(k).ravel())
    for shards in (2, 4):
        places = loader(seed, shards=shards).molecules(k)
        assert places.shape == (shards, 8 // shards)
        np.testing.assert_array_equal(np.sort(places.ravel()), expected)


@LAWS
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 30))
def test_budgets_cover_every_batch_and_the_efficiency_is_counted(seed, shards, n_budgets, steps):
    one = loader(seed, shards=shards, n_budgets=n_budgets, steps=steps)
    batches = [one.batch(k) for k in range(steps)]
    shapes = {(b.senders.shape[1], b.nodes.atomic_numbers.shape[1]) for b in batches}
    assert shapes == {(b.n_edge, b.n_node) for b in one.budgets}
    assert len(one.budgets) <= n_budgets
    padded = sum(b.senders.size for b in batches)
    assert one.padding_efficiency == pytest.approx(sum(map(real_edges, batches)) / padded)


def test_a_shape_that_saves_little_is_not_compiled():
    """Batches of one molecule over and over; and of molecules of all sizes."""
    same = np.zeros(64, int)
    alike = Loader(MOLECULES.take(same), find_neighbors(MOLECULES.take(same), CUTOFF),
                   TARGETS[same], 8, 0, 30)  # fmt: skip
    assert len(alike.budgets) == 1
    several = loader(batch_size=1)
    assert len(several.budgets) == 3
    one = dataclasses.replace(several, n_budgets=1)
    assert several.padding_efficiency > 1.02 * one.padding_efficiency


def test_a_batch_holds_the_molecules_it_names():
    one = loader(shards=2)
    batch = one.batch(3)
    for shard, places in enumerate(one.molecules(3)):
        k = len(places)
        assert batch.globals.id[shard, :k].tolist() == MOLECULES.ids[places].tolist()
        expected = TARGETS[places].astype(np.float32)
        np.testing.assert_array_equal(batch.globals.target[shard, :k], expected)
        assert batch.n_node[shard, :k].tolist() == MOLECULES.n_atoms[places].tolist()


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (3, 4), (4, 4), (2, 9)])
def test_prefetch_yields_the_same_batches_in_order_on_the_devices(start, stop):
    one, sharding = loader(shards=4), step.sharded(step.make_mesh())
    coming = list(prefetch(one.batch, start, stop, sharding))
    assert len(coming) == stop - start
    for k, batch in zip(range(start, stop), coming, strict=True):
        assert_same(batch, one.batch(k))
        assert batch.senders.sharding == sharding


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(ValueError, match="8 molecules cannot be dealt to 3 devices evenly"):
        loader(shards=3).batch(0)
    nobody = MOLECULES.take(np.zeros(0, int))
    with pytest.raises(ValueError, match="training set is empty"):
        Loader(nobody, NEIGHBORS.take(np.zeros(0, int)), TARGETS[:0], 8, 0, 1)
