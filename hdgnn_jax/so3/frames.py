"""Rotations that turn an edge to the polar axis, as unit quaternions (w, x, y, z)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def edge_frame(direction: jax.Array, roll: jax.Array) -> jax.Array:
    """A rotation R with R r = +y (eq. 8): the shortest one, then a turn by `roll` about +y.

    The shortest rotation is a smooth function of r except at r = -y, where it is not unique. In a
    small cap around that pole, r is first turned by a half turn about z. Value and gradient are
    finite everywhere, and exact at +y and -y too.

    Args:
      direction: [..., 3] unit vectors.
      roll: [...] angles in radians.

    Returns:
      [..., 4] unit quaternions.
    """
    x, y, z = direction[..., 0], direction[..., 1], direction[..., 2]
    zero = jnp.zeros_like(x)
    rho2 = x * x + z * z
    cap = (y < 0) & (rho2 < jnp.finfo(direction.dtype).eps ** 2)
    # Half turn about z: (x, y, z) -> (-x, -y, z), after which the direction is near +y.
    x, y = jnp.where(cap, -x, x), jnp.where(cap, -y, y)
    # 1 + y = rho^2 / (1 - y) keeps its digits near -y.
    below = y < 0
    w = jnp.sqrt(jnp.where(below, rho2 / (1 - jnp.where(below, y, 0)), 1 + y) / 2)
    tilt = jnp.stack([w, -z / (2 * w), zero, x / (2 * w)], -1)
    turn = jnp.where(cap[..., None], _constant(direction, 0, 0, 0, 1), _constant(direction, 1))
    spin = jnp.stack([jnp.cos(roll / 2), zero, jnp.sin(roll / 2), zero], -1)
    return multiply(spin, multiply(tilt, turn))


def multiply(p: jax.Array, q: jax.Array) -> jax.Array:
    """Quaternion product `[..., 4]`: the rotation q followed by p."""
    a, b = p[..., 0], p[..., 1:]
    c, d = q[..., 0], q[..., 1:]
    real = a * c - jnp.sum(b * d, -1)
    imaginary = a[..., None] * d + c[..., None] * b + jnp.cross(b, d)
    return jnp.concatenate([real[..., None], imaginary], -1)


def inverse(quaternion: jax.Array) -> jax.Array:
    """The opposite rotation of a unit quaternion `[..., 4]`."""
    return jnp.concatenate([quaternion[..., :1], -quaternion[..., 1:]], -1)


def rotation_matrix(quaternion: jax.Array) -> jax.Array:
    """[..., 3, 3] the matrix that turns column vectors as the unit quaternion does."""
    w, v = quaternion[..., 0], quaternion[..., 1:]
    eye = jnp.eye(3, dtype=quaternion.dtype)
    # Rodrigues' formula; row k of cross(-eye, v) is v x e_k, whose transpose turns vectors.
    skew = jnp.cross(v[..., None, :], eye)
    return (
        (2 * w**2 - 1)[..., None, None] * eye
        + 2 * v[..., :, None] * v[..., None, :]
        + 2 * w[..., None, None] * jnp.swapaxes(skew, -1, -2)
    )


def _constant(like: jax.Array, *values: float) -> jax.Array:
    return jnp.array((*values, 0, 0, 0)[:4], like.dtype)
