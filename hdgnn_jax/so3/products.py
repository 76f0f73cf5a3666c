"""Clebsch-Gordan products with S(r_ij), taken in the edge's frame (eq. 4, 7, 8).

In that frame S has order m = 0 only (Passaro & Zitnick 2023), so a product couples the order m of
the input to the orders m and -m of the output alone: one small dense matrix per |m|.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from hdgnn_jax.so3 import degrees


class Paths(NamedTuple):
    """Constants of the product x' (x) S(+y), outputs of degree up to L'.

    Attributes:
      triples: [paths, 3] the (l1, l2, l) of each path, ordered by l.
      inputs: per |m| = 0..L', places of the input's rows.
      outputs: per |m|, indices of the output coefficients (among (L' + 1)**2).
      couplings: per |m|, [paths, inputs, outputs].
    """

    triples: np.ndarray
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    couplings: tuple[np.ndarray, ...]


@functools.cache
def paths(degree: int, degree_out: int, first: int | None = None) -> Paths:
    """All paths (l1, l2, l) with l1, l2 <= L and l <= L' that the triangle rule allows (eq. 5).

    Inputs of unit variance give outputs of unit variance on each path: e3nn's `component`
    normalisation. The input's rows are those with |m| <= L', ascending, or, with `first`, those of
    `degrees.low_first`.
    """
    triples = [
        (l1, l2, l)
        for l in range(degree_out + 1)
        for l1 in range(degree + 1)
        for l2 in range(abs(l1 - l), min(l1 + l, degree) + 1)
    ]
    rows_in = degrees.rows(degree, degree_out)
    if first is not None:
        rows_in = degrees.low_first(degree, first, max(first, degree_out))
    l_in, m_in = degrees.degree_of(degree)[rows_in], degrees.order_of(degree)[rows_in]
    l_out, m_out = degrees.degree_of(degree_out), degrees.order_of(degree_out)
    table = np.zeros((len(triples), len(rows_in), len(l_out)))
    for p, (l1, l2, l) in enumerate(triples):
        # Y^l2(+y) is sqrt(2 l2 + 1) at m = 0 and 0 elsewhere.
        pole = _clebsch_gordan(l1, l2, l)[:, l2, :] * math.sqrt((2 * l2 + 1) * (2 * l + 1))
        rows, columns = np.flatnonzero(l_in == l1), np.flatnonzero(l_out == l)
        table[np.ix_(np.array([p]), rows, columns)] = pole[l1 + m_in[rows]]
    inputs = tuple(degrees.where(abs(m_in) == m) for m in range(degree_out + 1))
    outputs = tuple(degrees.where(abs(m_out) == m) for m in range(degree_out + 1))
    couplings = tuple(table[:, i][:, :, o] for i, o in zip(inputs, outputs, strict=True))
    return Paths(np.array(triples), inputs, outputs, couplings)


def _clebsch_gordan(l1: int, l2: int, l: int) -> np.ndarray:
    # Imported here: it took 3.0 of 7.7 s of a program's imports, and not every network needs it.
    import e3nn_jax

    return np.asarray(e3nn_jax.clebsch_gordan(l1, l2, l), np.float64)
