"""Wigner matrices D(R) of all degrees at once, and rotations by them (eq. 3, 8)."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.so3 import degrees, frames, harmonics


class Wigner(NamedTuple):
    """Rows of a block diagonal D(R), [E, M, S], and their transpose.

    Both are stored because a batched product is fast only where it contracts the last axis of the
    matrix, and each direction contracts another axis of D.

    Attributes:
      forward: [E, M, S] turns coefficients into the frame.
      backward: [E, S, M] turns them back; it is the inverse where no row was dropped.
    """

    forward: jax.Array
    backward: jax.Array


def wigner_rows(degree: int, rotation: jax.Array, m_max: int | None = None) -> jax.Array:
    """The rows |m| <= m_max of D(R), with all degrees side by side (eq. 3).

    Row 0 is Y^l(n) / sqrt(2l + 1), where n is the direction that R turns to the pole. The others
    follow by the ladder operators of the turned frame: with u, n, v the rows of R as a matrix, and
    G(a) the generator of rotations about a (`generators`), G(R a) D = D G(a) implies

        D_+(m+1) = -(D_+m G(u) + D_-m G(v)) / s,    D_-(m+1) = (D_+m G(v) - D_-m G(u)) / s,

    s = sqrt((l - m)(l + m + 1)), divided by sqrt(2) for m = 0, where there is no D_-m. The rows
    are polynomials in the entries of R: no angles, so no singularity at a pole.

    Args:
      degree: L.
      rotation: [..., 4] unit quaternions (w, x, y, z).
      m_max: the highest order kept; None keeps all.

    Returns:
      [..., 2 m_max + 1, (L + 1)**2]: D^l_mk at [..., m_max + m, l * l + l + k], 0 where |m| > l.
    """
    m_max = degree if m_max is None else min(m_max, degree)
    l, dtype = degrees.degree_of(degree), rotation.dtype
    matrix = frames.rotation_matrix(rotation)
    u, n, v = (matrix[..., k, :, None] for k in range(3))
    # All three generators in one product, [S, 3 S].
    side_by_side = jnp.asarray(np.concatenate(generators(degree), -1), dtype)

    def turn(row: jax.Array) -> jax.Array:
        """The product row G(e) for each of the three axes e: [..., 3, S]."""
        product = jnp.dot(row, side_by_side, precision="highest")
        return product.reshape(*row.shape[:-1], 3, -1)

    pole = harmonics.harmonics(degree, n[..., 0])
    plus = jnp.asarray(pole * (2 * l + 1).astype(dtype) ** -0.5)
    minus = jnp.zeros_like(plus)
    rows = [plus]
    for m in range(m_max):
        square = (l - m) * (l + m + 1) / (1 if m else 2)
        scale = jnp.asarray(np.where(square > 0, np.maximum(square, 1) ** -0.5, 0), dtype)
        p, q = turn(plus), turn(minus) if m else jnp.zeros((), dtype)
        plus, minus = -scale * jnp.sum(p * u + q * v, -2), scale * jnp.sum(p * v - q * u, -2)
        rows = [minus, *rows, plus]
    return jnp.stack(rows, -2)


@functools.cache
def generators(degree: int) -> np.ndarray:
    """[3, S, S] G(e) for e = x, y, z: D(a turn by the small angle t about e) = 1 + t G(e)."""
    out = np.zeros((3, degrees.size(degree), degrees.size(degree)))
    for l in range(degree + 1):
        zero = l * l + l
        for m in range(l + 1):
            out[1, zero - m, zero + m] = m
            if m < l:
                step = math.sqrt((l - m) * (l + m + 1) / (4 if m else 2))
                out[0, zero + m + 1, zero + m] = out[2, zero + m, zero - m - 1] = step
                if m:
                    out[0, zero - m - 1, zero - m] = out[2, zero + m + 1, zero - m] = step
    return out - out.swapaxes(1, 2)


def block_diagonal(
    rows: jax.Array, m_max: int | None = None, l_max: int | None = None, first: int | None = None
) -> jax.Array:
    """The block diagonal matrix `[..., M, S]` with the rows of `wigner_rows`.

    Args:
      rows: from `wigner_rows`.
      m_max: the highest order kept; None keeps all that `rows` has.
      l_max: the highest degree kept, in rows and columns; None keeps all.
      first: rows of orders up to this one come before the others; None: by degree.
    """
    highest = rows.shape[-2] // 2
    degree = math.isqrt(rows.shape[-1]) - 1
    m_max = highest if m_max is None else min(m_max, highest)
    kept = degrees.rows(degree, m_max, l_max)
    if first is not None:
        kept = degrees.low_first(degree, first, m_max)
    columns = degrees.size(degree if l_max is None else l_max)
    l, m = degrees.degree_of(degree)[kept], degrees.order_of(degree)[kept]
    inside = l[:, None] == degrees.degree_of(degree)[:columns]
    return jnp.where(inside, rows[..., highest + m, :columns], 0)


def wigner(
    rows: jax.Array, m_max: int | None = None, l_max: int | None = None, first: int | None = None
) -> Wigner:
    """`block_diagonal` and its transpose, ready for `rotate` and `rotate_back`."""
    forward = block_diagonal(rows, m_max, l_max, first)
    return Wigner(forward, jnp.swapaxes(forward, -1, -2))


def rotate(wigner: Wigner, x: jax.Array) -> jax.Array:
    """D x: `[E, S, C] -> [E, M, C]`."""
    return _apply(wigner.forward, wigner.backward, x)


def rotate_back(wigner: Wigner, x: jax.Array) -> jax.Array:
    """D^T x: `[E, M, C] -> [E, S, C]`."""
    return _apply(wigner.backward, wigner.forward, x)


@jax.custom_vjp
def _apply(matrix: jax.Array, transpose: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("eij,ejc->eic", matrix, x, precision=jax.lax.Precision.HIGHEST)


Matrices = tuple[jax.Array, jax.Array, jax.Array]


def _apply_forward(
    matrix: jax.Array, transpose: jax.Array, x: jax.Array
) -> tuple[jax.Array, Matrices]:
    return _apply(matrix, transpose, x), (matrix, transpose, x)


def _apply_backward(residuals: Matrices, g: jax.Array) -> Matrices:
    # XLA contracts the middle axis three to ten times slower than the last one, so the cotangent
    # of x is computed with the stored transpose.
    matrix, transpose, x = residuals
    outer = jnp.einsum("eic,ejc->eij", g, x, precision=jax.lax.Precision.HIGHEST)
    return outer, jnp.zeros_like(transpose), _apply(transpose, matrix, g)


_apply.defvjp(_apply_forward, _apply_backward)
