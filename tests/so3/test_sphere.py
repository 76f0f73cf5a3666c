"""A rule integrates products of harmonics exactly, so signals come back from the sphere."""

from __future__ import annotations

import dataclasses

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equivariance import turn
from scipy.spatial.transform import Rotation

from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.so3 import degrees, sphere
from hdgnn_jax.so3.harmonics import harmonics

DEGREES = pytest.mark.parametrize("degree", range(1, 7))
RULES = pytest.mark.parametrize("rule", ["lebedev", "product"])


def points(rule):
    """[points, 3] of the stored half, from Y_1 = sqrt(3) (x, y, z)."""
    return rule.odd[:, :3] / np.sqrt(3)


def signal(degree):
    return jnp.array(np.random.default_rng(degree).normal(size=(degrees.size(degree), 2)))


@pytest.mark.usefixtures("x64")
@RULES
@DEGREES
def test_harmonics_are_orthonormal_under_the_rule(degree, rule):
    rule = sphere.sphere(degree, rule)
    all_points = np.concatenate([points(rule), -points(rule)][: 1 + rule.antipodal])
    weights = np.tile(rule.weights, 1 + rule.antipodal)
    assert len(all_points) == rule.n_points
    assert len(np.unique(all_points.round(9), axis=0)) == rule.n_points
    assert (weights > 0).all()
    y = harmonics(degree, all_points)
    np.testing.assert_allclose((y.T * weights) @ y, np.eye(degrees.size(degree)), atol=1e-12)
    ones = np.ones(len(weights))
    np.testing.assert_allclose(sphere.sphere_mean(rule, jnp.array(ones)), 1, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("written_out", [0, 1000])
@RULES
@DEGREES
def test_signals_are_evaluated_at_the_points_and_come_back(monkeypatch, degree, rule, written_out):
    """Even and odd L; p(-r) is the signal at the antipode; the mean is the l = 0 coefficient."""
    monkeypatch.setattr(sphere, "WRITTEN_OUT", written_out)
    rule, x = sphere.sphere(degree, rule), signal(degree)
    values = sphere.to_sphere(rule, *sphere.split_parity(x))
    here, *there = np.split(values, 1 + rule.antipodal)
    np.testing.assert_allclose(here, harmonics(degree, points(rule)) @ x, atol=1e-12)
    for antipodes in there:
        np.testing.assert_allclose(antipodes, harmonics(degree, -points(rule)) @ x, atol=1e-12)
    back = sphere.merge_parity(*sphere.from_sphere(rule, values))
    np.testing.assert_allclose(back, x, atol=1e-12)
    np.testing.assert_allclose(sphere.sphere_mean(rule, values), x[0], atol=1e-12)


@DEGREES
def test_default_lebedev_rule_is_antipodal_with_room_above_the_degree(degree):
    """It still integrates polynomials of degree 2 L + 3."""
    rule = sphere.sphere(degree)
    assert rule.antipodal
    axis = np.array([0.36, -0.48, 0.8])
    powers = (points(rule) @ axis)[:, None] ** np.arange(0, 2 * degree + 4, 2)
    expected = 1 / (np.arange(0, 2 * degree + 4, 2) + 1)
    np.testing.assert_allclose(2 * rule.weights @ powers, expected, atol=1e-12)


@pytest.mark.parametrize("degree", range(5))
def test_parity_splits_and_merges(degree):
    x = jnp.arange(2.0 * degrees.size(degree)).reshape(-1, 2)
    even, odd = sphere.split_parity(x)
    of = degrees.degree_of(degree)
    np.testing.assert_array_equal(even, x[of % 2 == 0])
    np.testing.assert_array_equal(odd, x[of % 2 == 1])
    np.testing.assert_array_equal(sphere.merge_parity(even, odd), x)


@pytest.mark.usefixtures("x64")
@RULES
def test_dtype_of_the_signal_stays(rule):
    rule = sphere.sphere(2, rule)
    for dtype in (jnp.float32, jnp.float64):
        x = jax.ShapeDtypeStruct((9, 4), dtype)
        values = jax.eval_shape(lambda x: sphere.to_sphere(rule, *sphere.split_parity(x)), x)
        back = jax.eval_shape(lambda v: sphere.from_sphere(rule, v), values)
        mean = jax.eval_shape(lambda v: sphere.sphere_mean(rule, v), values)
        assert {array.dtype for array in (values, *back, mean)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "lebedev", 5), "degree 3 needs a Lebedev rule of order 6"),
        ((3, "lebedev", 8), "no Lebedev rule of order 8"),
        ((3, "product", 9), "product rule has no order"),
        ((3, "fibonacci", None), "not 'fibonacci'"),
    ],
)
def test_rules_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sphere.sphere(*arguments)


