"""A loss sees real graphs only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from molecules import KNOWN, graph_of

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.forces import Derivatives
from hdgnn_jax.training import losses

N = len(KNOWN)
TARGETS = np.linspace(-2.0, 3.1, N)


def test_vectors_and_forces_count_by_component_and_atom():
    """Against sums over the real molecules in NumPy."""
    rng = np.random.default_rng(0)
    truth, forces = rng.normal(size=(N, 3)), rng.normal(size=KNOWN.positions.shape)
    graph = graph_of(KNOWN, targets=truth, forces=forces)
    value = rng.normal(size=graph.globals.target.shape)
    found = rng.normal(size=graph.nodes.positions.shape)
    loss = losses.l1(
        Derivatives(value, found, np.zeros(1)), graph, losses.count(graph),
        losses.Weights(np.full(3, 1 / 3), 0.3),
    )  # fmt: skip
    expected = np.abs(value[:N] - truth).mean() + 0.3 * np.abs(found[: len(forces)] - forces).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("padding", [1, 5])
@pytest.mark.parametrize("poison", [0.0, np.nan, np.inf])
def test_padding_changes_neither_value_nor_gradient(padding, poison):
    budget = batching.Budget(n_edge=200, n_node=60, n_graph=N + padding)
    graph = graph_of(KNOWN, budget=budget, targets=TARGETS[:, None])
    target = graph.globals.target.copy()
    target[N:] = poison
    graph = graph._replace(globals=graph.globals._replace(target=target))
    outputs = jnp.concatenate([jnp.arange(N) / 3, jnp.full(padding, poison)])
    count = losses.count(graph)
    weights = losses.Weights(np.ones(1))
    value, gradient = jax.value_and_grad(losses.l1)(outputs[:, None], graph, count, weights)
    left = np.arange(N) / 3 - TARGETS
    np.testing.assert_allclose(value, np.abs(left).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [*np.sign(left) / N, *[0.0] * padding], rtol=1e-6)
    assert count == (N, len(KNOWN.positions), 0)


def test_labels_that_are_missing_count_for_nothing():
    """The mean of a target is over the molecules that have it; the weights are those given."""
    truth = np.random.default_rng(1).normal(size=(N, 2))
    truth[::2, 1] = np.nan
    graph = graph_of(KNOWN, targets=truth)
    outputs = jnp.zeros(graph.globals.target.shape)
    weights = np.array([0.25, 0.75])
    count, of = losses.count(graph), losses.Weights(weights)
    value, gradient = jax.value_and_grad(losses.l1)(outputs, graph, count, of)
    means = np.nanmean(np.abs(truth), 0)
    np.testing.assert_allclose(value, weights @ means, rtol=1e-6)
    assert np.all((gradient[:N] != 0) == np.isfinite(truth))


def test_virials_that_are_known_weigh_per_atom():
    rng = np.random.default_rng(2)
    graph = graph_of(KNOWN, targets=np.zeros((N, 1)))
    truth = rng.normal(size=(graph.n_node.shape[0], 3, 3))
    truth[1:N:3] = np.nan
    graph = graph._replace(globals=graph.globals._replace(virial=truth))
    predicted, weights = rng.normal(size=truth.shape), losses.Weights(np.zeros(1), stress=0.7)
    outputs = Derivatives(np.zeros_like(graph.globals.target), np.zeros(1), predicted)
    loss = losses.l1(outputs, graph, losses.count(graph), weights)
    known = ~np.isnan(truth[:N]).any((1, 2))
    error = np.abs(predicted - truth)[:N].mean((1, 2)) / KNOWN.n_atoms
    np.testing.assert_allclose(loss, 0.7 * error[known].mean(), rtol=1e-6)
    assert losses.not_finite(outputs, graph, weights) == -1
    truth[3, 0, 0] = np.inf
    assert losses.not_finite(outputs, graph, weights) == graph.globals.id[3]
