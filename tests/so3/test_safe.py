"""Length and direction of a vector, and their gradients, are finite and right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.so3 import safe


def test_zero_vector_has_length_zero_direction_y_and_no_gradient():
    zero = jnp.zeros((2, 3))
    np.testing.assert_array_equal(safe.norm(zero), [0, 0])
    np.testing.assert_array_equal(safe.normalise(zero), [[0, 1, 0], [0, 1, 0]])
    for function in (safe.norm, safe.normalise):
        assert not np.any(jax.jit(jax.jacobian(function))(zero))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(dtype, scale) for dtype, exponent in (("float32", 18), ("float64", 20))
     for scale in (10.0**-exponent, 1.0, 10.0**exponent)],
)  # fmt: skip
def test_value_and_gradient_wherever_the_square_is_a_number(dtype, scale):
    """|v|, v / |v| and their gradients r and (1 - r r^T) / |v|."""
    unit = np.array([2.0, -3.0, 6.0]) / 7
    vector = jnp.array(unit * scale, dtype)
    rtol = 8 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(safe.norm(vector), scale, rtol=rtol)
    np.testing.assert_allclose(safe.normalise(vector), unit, rtol=rtol)
    np.testing.assert_allclose(jax.jit(jax.grad(safe.norm))(vector), unit, rtol=rtol)
    jacobian = np.float64(jax.jit(jax.jacobian(safe.normalise))(vector)) * scale
    np.testing.assert_allclose(jacobian, np.eye(3) - np.outer(unit, unit), atol=rtol)
