"""A loss sees real graphs only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from molecules import KNOWN, graph_of

from hdgnn_jax.graphs import batching
from hdgnn_jax.training import losses

N = len(KNOWN)
TARGETS = np.linspace(-2.0, 3.1, N)


@pytest.mark.parametrize("padding", [1, 5])
@pytest.mark.parametrize("poison", [0.0, np.nan, np.inf])
def test_padding_changes_neither_value_nor_gradient(padding, poison):
    budget = batching.Budget(n_edge=200, n_node=60, n_graph=N + padding)
    graph = graph_of(KNOWN, budget=budget, targets=TARGETS)
    target = graph.globals.target.copy()
    target[N:] = poison
    graph = graph._replace(globals=graph.globals._replace(target=target))
    outputs = jnp.concatenate([jnp.arange(N) / 3, jnp.full(padding, poison)])
    value, gradient = jax.value_and_grad(losses.l1_sum)(outputs, graph)
    left = np.arange(N) / 3 - TARGETS
    np.testing.assert_allclose(value, np.abs(left).sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient, [*np.sign(left), *[0.0] * padding])
    assert losses.count(graph) == N
