"""Wigner matrices D(R) of all degrees at once, and rotations by them (eq. 3, 8)."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.so3 import degrees


class Wigner(NamedTuple):
    """Rows of a block diagonal D(R), [E, M, S], and their transpose.

    Both are stored because each is the fast layout of one direction: a batched product whose
    contraction runs along the last axis of the matrix.

    Attributes:
      forward: [E, M, S] turns coefficients into the frame.
      backward: [E, S, M] turns them back; the inverse where no row was dropped.
    """

    forward: jax.Array
    backward: jax.Array


def wigner_blocks(degree: int, rotation: jax.Array, m_max: int | None = None) -> list[jax.Array]:
    """D^l(R) for l = 0..L, with D^l(R) Y^l(r) = Y^l(R r) (eq. 3).

    Between complex harmonics an entry is a^(m+k) b^(m-k) times a Jacobi polynomial in
    c = |a|^2 - |b|^2 (Wigner's formula), with a, b the Cayley-Klein parameters of R: smooth in the
    quaternion, poles included. The polynomials come from their stable recurrence in l, for all
    orders k of a row at once; edges run along the last axis, where the machine's vectors are.

    Args:
      degree: L.
      rotation: [..., 4] unit quaternions (w, x, y, z).
      m_max: rows |m| <= m_max are kept; None keeps all.

    Returns:
      A list of [..., 2 min(l, m_max) + 1, 2l + 1].
    """
    m_max = degree if m_max is None else min(m_max, degree)
    edges = rotation.shape[:-1]
    w, x, y, z = rotation.reshape(-1, 4).T
    # Polar axis y: (z, x, y) here is (x, y, z) of the textbooks.
    a, b = _powers(w, y, degree + m_max), _powers(x, -z, degree + m_max)
    c = w * w + y * y - x * x - z * z
    halves = [_complex_rows(m, degree, a, b, c) for m in range(m_max + 1)]
    blocks = []
    for l in range(degree + 1):
        orders = range(min(l, m_max) + 1)
        real_rows = [_real_rows(m, halves[m][l - m]) for m in orders]
        rows = [sine for _, sine in real_rows[:0:-1]] + [cosine for cosine, _ in real_rows]
        block = jnp.moveaxis(jnp.stack(rows), -1, 0)
        blocks.append(block.reshape(*edges, *block.shape[1:]))
    return blocks


def block_diagonal(
    blocks: list[jax.Array], m_max: int | None = None, l_max: int | None = None
) -> jax.Array:
    """Blocks of `wigner_blocks` as one matrix `[..., rows, columns]`.

    Args:
      blocks: from `wigner_blocks`, for degrees 0..L.
      m_max: keep only rows |m| <= m_max of those the blocks have.
      l_max: keep only degrees up to l_max, among rows and columns.
    """
    blocks = blocks if l_max is None else blocks[: l_max + 1]
    degree = len(blocks) - 1
    padded = []
    for l, block in enumerate(blocks):
        centre = block.shape[-2] // 2
        m = centre if m_max is None else min(centre, m_max)
        columns = (degrees.block(l).start, degrees.size(degree) - degrees.block(l).stop)
        block = block[..., centre - m : centre + m + 1, :]
        padded.append(jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [columns]))
    return jnp.concatenate(padded, -2)


def wigner(
    blocks: list[jax.Array], m_max: int | None = None, l_max: int | None = None
) -> Wigner:
    """`block_diagonal` and its transpose, ready for `rotate` and `rotate_back`."""
    forward = block_diagonal(blocks, m_max, l_max)
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


def _apply_forward(matrix, transpose, x):
    return _apply(matrix, transpose, x), (matrix, transpose, x)


def _apply_backward(residuals, g):
    # XLA contracts over the middle axis three to ten times slower than over the last one, so the
    # cotangent of x is the same kind of product, with the transposed matrix.
    matrix, transpose, x = residuals
    outer = jnp.einsum("eic,ejc->eij", g, x, precision=jax.lax.Precision.HIGHEST)
    return outer, jnp.zeros_like(transpose), _apply(transpose, matrix, g)


_apply.defvjp(_apply_forward, _apply_backward)


Complex = tuple[jax.Array, jax.Array]  # real and imaginary part


def _complex_rows(
    m: int, degree: int, a: list[Complex], b: list[Complex], c: jax.Array
) -> list[Complex]:
    """Row m >= 0 between complex harmonics without (-1)^m: for l = m..L an array [2l + 1, E]."""

    def corner(l: int, k: int) -> Complex:
        """Entry (m, k) with max(m, |k|) = l, where the Jacobi polynomial is a constant."""
        smaller = m if abs(k) == l else k
        weight = math.sqrt(math.comb(2 * l, l - abs(smaller))) * _sign(m, k)
        (ar, ai), (br, bi) = a[m + k] if m + k >= 0 else _conjugate(a[-m - k]), (
            b[m - k] if m - k >= 0 else _conjugate(b[k - m])
        )
        return weight * (ar * br - ai * bi), weight * (ar * bi + ai * br)

    start = [corner(m, k) for k in range(-m, m + 1)]
    rows = [(jnp.stack([re for re, _ in start]), jnp.stack([im for _, im in start]))]
    for l in range(m + 1, degree + 1):
        up, shift, down = (v[:, None].astype(c.dtype) for v in _recurrence(l, m))
        factor = up * c - shift
        parts = []
        for part, left, right in zip((0, 1), corner(l, -l), corner(l, l), strict=True):
            inner = factor * rows[-1][part]
            if l > m + 1:
                inner = inner - jnp.pad(rows[-2][part], ((1, 1), (0, 0))) * down
            parts.append(jnp.concatenate([left[None], inner, right[None]]))
        rows.append((parts[0], parts[1]))
    return rows


@functools.cache
def _recurrence(l: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d^l_mk = (up c - shift) d^{l-1}_mk - down d^{l-2}_mk, for |k| < l (Varshalovich 4.8)."""
    k = np.arange(1 - l, l)
    scale = np.sqrt(float(l * l - m * m) * (l * l - k * k))
    down = np.sqrt(float((l - 1) ** 2 - m * m) * np.maximum((l - 1) ** 2 - k * k, 0))
    shift = np.zeros(len(k)) if l == 1 else (2 * l - 1) * m * k / ((l - 1) * scale)
    down = np.zeros(len(k)) if l == 1 else l * down / ((l - 1) * scale)
    return l * (2 * l - 1) / scale, shift, down


def _real_rows(m: int, row: Complex) -> tuple[jax.Array, jax.Array]:
    """Rows +m and -m between real harmonics, [2l + 1, E] each, from the complex row m.

    With Y_m, Y_-m = sqrt(2) Re, Im of the complex harmonic, the columns k and -k are the sum and
    the difference of the complex entries at k and -k.
    """
    l = len(row[0]) // 2
    (re_minus, re_zero, re_plus), (im_minus, im_zero, im_plus) = (
        (part[:l][::-1], part[l : l + 1], part[l + 1 :]) for part in row
    )
    root = math.sqrt(2) if m else 1.0  # of the row, over that of the column
    scale = root / math.sqrt(2)
    cosine = [scale * (im_minus - im_plus)[::-1], root * re_zero, scale * (re_plus + re_minus)]
    sine = [scale * (re_plus - re_minus)[::-1], root * im_zero, scale * (im_plus + im_minus)]
    return jnp.concatenate(cosine), jnp.concatenate(sine)


def _sign(m: int, k: int) -> int:
    """Sign of d^l_mk in Wigner's formula for m >= 0, between harmonics without (-1)^m."""
    exponent = k if k <= 0 else max(k - m, 0)
    return -1 if exponent % 2 else 1


def _powers(real: jax.Array, imaginary: jax.Array, highest: int) -> list[Complex]:
    """z^0 .. z^n by recurrence."""
    powers = [(jnp.ones_like(real), jnp.zeros_like(real))]
    for _ in range(highest):
        re, im = powers[-1]
        powers.append((re * real - im * imaginary, im * real + re * imaginary))
    return powers


def _conjugate(z: Complex) -> Complex:
    return z[0], -z[1]
