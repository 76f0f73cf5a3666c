"""A cache like QM9's, with as many molecules, of a few atoms each."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from molecules import random_molecules

from experiments import sets
from hdgnn_jax.data.baselines import element_counts
from hdgnn_jax.data.splits import N_MOLECULES
from hdgnn_jax.data.targets import TARGETS


def write_cache(
    folder: pathlib.Path, spoil: Callable[[dict], None] = lambda arrays: None
) -> pathlib.Path:
    """The arrays as `qm9.build` leaves them, after `spoil(arrays)`."""
    rng = np.random.default_rng(0)
    kinds = random_molecules(20, 3, atoms=(2, 4))
    molecules = kinds.take(rng.integers(len(kinds), size=N_MOLECULES))
    counts = element_counts(molecules, (1, 6, 7, 8, 9))
    energies = counts @ rng.normal(-30, 10, 5) + rng.normal(size=N_MOLECULES)
    noise = rng.normal(scale=0.02, size=molecules.positions.shape)
    arrays = {
        "offsets": molecules.offsets,
        "atomic_numbers": molecules.atomic_numbers,
        "positions": molecules.positions + noise,
        "ids": np.arange(1, N_MOLECULES + 1),
        **dict.fromkeys(TARGETS, energies),
    }
    spoil(arrays)
    (folder / "qm9").mkdir(parents=True)
    packed = folder / "qm9" / "packed.npz"
    np.savez(packed, **arrays)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    (folder / "qm9" / "packed.sha256").write_text(digest)
    sets._qm9.cache_clear()
    return folder
