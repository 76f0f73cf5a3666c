"""D(R) is e3nn's matrix, turns harmonics, and has a gradient at every edge."""

from __future__ import annotations

import functools
import itertools

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.transform import Rotation

from hdgnn_jax.so3 import degrees, frames, safe, wigner
from hdgnn_jax.so3.harmonics import harmonics


@jax.jit
def full(rotation):
    """[E, 81, 81] D(R) up to degree 8."""
    return wigner.block_diagonal(wigner.wigner_rows(8, rotation))


@pytest.fixture
def quaternions(x64, directions, rolls):
    """[14, 4] in float64."""
    return frames.edge_frame(jnp.array(directions), jnp.array(rolls))


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-12)])
def test_matrix_is_that_of_e3nn(quaternions, dtype, atol):
    """exp(v . G) with the rotation vector v and e3nn's generators G; no angle, hence no pole."""
    given = quaternions.astype(dtype)
    vectors = Rotation.from_quat(np.float64(given), scalar_first=True).as_rotvec()
    found = full(given)
    assert found.dtype == dtype
    expected = [
        scipy.linalg.expm(np.einsum("ek,kij->eij", vectors, e3nn_jax.Irrep(l, 1).generators()))
        for l in range(9)
    ]
    for d, blocks in zip(found, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(d, scipy.linalg.block_diag(*blocks), atol=atol)


@pytest.mark.usefixtures("x64")
def test_generators_are_those_of_e3nn():
    expected = [e3nn_jax.Irrep(l, 1).generators() for l in range(5)]
    for found, blocks in zip(wigner.generators(4), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(found, scipy.linalg.block_diag(*blocks), atol=1e-14)


def test_matrices_turn_harmonics_and_are_a_representation(quaternions, directions):
    """D(R) Y(r) = Y(R r) (eq. 3), D(R) D(R)^T = 1 and D(R1 R2) = D(R1) D(R2)."""
    d = np.asarray(full(quaternions))
    points = directions[::-1]
    turned = np.einsum("eij,ej->ei", frames.rotation_matrix(quaternions), points)
    found = np.einsum("eij,ej->ei", d, harmonics(8, points))
    np.testing.assert_allclose(found, harmonics(8, turned), atol=1e-12)
    eye = np.broadcast_to(np.eye(81), d.shape)
    np.testing.assert_allclose(d @ d.swapaxes(1, 2), eye, atol=1e-12)
    product = frames.multiply(quaternions, quaternions[::-1])
    np.testing.assert_allclose(full(product), d @ d[::-1], atol=1e-12)


def test_truncation_keeps_rows_of_the_full_matrix(quaternions):
    """Whether rows are left out early, when they are made, or late, in the matrix."""
    d = np.asarray(wigner.block_diagonal(wigner.wigner_rows(2, quaternions)))
    for m_max, l_max in itertools.product((0, 1, 2, 4), (None, 0, 1)):
        kept = degrees.rows(2, m_max, l_max)
        expected = d[:, kept, : degrees.size(2 if l_max is None else l_max)]
        for early in (m_max, None):
            matrix = jax.jit(lambda q, early=early, m_max=m_max, l_max=l_max:
                wigner.block_diagonal(wigner.wigner_rows(2, q, early), m_max, l_max)
            )(quaternions.reshape(2, 7, 4))  # fmt: skip
            np.testing.assert_allclose(matrix.reshape(expected.shape), expected, atol=1e-15)
    rows = wigner.wigner_rows(2, quaternions)
    expected = d[:, degrees.low_first(2, 0, 2)]
    np.testing.assert_allclose(wigner.block_diagonal(rows, 2, first=0), expected, atol=1e-15)


@jax.jit
def value_and_gradient(edges):
    """[E] a number that sees every entry of D, and [E, 4] its gradient by vector and roll."""

    def projected(edges):
        rotation = frames.edge_frame(safe.normalise(edges[:, :3]), edges[:, 3])
        rows = wigner.wigner_rows(3, rotation)
        weights = np.random.default_rng(2).normal(size=(1, *rows.shape[1:]))
        return jnp.sum(jnp.array(weights, rows.dtype) * rows, (1, 2))

    values, pull = jax.vjp(projected, edges)
    return values, pull(jnp.ones_like(values))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_are_finite_at_and_near_the_poles_and_for_padded_edges(dtype):
    with jax.enable_x64(dtype == "float64"):
        offset = np.array([0, *10.0 ** -np.arange(3, 31)])
        one = np.ones_like(offset)
        near = [np.stack([offset, y * one, -offset, one], 1) for y in (1, -1.3)]
        values, slope = value_and_gradient(jnp.array([*near[0], *near[1], [0, 0, 0, 1]], dtype))
        assert jnp.isfinite(values).all()
        assert jnp.isfinite(slope).all()
        assert not slope[-1, :3].any()


@pytest.mark.usefixtures("x64")
def test_gradient_agrees_with_finite_differences_away_from_the_lower_pole(directions, rolls):
    edges = np.column_stack([1.7 * directions, rolls])[np.arange(len(rolls)) != 1]
    step = 1e-5
    differences = [
        value_and_gradient(edges + h)[0] - value_and_gradient(edges - h)[0]
        for h in step * np.eye(4)
    ]
    expected = np.stack(differences, 1) / (2 * step)
    np.testing.assert_allclose(value_and_gradient(edges)[1], expected, atol=1e-7)


@pytest.mark.parametrize("m_max", [1, 2])
@pytest.mark.parametrize("back", [False, True])
def test_rotations_and_their_gradients_are_those_of_the_plain_product(quaternions, m_max, back):
    """rotate is D x and rotate_back D^T x; gradients to D's rows and to x."""
    rows = wigner.wigner_rows(2, quaternions)
    size = len(degrees.rows(2, m_max)) if back else 9
    x = jnp.array(np.random.default_rng(3).normal(size=(len(quaternions), size, 2)))

    def ours(rows, x):
        apply = wigner.rotate_back if back else wigner.rotate
        return apply(wigner.wigner(rows, m_max), x)

    def plain(rows, x):
        d = wigner.block_diagonal(rows, m_max)
        return jnp.einsum("emi,emc->eic" if back else "eim,emc->eic", d, x)

    def value_and_pullback(function):
        value, pull = jax.vjp(function, rows, x)
        return value, pull(jnp.cos(value))

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-12),
        value_and_pullback(ours),
        value_and_pullback(plain),
    )
