"""Warm-up, cosine and clipping are what their names say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.training.optimizer import make_optimizer


def updates(gradients, **options):
    """What is added to one weight of value 1 for each gradient."""
    optimizer = make_optimizer(**{"steps": 100, "learning_rate": 0.1, "warmup": 0.2, **options})
    params = {"w": jnp.ones(2)}

    def one(state, gradient):
        update, state = optimizer.update({"w": gradient}, state, params)
        return state, update["w"]

    return np.asarray(jax.lax.scan(one, optimizer.init(params), jnp.array(gradients, float))[1])


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    # Adam's step on a constant gradient is the rate itself.
    rates = -updates([[0.5, -0.5]] * 101)[:, 0]
    k = np.arange(101)
    fall = (1 + np.cos(np.pi * (k - 20) / 80)) / 2
    np.testing.assert_allclose(rates, 0.1 * np.where(k < 20, k / 20, fall), atol=1e-6)


def test_a_gradient_longer_than_the_clip_counts_as_one_of_that_length():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(10, 2)).astype(np.float32)
    length = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped = np.where(length > 0.7, 0.7 * gradients / length, gradients)
    np.testing.assert_allclose(
        updates(gradients, clip=0.7), updates(clipped, clip=1e9), rtol=1e-5, atol=1e-8
    )


def test_weight_decay_pulls_weights_to_zero_in_proportion_to_the_rate():
    plain, decayed = updates([[1, 1]] * 30), updates([[1, 1]] * 30, weight_decay=0.5)
    rates = -plain[:, 0]
    np.testing.assert_allclose(decayed[:, 0] - plain[:, 0], -0.5 * rates, atol=1e-6)


def test_a_short_run_has_a_warm_up_too():
    assert (updates([[1, 1]] * 2, steps=3, warmup=0.01)[0] == 0).all()


def test_drops_leave_three_tenths_each():
    rates = -updates([[0.5, -0.5]] * 100, drops=(0.5, 0.9))[:, 0]
    k = np.arange(100)
    stairs = np.select([k < 20, k < 50, k < 90], [k / 20, 1, 0.3], 0.09)
    np.testing.assert_allclose(rates, 0.1 * stairs, atol=1e-6)
    # Of a short run two can fall on one step.
    both = -updates([[0.5, -0.5]] * 10, steps=10, drops=(0.5, 0.52))[:, 0]
    np.testing.assert_allclose(both[[4, 5]], [0.1, 0.009], atol=1e-6)
    with pytest.raises(ValueError, match="drops must lie between warmup and 1"):
        updates([[1, 1]], drops=(0.1,))


def test_amsgrad_remembers_the_largest_gradient():
    gradients = [[1, 1]] * 30 + [[0.01, 0.01]] * 1970
    plain, cautious = (
        np.abs(updates(gradients, steps=4000, amsgrad=a))[-1, 0] for a in (False, True)
    )
    assert cautious < 0.5 * plain
