"""The course of a run is what its config says."""

from __future__ import annotations

import pytest

from hdgnn_jax.errors import InputError
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import check


@pytest.mark.parametrize(
    ("every", "first", "steps", "expected"),
    [(4, 1, 10, {1, 4, 8, 10}), (5, 5, 10, {5, 10}), (20, 3, 10, {3, 10})],
)
def test_validation_comes_early_regularly_and_last(config, every, first, steps, expected):
    settings = {**config["training"], "validate_every": every, "first_validation": first}
    assert Training(**settings | {"steps": steps}).validations == expected


def test_a_reference_of_no_kind_is_refused_before_data_are_read(config):
    data = {**config["data"], "reference": "fited", "cache": "nowhere"}
    with pytest.raises(InputError, match=r"config.data.reference must be one of none, fitted, tab"):
        check({**config, "data": data})
