"""The layout of coefficients, `[..., (L + 1)**2, C]`, defined here only (models/README.md, 1)."""

from __future__ import annotations

import functools

import numpy as np


def size(degree: int) -> int:
    """Number of coefficients of all degrees up to `degree`: (L + 1)**2."""
    return (degree + 1) ** 2


def block(l: int) -> slice:
    """The slice of the coefficients that holds degree l."""
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
    """[M] indices of the coefficients with |m| <= m_max and l <= l_max (default L), ascending."""
    keep = np.abs(order_of(degree)) <= m_max
    if l_max is not None:
        keep &= degree_of(degree) <= l_max
    return where(keep)


def low_first(degree: int, m_max: int, highest: int) -> np.ndarray:
    """`rows(degree, m_max)`, and behind them the other rows with |m| <= highest."""
    low, order = rows(degree, m_max), np.abs(order_of(degree))
    return np.concatenate([low, where((order > m_max) & (order <= highest))])


def where(chosen: np.ndarray) -> np.ndarray:
    """The indices where `chosen` is True, in int32.

    JAX truncates int64 indices to 32 bits; such an index fails when x64 is switched on later.
    """
    return np.flatnonzero(chosen).astype(np.int32)
