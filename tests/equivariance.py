"""One statement of equivariance for every box of the model, with e3nn_jax for oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import e3nn_jax
import jax
import numpy as np
from scipy.spatial.transform import Rotation

from hdgnn_jax.graphs.structure import Structures


def harmonics(degree: int, vectors: np.ndarray) -> np.ndarray:
    """Y(r) of e3nn_jax in float64: `[n, 3] -> [n, (L + 1)**2]`."""
    irreps = e3nn_jax.Irreps.spherical_harmonics(degree)
    with jax.enable_x64(True):
        return np.asarray(e3nn_jax.spherical_harmonics(irreps, vectors, True).array)


def turn(rotation: np.ndarray, value: object) -> object:
    """Positions and coefficients `[N, (L + 1)**2, C]` turned; anything else as it is."""
    if isinstance(value, Structures):
        return dataclasses.replace(value, positions=value.positions @ rotation.T)
    if np.ndim(value) == 3:
        degree = round(np.shape(value)[1] ** 0.5) - 1
        blocks = [e3nn_jax.Irrep(l, 1).D_from_matrix(rotation) for l in range(degree + 1)]
        parts = np.split(np.asarray(value), np.arange(1, degree + 1) ** 2, 1)
        return np.concatenate(
            [np.einsum("ij,njc->nic", b, part) for b, part in zip(blocks, parts, strict=True)], 1
        )
    return value


def equivariance_error(box: Callable[..., np.ndarray], *arguments: object, seed: int = 0) -> float:
    """max |box(R a) - R box(a)| / max |box(a)| over three random rotations R."""
    straight = np.asarray(box(*arguments))
    errors = [
        np.abs(np.asarray(box(*(turn(r, a) for a in arguments))) - turn(r, straight)).max()
        for r in Rotation.random(3, rng=seed).as_matrix()
    ]
    return max(errors) / np.abs(straight).max()
