"""What is not finite is traced to its layer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from molecules import graph_of, random_molecules
from small import PLAIN, network, stirred

from hdgnn_jax.models import nonfinite

KEY = jax.random.key(1)


@functools.cache
def graph():
    return graph_of(random_molecules(3, 1))


@functools.cache
def model(frame="random"):
    return network(**{**PLAIN, "layers": 2, "frame": frame})


@functools.cache
def params():
    return stirred(model().init, graph())["params"]


def plain_loss(params):
    """Its gradient is finite, and compiles at once."""
    return params["embedding"]["table"].sum()


def found(params, frame="random", loss=plain_loss):
    return nonfinite.locate(model(frame), params, graph(), KEY, loss)


@pytest.mark.parametrize(
    ("frame", "path", "layer", "expected"),
    [
        ("random", "embedding/table", None, "embedding"),
        ("random", "stack/update/out/kernel", 0, "layer 1, update/out"),
        ("random", "stack/message/nn2/kernel", 1, "layer 2, message/nn2"),
        (2, "stack/message/nn2/kernel", 1, "layer 2, message/nn2"),
        (
            "random", "molecule_head/scalars/sphere_out/bias", None,
            "molecule_head/scalars/sphere_out",
        ),
    ],
)  # fmt: skip
def test_a_spoilt_weight_is_found_in_its_module_and_layer(frame, path, layer, expected):
    def spoil(at, leaf):
        if "/".join(key.key for key in at) != path:
            return leaf
        return leaf.at[(..., 0) if layer is None else (layer, ..., 0)].set(jnp.inf)

    assert found(jax.tree_util.tree_map_with_path(spoil, params()), frame) == expected


def test_a_gradient_that_is_not_finite_is_found_where_the_backward_pass_meets_it_first():
    def loss(params):
        weight = params["stack"]["norm"]["weight"]
        return jnp.sqrt(jnp.abs(weight[1] - weight[1])).sum() + plain_loss(params)

    assert found(params(), loss=loss) == "the gradient of norm/weight in layer 2"


def test_nothing_is_found_where_all_is_finite():
    assert found(params()) is None
