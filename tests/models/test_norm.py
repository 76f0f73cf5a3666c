"""The equivariant layer norm is what its equation says, in any frame and at any scale."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from equivariance import equivariance_error
from hypothesis import given, settings
from hypothesis import strategies as st
from small import stirred

from hdgnn_jax.models.norm import EPSILON, EquivariantLayerNorm

NORM = EquivariantLayerNorm()


def signals(degree: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(degree)
    return rng.normal(size=(5, (degree + 1) ** 2, 6), scale=scale).astype(np.float32)


def direct(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, share: float) -> np.ndarray:
    out = np.array(x, np.float64)
    out[:, 0] -= out[:, 0].mean(-1, keepdims=True)
    rows = [slice(l * l, (l + 1) ** 2) for l in range(len(weight))]
    squares = [(out[:, block] ** 2).mean((1, 2)) for block in rows]
    for l, block in enumerate(rows):
        square = (squares[l] + share * np.mean(squares, 0)) / (1 + share)
        out[:, block] *= weight[l] / np.sqrt(square + EPSILON)[:, None, None]
    out[:, 0] += bias
    return out


@settings(max_examples=15, deadline=None)
@given(degree=st.integers(0, 4), scale=st.floats(1e-3, 1e3), share=st.sampled_from([0.0, 0.25]))
def test_equals_numpy(degree, scale, share):
    """Every degree over its root mean square; degree 0 centred, and shifted by the bias."""
    x = signals(degree, scale)
    norm = EquivariantLayerNorm(share=share)
    params = stirred(norm.init, x)
    want = direct(x, params["params"]["weight"], params["params"]["bias"], share)
    np.testing.assert_allclose(jax.jit(norm.apply)(params, x), want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("degree", [0, 3])
def test_is_equivariant(degree):
    """N(D x) = D N(x)."""
    x = signals(degree)
    box = functools.partial(jax.jit(NORM.apply), stirred(NORM.init, x))
    assert equivariance_error(box, x) < 1e-5


def test_zero_has_finite_gradients():
    """Degrees that are still 0 stay 0, the scalars get their bias, and no NaN passes back."""
    x = np.zeros((2, 9, 6), np.float32)
    params = jax.jit(NORM.init)(jax.random.key(0), x)
    found = jax.jit(NORM.apply)(params, x)
    assert np.all(found[:, 1:] == 0)
    np.testing.assert_allclose(found[:, 0], 6**-0.5, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: NORM.apply(params, x).sum()))(x)
    assert np.isfinite(gradient).all()
