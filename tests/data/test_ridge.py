"""Ridge regression finds what is there, and makes nothing of columns that say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from hdgnn_jax.data import ridge as module
from hdgnn_jax.data.ridge import ridge


def problem(n: int, columns: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    design = (rng.normal(size=(n, columns)) * 10 ** rng.uniform(0, 2, columns) + 5).astype("f4")
    weights = rng.normal(size=columns)
    return design, weights, (design.astype(float) @ weights + 3)[:, None]


def test_exact_values_are_found():
    design, weights, values = problem(500, 20)
    found, constant = ridge(design, values)
    np.testing.assert_allclose(found[:, 0], weights, rtol=0, atol=1e-4)
    assert constant == pytest.approx([3], abs=1e-2)


def test_fits_side_by_side_are_those_alone():
    """Each with a penalty of its own."""
    design, _, values = problem(300, 20)
    noise = np.random.default_rng(1).normal(size=(300, 1))
    weights, constants = ridge(design, np.hstack([values, noise]), constant=False)
    for k, one in enumerate((values, noise)):
        alone, constant = ridge(design, one, constant=False)
        np.testing.assert_allclose(weights[:, k], alone[:, 0], rtol=1e-9, atol=1e-12)
        assert constants[k] == constant[0] == 0


def test_few_rows_and_many_have_the_same_normal_equations(monkeypatch):
    design, _, values = problem(40, 39)
    monkeypatch.setattr(module, "RIDGES", (1e-2,))
    few = ridge(design, values)[0]  # 36 of the rows are fewer than the columns
    monkeypatch.setattr(module._System, "__init__", _whole)
    np.testing.assert_allclose(ridge(design, values)[0], few, rtol=1e-6, atol=1e-8)


def _whole(self, shape, rows):
    self._few, self._n = False, 0
    self._gram, self._right = np.zeros((shape[0], shape[0])), np.zeros(shape)


def test_noise_gets_a_large_penalty():
    rng = np.random.default_rng(0)
    design, values = rng.normal(size=(300, 250)).astype("f4"), rng.normal(size=(300, 1))
    new = rng.normal(size=(300, 250))
    weights, _ = ridge(design, values)
    assert np.abs(new @ weights).mean() < 0.8  # interpolation would give more


def test_constant_columns_and_what_rounding_leaves_of_them_weigh_nothing():
    design, weights, values = problem(300, 3)
    rounded = 7 + 1e-6 * np.random.default_rng(0).normal(size=(300, 1))
    more = np.concatenate([design, np.full((300, 1), 7), rounded], 1).astype("f4")
    found, _ = ridge(more, values)
    assert found[3:, 0].tolist() == [0, 0]
    np.testing.assert_allclose(found[:3, 0], weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_a_handful_of_rows_is_no_problem(n):
    design, _, values = problem(n, 4)
    weights, constant = ridge(design, values)
    assert np.isfinite(weights).all()
    assert np.isfinite(constant)
    if n == 1:
        assert (weights == 0).all()
        assert constant == values[0]


def test_weights_that_cancel_are_not_worth_a_few_percent():
    """Two columns nearly the same, and noise: their difference says little, its weight is small."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(2000, 1))
    design = np.hstack([one, one + 1e-3 * rng.normal(size=(2000, 1))])
    values = design @ np.array([[30.0], [-29.0]]) + 0.05 * rng.normal(size=(2000, 1))
    weights, _ = ridge(design.astype("f4"), values)
    assert weights.sum() == pytest.approx(1, abs=0.02)
    assert np.abs(weights).max() < 15
