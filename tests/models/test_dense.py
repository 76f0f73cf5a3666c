"""A linear layer keeps the variance, in either precision."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.models.dense import AFTER_SILU, Dense

X = jax.random.normal(jax.random.key(0), (512, 256))


@pytest.mark.parametrize(("x", "gain"), [(X, 1.0), (nn.silu(X), AFTER_SILU)])
def test_unit_variance_in_gives_unit_variance_out(x, gain):
    """Of a normal input, or of its SiLU with the gain for that."""
    y, _ = Dense(256, gain=gain).init_with_output(jax.random.key(1), x)
    assert 0.9 < jnp.std(y) < 1.1


def test_bfloat16_products_add_up_in_float32():
    """The error is that of the factors, 2^-8, not of the sum; the result is float32."""
    params = Dense(64).init(jax.random.key(1), X)
    exact, rough = Dense(64).apply(params, X), Dense(64, "bfloat16").apply(params, X)
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), (params, X))
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, Dense(64).apply(*rounded), rtol=1e-4, atol=1e-4)
    assert 1e-4 < jnp.abs(rough - exact).max() < 0.05
