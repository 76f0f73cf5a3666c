"""Ridge regression on many columns, stored in float32 and summed in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg

RIDGES = tuple(10.0**k for k in range(-7, 1))
"""Penalties to choose from, per row, for standardised columns."""
TOLERANCE = 1.1
"""The penalty is the largest whose error is within this many times the smallest. Weights of some
hundred eV that cancel gain a few percent in structures like those of the fit, and are wrong by tens
of eV in water, which is like no other molecule of QM9."""
SMALLEST = 0.1
"""Smaller standard deviations of columns count as this. Columns are counts: one that varies less is
the tail of a Gaussian, or belongs to something that few structures have. A weight that compensates
for its size would contribute thousands of times as much in other structures."""
CHUNK = 4096
"""Number of rows that are converted to float64 at once."""


def ridge(
    design: np.ndarray, values: np.ndarray, constant: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and constants of the best fits, design @ weights + constants.

    The penalty of each fit is the largest of `RIDGES` whose fit to the first nine tenths of the
    rows has a mean absolute error on the others within `TOLERANCE` of the smallest. Constant
    columns get weight 0.

    Args:
      design: [n, F] float32, rows in random order.
      values: [n, T] float64, of T fits.
      constant: whether to fit the constants; otherwise they are 0.

    Returns:
      [F, T] float64 weights, and the constants [T].
    """
    n, n_fits = values.shape
    mean, spread = _moments(design)
    # Columns that vary by rounding alone are constant.
    used = np.flatnonzero(spread > 1e-4 * SMALLEST)
    spread = np.maximum(spread, SMALLEST)
    weights, centre = np.zeros((design.shape[1], n_fits)), values.mean(0)
    if not constant:
        mean, centre = np.zeros(design.shape[1]), np.zeros(n_fits)
    if not len(used):
        return weights, centre
    left, fitted = values - centre, n - n // 10

    def standard(rows: slice) -> np.ndarray:
        columns: np.ndarray = (design[rows][:, used] - mean[used]) / spread[used]
        return columns

    system = _System((len(used), n_fits), fitted)
    for start in range(0, fitted, CHUNK):
        rows = slice(start, min(start + CHUNK, fitted))
        system.add(standard(rows), left[rows])
    penalties = np.full(n_fits, RIDGES[-1])
    if fitted < n:
        held_out = slice(fitted, n)
        tried, truth = standard(held_out), left[held_out]
        errors = np.array([np.abs(tried @ system.solve(p) - truth).mean(0) for p in RIDGES])
        good = errors <= TOLERANCE * errors.min(0)
        penalties = np.array([RIDGES[np.flatnonzero(of_one)[-1]] for of_one in good.T])
        system.add(tried, truth)
    for penalty in np.unique(penalties):
        own = np.flatnonzero(penalties == penalty)
        weights[np.ix_(used, own)] = system.solve(penalty)[:, own] / spread[used, None]
    return weights, centre - mean @ weights


def _moments(design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, float64."""
    mean = np.asarray(np.mean(design, 0, dtype=np.float64))
    square = np.zeros(design.shape[1])
    for start in range(0, len(design), CHUNK):
        square += ((design[start : start + CHUNK] - mean) ** 2).sum(0)
    return mean, np.sqrt(square / len(design))


class _System:
    """The normal equations, or, with fewer rows than columns, the dual ones: an unknown per row."""

    def __init__(self, shape: tuple[int, int], rows: int) -> None:
        """Prepares a system for [F, T] weights from about this number of rows."""
        self._few = rows < shape[0]
        self._gram = np.zeros((0 if self._few else shape[0],) * 2)
        self._right = np.zeros(shape)
        self._rows: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._n = 0

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Adds rows [k, F] with their values [k, T]."""
        self._n += len(rows)
        if self._few:
            self._rows.append(rows)
            self._values.append(values)
        else:
            self._gram += rows.T @ rows
            self._right += rows.T @ values

    def solve(self, penalty: float) -> np.ndarray:
        """[F, T] weights for a penalty per row."""
        if self._few:
            rows = np.concatenate(self._rows)
            dual = _positive_solve(rows @ rows.T, penalty * self._n, np.concatenate(self._values))
            weights: np.ndarray = rows.T @ dual
            return weights
        return _positive_solve(self._gram, penalty * self._n, self._right)


def _positive_solve(matrix: np.ndarray, diagonal: float, right: np.ndarray) -> np.ndarray:
    """The solution x of (matrix + diagonal I) x = right."""
    matrix = matrix.copy()
    matrix[np.diag_indices(len(matrix))] += diagonal
    factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
    x: np.ndarray = scipy.linalg.cho_solve(factor, right, check_finite=False)
    return x
