"""The data sets that a config can name."""

from __future__ import annotations

from collections.abc import Mapping

from hdgnn_jax.config import from_section
from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.data.is2re import IS2RE
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.errors import InputError
from hdgnn_jax.types import Config

DATASETS: dict[str, type[Dataset]] = {"qm9": QM9, "is2re": IS2RE, "ase": ASEFile}
"""The class of each data set, by its name in `config.data.set`."""


def dataset(config: Config) -> Dataset:
    """The data set that `config.data` describes; its field `set` says which kind it is.

    Raises:
      InputError: where the kind does not exist or a field is wrong.
    """
    if not isinstance(config["data"], Mapping):
        raise InputError(f"config.data must be a section with fields, not {config['data']!r}")
    section = dict(config["data"])
    kind = section.pop("set", None)
    if kind not in list(DATASETS):
        raise InputError(f"config.data.set must be one of {', '.join(DATASETS)}, not {kind!r}")
    found: Dataset = from_section({"data": section}, "data", DATASETS[kind])
    return found
