"""Functions with a singular point whose value and gradient stay finite there."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def norm(vector: jax.Array) -> jax.Array:
    """Length over the last axis; 0, with gradient 0, for the zero vector.

    The square root's derivative is infinite at 0, and 0 * inf is NaN even if `where` discards the
    value afterwards, so the argument is replaced by 1 before the root is taken.
    """
    square = jnp.sum(vector * vector, -1)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def normalise(vector: jax.Array) -> jax.Array:
    """Unit vector along the last axis; for the zero vector the polar axis +y, with gradient 0."""
    length = norm(vector)[..., None]
    zero = length == 0
    pole = jnp.array([0, 1, 0], vector.dtype)
    return jnp.where(zero, pole, vector / jnp.where(zero, 1, length))