def test_aliasing_error_is_that_of_the_round_trip():
    """With the transforms of the package, and e3nn's D instead of turned points."""
    degree = 4
    rule, rotation = sphere.sphere(degree), Rotation.random(rng=1).as_matrix()
    x = np.random.default_rng(1).normal(size=(1, degrees.size(degree), 400)) / (degree + 1)

    def box(x):
        values = jax.nn.silu(sphere.to_sphere(rule, *sphere.split_parity(jnp.array(x[0]))))
        return np.asarray(sphere.merge_parity(*sphere.from_sphere(rule, values)))[None]

    there = turn(rotation, box(x))
    error = np.linalg.norm(box(turn(rotation, x)) - there) / np.linalg.norm(there)
    _, *points = next(r for r in sphere.lebedev_rules(degree) if r[0] == 2 * degree + 3)
    np.testing.assert_allclose(error, sphere.aliasing_error(degree, *points), rtol=0.3)


@pytest.mark.parametrize("degree", [1, 2, 6])
def test_a_sphere_can_be_chosen_by_its_error(degree):
    """The smallest rule that keeps it; a smaller error never needs fewer points."""
    sizes = [sphere.sphere(degree, error=error).n_points for error in (1e-1, 1e-2, 1e-3)]
    assert sizes == sorted(sizes)
    below = [
        sphere.aliasing_error(degree, points, weights)
        for order, points, weights in sphere.lebedev_rules(degree)
        if order >= 2 * degree + 3 and weights.min() > 0 and len(weights) < sizes[-1]
    ]
    assert all(error > 1e-3 for error in below)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": 1e-30}, "no Lebedev rule for degree 3 with an error of 1e-30"),
        ({"error": 1e-3, "order": 9}, "sphere_order or sphere_error, not both"),
        ({"error": 1e-3, "rule": "product"}, "the product rule has no order"),
    ],
)
def test_an_error_that_cannot_be_had_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sphere.sphere(3, **options)


def test_an_error_on_the_command_line_replaces_the_order_of_a_config():
    small = HyperParameters(degree=1, product_degree=1, sphere_order=3)
    given = dataclasses.replace(small, sphere_error=1e-5).points()
    np.testing.assert_array_equal(given.weights, sphere.sphere(1, error=1e-5).weights)
    assert len(given.weights) > len(small.points().weights)


def test_turned_points_are_those_of_the_turned_rule():
    """Y at Q r, by e3nn's D."""
    rule, rotation = sphere.sphere(3), Rotation.random(rng=0).as_matrix()
    wigner = np.zeros((16, 16))
    for l in range(4):
        block = degrees.block(l)
        wigner[block, block] = e3nn_jax.Irrep(l, 1).D_from_matrix(rotation)
    turned = sphere.turn(rule, jnp.array(wigner))
    expected = harmonics(3, points(rule) @ rotation.T)
    odd = degrees.degree_of(3) % 2 == 1
    np.testing.assert_allclose(turned.even, expected[:, ~odd], atol=1e-5)
    np.testing.assert_allclose(turned.odd, expected[:, odd], atol=1e-5)
