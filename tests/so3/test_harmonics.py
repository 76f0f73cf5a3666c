"""Y(r) is e3nn's, in component normalisation."""

from __future__ import annotations

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.so3 import degrees
from hdgnn_jax.so3.harmonics import harmonics


@pytest.mark.usefixtures("x64")
def test_harmonics_are_those_of_e3nn(directions):
    irreps = e3nn_jax.Irreps.spherical_harmonics(8)
    vectors = e3nn_jax.IrrepsArray("1o", jnp.array(directions))
    oracle = e3nn_jax.spherical_harmonics(irreps, vectors, False, "component").array
    in_numpy = harmonics(8, directions)
    assert isinstance(in_numpy, np.ndarray)
    np.testing.assert_allclose(in_numpy, oracle, atol=1e-12)
    in_jax = jax.jit(lambda r: harmonics(8, r))(directions)
    np.testing.assert_allclose(in_jax, in_numpy, atol=1e-13)


def test_component_normalisation_parity_and_pole(directions):
    """sum_m Y_lm(r)^2 = 2l + 1, Y_l(-r) = (-1)^l Y_l(r), and at +y only m = 0 is left."""
    l, m = degrees.degree_of(8), degrees.order_of(8)
    y = harmonics(8, directions)
    np.testing.assert_allclose(harmonics(8, -directions), (-1.0) ** l * y, atol=1e-12)
    for k in range(9):
        np.testing.assert_allclose((y[:, degrees.block(k)] ** 2).sum(-1), 2 * k + 1, rtol=1e-12)
    np.testing.assert_allclose(y[0], np.where(m == 0, np.sqrt(2 * l + 1), 0), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_and_leading_axes_stay(dtype):
    out = jax.eval_shape(lambda r: harmonics(3, r), jax.ShapeDtypeStruct((2, 5, 3), dtype))
    assert (out.shape, out.dtype) == ((2, 5, 16), dtype)
