"""The course of a run is what its config says."""

from __future__ import annotations

import pytest

from hdgnn_jax.run.settings import Training


@pytest.mark.parametrize(
    ("every", "first", "steps", "expected"),
    [(4, 1, 10, {1, 4, 8, 10}), (5, 5, 10, {5, 10}), (20, 3, 10, {3, 10})],
)
def test_validation_comes_early_regularly_and_last(config, every, first, steps, expected):
    settings = {**config["training"], "validate_every": every, "first_validation": first}
    assert Training(**settings | {"steps": steps}).validations == expected
