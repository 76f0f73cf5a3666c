"""The one owner of the coefficient layout `[..., (L + 1)**2, C]` (models/README.md, section 1)."""

from __future__ import annotations

import functools

import numpy as np


def size(degree: int) -> int:
    """Coefficients of all degrees up to `degree`: (L + 1)**2."""
    return (degree + 1) ** 2


def block(l: int) -> slice:
    """Where degree l stands among the coefficients."""
    return slice(l * l, (l + 1) ** 2)


@functools.cache
def degree_of(degree: int) -> np.ndarray:
    """[(L + 1)**2] the degree l of each coefficient."""
    return np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)


@functools.cache
def order_of(degree: int) -> np.ndarray:
    """[(L + 1)**2] the order m of each coefficient, -l..l inside each degree."""
    return np.concatenate([np.arange(-l, l + 1) for l in range(degree + 1)])


@functools.cache
def rows(degree: int, m_max: int, l_max: int | None = None) -> np.ndarray:
    """[M] the coefficients with |m| <= m_max and l <= l_max (default L), in their usual order."""
    keep = np.abs(order_of(degree)) <= m_max
    if l_max is not None:
        keep &= degree_of(degree) <= l_max
    return where(keep)


def where(chosen: np.ndarray) -> np.ndarray:
    """The places that are True, in int32.

    An int64 index that JAX has once cut to 32 bits fails when x64 is switched on later.
    """
    return np.flatnonzero(chosen).astype(np.int32)
