"""The published splits of QM9, each checked by hash (protocols of Equiformer and Cormorant)."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from hdgnn_jax.errors import InputError

N_MOLECULES = 130_831


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of the 130,831 molecules in order of their QM9 index.

    Attributes:
      train, validation, test: int64 rows, in the order of the published permutation.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of the three lists, as little-endian 64-bit integers with their lengths."""
        hasher = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            hasher.update(np.array([len(part)], "<i8").tobytes())
            hasher.update(part.astype("<i8").tobytes())
        return hasher.hexdigest()


def split(name: str) -> Split:
    """The split `standard` (110,000 / 10,000 / 10,831) or `cormorant` (100,000 / 17,748 / 13,083).

    Raises:
      InputError: for another name, or if NumPy's generator no longer gives the published lists.
    """
    if name == "standard":
        order = np.random.default_rng(1).permutation(N_MOLECULES)
        train, validation = 110_000, 10_000
    elif name == "cormorant":
        # The published list was drawn with NumPy's legacy generator.
        order = np.random.RandomState(0).permutation(N_MOLECULES)
        train, validation = 100_000, 17_748
    else:
        raise InputError(f"split must be one of {', '.join(DIGESTS)}, not {name!r}")
    stop = train + validation
    parts = Split(order[:train], order[train:stop], order[stop:])
    if parts.digest != DIGESTS[name]:
        raise InputError(f"NumPy {np.__version__} no longer draws the published split {name}")
    return parts


DIGESTS = {
    "standard": "62385db9a3818750d7cc343646a976a1b0c136ac32cc087a2a6e6f0eeea29ada",
    "cormorant": "06b1c51e5961461d25e05ed74c9c7f82f32af4aa6af9a50990cba61b4f4b06b8",
}
"""SHA-256 of the published splits."""
