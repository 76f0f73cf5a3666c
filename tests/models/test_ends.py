"""The states of both ends of an edge are the same numbers in each layout, gradients too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.models import ends

N, S, C = 6, 4, 5
RECEIVERS = jnp.array([0, 0, 1, 3, 3, 3, 5])
SENDERS = jnp.array([2, 5, 4, 1, 1, 0, 5])


@pytest.fixture(params=["cpu", "tpu"])
def layout(request, monkeypatch):
    monkeypatch.setattr(ends, "_platform", lambda: request.param)
    return request.param


def test_both_ends_are_rows_of_the_nodes(layout):
    x = np.random.default_rng(0).normal(size=(N, S, C)).astype(np.float32)
    found = ends.gather_ends(jnp.asarray(x), RECEIVERS, SENDERS)
    shapes = {"cpu": [(7, S, C)] * 2, "tpu": [(7, S, 2 * C)]}
    assert [part.shape for part in found] == shapes[layout]
    of_i, of_j = ends.halves(found)
    np.testing.assert_array_equal(of_i, x[np.asarray(RECEIVERS)])
    np.testing.assert_array_equal(of_j, x[np.asarray(SENDERS)])


def test_a_tpu_has_one_array_where_padding_is_saved(monkeypatch):
    monkeypatch.setattr(ends, "_platform", lambda: "tpu")
    for channels, number in ((64, 1), (65, 2), (128, 2), (192, 1)):
        x = jnp.zeros((N, 1, channels))
        assert len(ends.gather_ends(x, RECEIVERS, SENDERS)) == number


@pytest.mark.usefixtures("x64", "layout")
def test_their_derivatives_are_those_of_indexing():
    """The second ones too: a loss on forces needs them."""
    rng = np.random.default_rng(1)
    x, step = jnp.array(rng.normal(size=(2, N, S, C)))
    weight = jnp.array(rng.normal(size=(7, S, C)))

    def energy(found):
        of_i, of_j = found
        return jnp.sum(weight * jnp.sin(of_i) * of_j**2)

    def ours(x):
        return energy(ends.halves(ends.gather_ends(x, RECEIVERS, SENDERS)))

    def plain(x):
        return energy((x[RECEIVERS], x[SENDERS]))

    def slope(f):
        return lambda x: jnp.sum(step * jax.grad(f)(x))

    for found, expected in ((ours, plain), (slope(ours), slope(plain))):
        np.testing.assert_allclose(jax.grad(found)(x), jax.grad(expected)(x), atol=1e-12)
