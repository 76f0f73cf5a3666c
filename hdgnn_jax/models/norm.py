"""Equivariant layer norm (models/README.md, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.so3 import degrees

EPSILON = 1e-6
"""The epsilon for states of any size."""
SOFT = 1e-2
"""The epsilon for states of order one: a state that vanishes as the last neighbour leaves stays
small on the way, so that energies are smooth there."""
SHARE = 0.25
"""The share for states of order one: a degree that vanishes by symmetry stays small near that
symmetry. Without it the energy of methane has a cusp at the tetrahedron, and its vibrations are
wrong by a factor of two."""


class EquivariantLayerNorm(nn.Module):
    """Divides each degree by its root mean square over orders and channels: `[N, S, C]`.

    The channel mean of degree 0 is subtracted first, and a learned bias is added at the end. Each
    (degree, channel) has a learned weight. With `share` s the mean square q_l of a degree becomes
    (q_l + s q) / (1 + s), q being the mean of q_l over the degrees.

    Attributes:
      epsilon: added to each mean square.
      share: s, the weight of all degrees in the mean square that divides a degree.
    """

    epsilon: float = EPSILON
    share: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        degree = round(x.shape[1] ** 0.5) - 1
        channels = x.shape[2]
        weight = self.param("weight", nn.initializers.ones_init(), (degree + 1, channels))
        # METP sees the channel mean, which comes from the bias alone while the weights are equal.
        bias = self.param("bias", nn.initializers.constant(channels**-0.5), (channels,))
        scalars = x[:, :1] - x[:, :1].mean(-1, keepdims=True)
        parts = [scalars] + [x[:, degrees.block(l)] for l in range(1, degree + 1)]
        squares = jnp.stack([jnp.mean(part**2, (1, 2), keepdims=True) for part in parts])
        if self.share:
            squares = (squares + self.share * squares.mean(0)) / (1 + self.share)
        scales = jax.lax.rsqrt(squares + self.epsilon)
        normed = [part * scales[l] * weight[l] for l, part in enumerate(parts)]
        normed[0] = normed[0] + bias
        return jnp.concatenate(normed, 1)
