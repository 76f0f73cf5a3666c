"""Each config that comes with the package, in each variant, describes a data set that there is."""

from __future__ import annotations

import json

import pytest

from experiments.configs import ablations, ase, is2re, qm9
from hdgnn_jax.data.datasets import DATASETS, dataset


@pytest.mark.parametrize(
    ("config", "variant"),
    [
        (qm9, "full"), (qm9, "quick"), (is2re, "full"), (is2re, "shells"), (is2re, "quick"),
        (ase, "quick"), *((ablations, variant) for variant in ablations.VARIANTS),
    ],
)  # fmt: skip
def test_its_data_set_is_made(config, variant):
    content = json.loads(config.get_config(variant).to_json())
    assert type(dataset(content)) is DATASETS[content["data"]["set"]]
