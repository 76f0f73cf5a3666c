"""The tests of a study are those of textbooks, written out here with SciPy and least squares."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from experiments import study_compare, study_hypotheses, study_sizes


def test_of_two_variants_the_test_is_the_paired_one():
    rng = np.random.default_rng(0)
    maes = {"a": list(rng.normal(0, 1, 5)), "b": list(rng.normal(2, 1, 5))}
    _, b = study_compare.compare(maes)
    paired = scipy.stats.ttest_rel(maes["b"], maes["a"])
    low, high = paired.confidence_interval()
    assert b.p == pytest.approx(paired.pvalue)
    assert (b.difference, b.margin) == pytest.approx(((low + high) / 2, (high - low) / 2))
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(maes["b"]), scipy.stats.sem(maes["b"]))
    assert b.spread == pytest.approx((high - low) / 2)


def test_of_more_variants_it_is_the_linear_model_with_seeds_as_blocks():
    """Least squares with a column for each variant and seed; Holm's correction by hand."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(3, 4)) + np.array([[0], [3], [1]]) + 10 * np.arange(4)
    variant, seed = (index.ravel() for index in np.indices(table.shape))
    columns = [variant == 1, variant == 2, *(seed == k for k in range(4))]
    design = np.stack(columns, 1).astype(float)
    effects, square, *_ = np.linalg.lstsq(design, table.ravel(), rcond=None)
    error = np.sqrt(square[0] / 6 * np.diag(np.linalg.inv(design.T @ design))[:2])
    raw = 2 * scipy.stats.t.sf(np.abs(effects[:2]) / error, 6)
    small, large = np.argsort(raw)
    expected = {small: 2 * raw[small], large: max(raw[large], 2 * raw[small])}
    _, *found = study_compare.compare(dict(zip("abc", table.tolist(), strict=True)))
    for k, comparison in enumerate(found):
        assert comparison.difference == pytest.approx(effects[k])
        assert comparison.margin == pytest.approx(scipy.stats.t.ppf(0.975, 6) * error[k])
        assert comparison.p == pytest.approx(min(1, expected[k]))


def test_the_hypotheses_of_the_dial_follow_from_paired_tests():
    seeds = np.array([0.0, 5.0, -2.0])
    test = {"dial_0": 130 + seeds, "dial_50": 100 + seeds, "dial_100": 104 + seeds,
            "baseline": 90 + seeds}  # fmt: skip
    rng = np.random.default_rng(0)
    test = {name: maes + rng.normal(0, 0.1, 3) for name, maes in test.items()}
    fixed = {"dial_0": 0.0, "dial_50": 50.0, "dial_100": 100.0}
    turned = {"dial_0": seeds + 1, "dial_50": seeds + 2, "dial_100": seeds + 3}
    first, second, third = study_hypotheses.of_dial(fixed, test, turned)
    assert "the share: holds; rank correlations 1.00, 1.00, 1.00." in first
    raw = [scipy.stats.ttest_rel(test[v], test["dial_50"]).pvalue for v in ("dial_0", "dial_100")]
    assert raw[0] < raw[1] < 0.05
    assert "between, 50 %: holds; 0 %: " in second
    assert f"p {2 * raw[0]:.2g}; 100 %: " in second
    assert second.endswith(f"p {max(raw[1], 2 * raw[0]):.2g}.")
    assert "share, 50 %: holds; " in third
    turned["dial_100"] = turned["dial_100"] - [0, 9, 0]
    worse = test | {"baseline": 120 + seeds, "dial_100": test["dial_50"] + [0.1, -0.1, 0.2]}
    first, second, third = study_hypotheses.of_dial(fixed, worse, turned)
    assert "does not hold in each seed" in first
    assert ": undecided; " in second
    assert ": contradicted; " in third


def test_gains_out_of_distribution_are_a_paired_test():
    percent = np.array([[100, 90, 91, 92], [102, 91, 93, 93], [99, 90, 88, 91.0]])
    line = study_hypotheses.out_of_distribution(percent)
    test = scipy.stats.ttest_rel(percent[:, 1:].mean(1), percent[:, 0])
    assert f"holds; {(percent[:, 1:].mean(1) - percent[:, 0]).mean():+.1f} ± " in line
    assert line.endswith(f"p {test.pvalue:.2g}.")
    mirrored = study_hypotheses.out_of_distribution(200 - percent)
    assert "contradicted; +" in mirrored


def test_the_crossing_is_where_two_power_laws_meet():
    sizes = np.array([1000, 3000, 10_000, 30_000])
    first, second = 8 * sizes**-0.5, 2 * sizes**-0.35
    where = study_sizes.crossing(sizes, first, second)
    assert where == pytest.approx(4 ** (1 / 0.15))
    assert study_sizes.crossing(sizes, first, 2 * first) is None
