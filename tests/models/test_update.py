"""The update block equals its equations at every point of the sphere, antipodes included."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from equivariance import equivariance_error, harmonics
from small import silu, stirred

from hdgnn_jax.models.update import UpdateBlock
from hdgnn_jax.so3 import sphere

CHANNELS, WIDTH = 3, 5


def inputs(degree: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(degree)
    messages, x = rng.normal(size=(2, 4, (degree + 1) ** 2, CHANNELS)).astype(dtype)
    return messages, x


def block(degree: int, order: int, squeeze_excite: bool = True) -> UpdateBlock:
    points = sphere.sphere(degree, "lebedev", order)
    return UpdateBlock(points, WIDTH, squeeze_excite, "float32")


def direct(
    params: dict, degree: int, order: int, messages: np.ndarray, x: np.ndarray, gated: bool
) -> np.ndarray:
    """`[m(r), m(-r), x(r), x(-r)] -> W -> W`, gate, `-> C` on points (eq. 12, 13), the scale."""
    points, weights = scipy.integrate.lebedev_rule(order)
    weights = weights / weights.sum()
    here, there = harmonics(degree, points.T), harmonics(degree, -points.T)
    both = np.concatenate([messages, x], -1)
    values = np.concatenate([np.einsum("gs,nsc->ngc", y, both) for y in (here, there)], -1)
    even = params["even"]["kernel"]
    odd = params["odd"]["kernel"] if degree else 0 * even
    first = np.concatenate([even + odd, even - odd]) / 2
    values = silu(values @ first + params["bias"])
    values = silu(values @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    if gated:
        mean = np.einsum("g,ngc->nc", weights, values)
        squeezed = silu(mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"])
        gate = squeezed @ params["excite"]["kernel"] + params["excite"]["bias"]
        values = values * scipy.special.expit(gate)[:, None]
    update = np.einsum("g,gs,ngc->nsc", weights, here, values @ params["out"]["kernel"])
    update[:, 1:] *= degree + 1
    return update


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("degree", "squeeze_excite"),
    [(0, True), (1, True), (2, True), (3, True), (4, True), (3, False)],
)
def test_equals_direct_evaluation_at_all_points(degree, squeeze_excite):
    """Half of the points and parity give what all points give, for even and odd L."""
    order = 2 * degree + 3
    messages, x = inputs(degree, np.float64)
    box = block(degree, order, squeeze_excite)
    params = stirred(box.init, messages, x)
    want = direct(params["params"], degree, order, messages, x, squeeze_excite)
    found = jax.jit(box.apply)(params, messages, x)
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)


def test_rotation_error_falls_with_the_order_of_the_rule():
    """Aliasing is all that breaks the symmetry: an exact rule leaves rounding."""
    messages, x = inputs(2)
    params = stirred(block(2, 7).init, messages, x)
    errors = [
        equivariance_error(functools.partial(jax.jit(block(2, order).apply), params), messages, x)
        for order in (7, 17, 35, 65)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[3] < 1e-4
