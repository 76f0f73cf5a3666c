"""Errors are those of the numbers they are of, and are printed alike everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from hdgnn_jax.data.targets import Accuracy
from hdgnn_jax.training.result import SplitResult, format_mae


@pytest.mark.parametrize(
    ("mae", "text"),
    [
        (12.3, "12.30"),
        (0.04567891, "0.04568"),
        (8.34, "8.340"),
        (1234.56, "1235"),
        (98765.4, "98770"),
        (9.99999, "10.00"),
        (0.0, "0.000"),
        (float("nan"), "nan"),
        (0.055398, "0.05540"),
        (999.96, "1000"),
    ],
)
def test_format_mae_prints_four_digits(mae, text):
    assert format_mae(mae) == text


def test_accuracy_is_of_the_model_or_of_a_baseline():
    truth = np.array([1.0, 2.0, 4.0])
    result = SplitResult(
        "test", np.arange(3), truth, np.array([2.0, 0.0, 4.0]), {"zero": np.zeros(3)}, threshold=1.5
    )
    assert result.accuracy() == Accuracy(1.0, 2 / 3)
    assert result.mae == 1.0
    assert result.accuracy("zero") == Accuracy(7 / 3, 1 / 3)
