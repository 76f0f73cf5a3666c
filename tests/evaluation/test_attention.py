"""The weights that are shown are those that the messages have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from molecules import CUTOFF, KNOWN, graph_of
from small import BUDGET, SMALL, network, parameters

from hdgnn_jax.evaluation.attention import attention_weights
from hdgnn_jax.graphs import batching

GRAPH = graph_of(KNOWN, budget=BUDGET)


def with_attention(params, kernel: float, bias: np.ndarray):
    """The weights, where logits are the bias [terms] plus `kernel` times the hidden state."""

    def change(path, leaf):
        name = jax.tree_util.keystr(path)
        if "['attention']" not in name:
            return leaf
        if name.endswith("['bias']"):
            return jnp.broadcast_to(jnp.repeat(bias, leaf.shape[-1] // len(bias)), leaf.shape)
        return kernel * leaf

    return jax.tree_util.tree_map_with_path(change, params)["params"]


def arrays(found):
    """[layers, terms], [layers, terms, bins], NaN where there is no edge, and [bins]."""
    mean, by_distance = (
        np.array([layer[name] for layer in found["layers"]], float)
        for name in ("mean", "by_distance")
    )
    return mean, by_distance, np.array(found["edges"])


def test_of_constant_gates_each_layer_and_bin_has_their_value():
    bias = np.array([-1.0, 0.0, 1.0, 2.0])
    params = with_attention(parameters(), 0.0, bias)
    found = attention_weights(network(**SMALL), params, GRAPH, bins=6)
    mean, by_distance, edges = arrays(found)
    assert found["terms"] == ["receiver", "sender", "both", "product"]
    expected = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(mean, np.tile(expected, (2, 1)), rtol=1e-6)
    there = edges > 0
    assert edges.sum() == batching.edge_mask(GRAPH).sum()
    assert np.isnan(by_distance[..., ~there]).all()
    np.testing.assert_allclose(by_distance[..., there] - expected[:, None], 0, atol=1e-6)
    assert found["limits"][-1] == CUTOFF


def test_bins_are_means_of_what_they_hold():
    mean, by_distance, edges = arrays(
        attention_weights(network(**SMALL), parameters()["params"], GRAPH, bins=5)
    )
    there = edges > 0
    assert there.sum() > 1
    total = (by_distance[..., there] * edges[there]).sum(-1) / edges.sum()
    np.testing.assert_allclose(mean, total, rtol=1e-6)
    assert np.ptp(by_distance[..., there], -1).min() > 1e-3


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"pathway": "none", "tensor_product": "depthwise"}, ["product"]),
        ({"pathway": "unrestricted", "tensor_product": "none"}, ["network"]),
        ({"attention": (0.1, 0.2, 0.3, 0.4)}, ["receiver", "sender", "both", "product"]),
    ],
)
def test_each_variant_has_its_terms(options, terms):
    model = network(**{**SMALL, **options})
    found = attention_weights(model, parameters(**options)["params"], GRAPH)
    mean, _, _ = arrays(found)
    assert found["terms"] == terms
    assert mean.shape == (2, len(terms))
    if "attention" in options:
        np.testing.assert_allclose(mean, [options["attention"]] * 2, rtol=1e-6)
