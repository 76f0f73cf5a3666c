"""A cache like QM9's, with as many molecules, of a few atoms each."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
from molecules import random_molecules

from hdgnn_jax.data.baselines import element_counts
from hdgnn_jax.data.cache import write_with_digest
from hdgnn_jax.data.qm9 import PACKED
from hdgnn_jax.data.splits import N_MOLECULES
from hdgnn_jax.data.targets import TARGETS


def write_cache(
    folder: pathlib.Path, spoil: Callable[[dict], None] = lambda arrays: None
) -> pathlib.Path:
    """The arrays as `qm9.build` leaves them, after `spoil(arrays)`."""
    rng = np.random.default_rng(0)
    kinds = random_molecules(20, 3, atoms=(2, 4))
    # Most have two atoms: a report predicts 20,831, and each edge takes its time.
    share = 1.0 / (kinds.n_atoms * (kinds.n_atoms - 1)) ** 2
    kind = rng.choice(len(kinds), N_MOLECULES, p=share / share.sum())
    molecules = kinds.take(kind)
    counts = element_counts(molecules, (1, 6, 7, 8, 9))
    energies = counts @ rng.normal(-30, 10, 5) + rng.normal(scale=0.5, size=N_MOLECULES)
    # This can be learned, so that more steps give another network.
    energies += rng.normal(scale=1.5, size=len(kinds))[kind]
    noise = rng.normal(scale=0.02, size=molecules.positions.shape)
    arrays = {
        "offsets": molecules.offsets,
        "atomic_numbers": molecules.atomic_numbers,
        "positions": molecules.positions + noise,
        "ids": np.arange(1, N_MOLECULES + 1),
        **dict.fromkeys(TARGETS, energies),
    }
    spoil(arrays)
    write_with_digest(folder / "qm9" / PACKED, lambda path: np.savez(path, **arrays))
    return folder
