"""Equivariant layer norm (models/README.md, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.so3 import degrees

EPSILON = 1e-6
"""For states of any size."""
SOFT = 1e-2
"""For states of order one: what symmetry makes zero stays small, and energies smooth beside it."""


class EquivariantLayerNorm(nn.Module):
    """Divides each degree by its root mean square over orders and channels: `[N, S, C]`.

    Degree 0 first loses its channel mean and gets a learned bias; each (degree, channel) has a
    learned weight.

    Attributes:
      epsilon: added to each mean square.
    """

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        degree = round(x.shape[1] ** 0.5) - 1
        channels = x.shape[2]
        weight = self.param("weight", nn.initializers.ones_init(), (degree + 1, channels))
        # METP sees the channel mean, which is the bias's as long as the weights are equal.
        bias = self.param("bias", nn.initializers.constant(channels**-0.5), (channels,))
        scalars = x[:, :1] - x[:, :1].mean(-1, keepdims=True)
        parts = [scalars] + [x[:, degrees.block(l)] for l in range(1, degree + 1)]
        squares = [jnp.mean(part**2, (1, 2), keepdims=True) for part in parts]
        normed = [
            part * jax.lax.rsqrt(square + self.epsilon) * weight[l]
            for l, (part, square) in enumerate(zip(parts, squares, strict=True))
        ]
        normed[0] = normed[0] + bias
        return jnp.concatenate(normed, 1)
