"""The frame of an edge turns it to +y, whichever way it points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hdgnn_jax.so3 import frames, safe

POLE = np.array([0.0, 1.0, 0.0])

angles = st.floats(0, 2 * np.pi)
directions_near_poles = st.builds(
    lambda side, exponent, angle: np.array(
        [10.0**exponent * np.cos(angle), side, 10.0**exponent * np.sin(angle)]
    ),
    st.sampled_from([1.0, -1.0]),
    st.floats(-30, 1),
    angles,
)


edge_frame = jax.jit(frames.edge_frame)


@jax.jit
def turned(direction, roll):
    """R r."""
    matrix = frames.rotation_matrix(frames.edge_frame(direction, roll))
    return jnp.einsum("...ij,...j->...i", matrix, direction, precision="highest")


def scipy_rotation(quaternion):
    return Rotation.from_quat(np.asarray(quaternion), scalar_first=True)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("float64", 1e-14)])
@given(vector=directions_near_poles, roll=angles)
@settings(max_examples=25, deadline=None)
def test_frame_is_a_rotation_of_the_edge_to_the_pole(dtype, atol, vector, roll):
    with jax.enable_x64(dtype == "float64"):
        direction = jnp.array(vector / np.linalg.norm(vector), dtype)
        quaternion = edge_frame(direction, jnp.array(roll, dtype))
        assert quaternion.dtype == dtype
        np.testing.assert_allclose(jnp.sum(quaternion**2), 1, atol=atol)
        np.testing.assert_allclose(turned(direction, jnp.array(roll, dtype)), POLE, atol=atol)


@pytest.mark.usefixtures("x64")
def test_roll_turns_the_frame_about_the_pole(directions, rolls):
    """R(r, roll) = R_y(roll) R(r, 0), and R(r, 0) is the shortest rotation away from -y."""
    without = scipy_rotation(frames.edge_frame(jnp.array(directions), jnp.zeros(len(rolls))))
    rolled = scipy_rotation(frames.edge_frame(jnp.array(directions), jnp.array(rolls)))
    expected = Rotation.from_euler("y", rolls[:, None]) * without
    np.testing.assert_allclose(rolled.as_matrix(), expected.as_matrix(), atol=1e-14)
    np.testing.assert_allclose(without.magnitude(), np.arccos(directions[:, 1]), atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_quaternions_are_scipys():
    p, q = Rotation.random(2, rng=0).as_quat(scalar_first=True)
    product = frames.multiply(jnp.array(p), jnp.array(q))
    expected = scipy_rotation(p) * scipy_rotation(q)
    np.testing.assert_allclose(frames.rotation_matrix(product), expected.as_matrix(), atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gradient_keeps_the_edge_at_the_pole(directions, rolls):
    """R(r) r = +y for every r: its derivative along r's sphere is 0, at both poles too."""
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda r, roll: turned(safe.normalise(r), roll))))
    np.testing.assert_allclose(jacobian(jnp.array(directions), jnp.array(rolls)), 0, atol=1e-13)
