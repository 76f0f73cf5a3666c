"""The update block mixes channels on points of the sphere (eq. 12-13)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.models.dense import AFTER_SILU, Dense, Precision
from hdgnn_jax.models.gates import gate
from hdgnn_jax.so3 import degrees, sphere

LOST = 2.0
"""The factor by which, at the start, two SiLUs on the sphere shrink the rms of each degree."""


class UpdateBlock(nn.Module):
    """`4C -> W -> W`, squeeze-and-excitation, `-> C` on the sphere; W = 2C in the paper.

    P(r) = [m(r), m(-r), x(r), x(-r)] with p(r) = e + o and p(-r) = e - o, so the first layer is one
    matrix for even and one for odd degrees. It commutes with the transform and is applied to
    coefficients, as are the gate and the last layer. Degrees l >= 1 of the update are then
    multiplied by L + 1 (ours, not the paper's), so that they start at order one.

    Attributes:
      points: the quadrature.
      width: W.
      squeeze_excite: whether channels are gated by their mean over the sphere.
      precision: precision of the matrix products; transforms are always float32.
    """

    points: sphere.Sphere
    width: int
    squeeze_excite: bool
    precision: Precision

    @nn.compact
    def __call__(self, messages: jax.Array, x: jax.Array) -> jax.Array:
        """The update `[N, S, C]` from messages and shortcut x^k, both `[N, S, C]`."""
        channels = x.shape[-1]
        wide = self.width
        # With coefficients along the first axis both transforms are plain matrix products.
        both = jnp.swapaxes(jnp.concatenate([messages, x], -1), 0, 1)
        even, odd = sphere.split_parity(both)
        # A signal's variance is the sum over its (L + 1)^2 coefficients. This gain makes it one;
        # dividing by the gain at the end gives degrees l >= 1 of order one.
        gain = degrees.size(self.points.degree) ** -0.5
        even = Dense(wide, self.precision, bias=False, gain=gain, name="even")(even)
        if odd.size:
            odd = Dense(wide, self.precision, bias=False, gain=gain, name="odd")(odd)
        else:
            odd = jnp.zeros((0, *even.shape[1:]), even.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (wide,))
        hidden = Dense(wide, self.precision, gain=AFTER_SILU, name="hidden")

        def mix(values: jax.Array) -> jax.Array:
            return nn.silu(hidden(nn.silu(values + bias)))

        update = sphere.merge_parity(*sphere.pointwise(self.points, mix, even, odd))
        if self.squeeze_excite:
            # The mean over the sphere is the coefficient of degree 0.
            squeezed = nn.silu(Dense(max(wide // 4, 4), self.precision, name="squeeze")(update[0]))
            logits = Dense(wide, self.precision, name="excite")(squeezed)
            update = scaled(update, gate(self, "excited", logits))
        # The gate starts at one half; the SiLUs leave about half of a signal in its degree.
        gain_out = AFTER_SILU * LOST * (2 if self.squeeze_excite else 1)
        update = Dense(channels, self.precision, bias=False, gain=gain_out, name="out")(update)
        update = jnp.concatenate([update[:1], update[1:] / gain])
        return jnp.swapaxes(update, 0, 1)


def scaled(x: jax.Array, factor: jax.Array) -> jax.Array:
    """The product of each `x[k]` and `factor`.

    The factor is repeated by a matrix product, which XLA replaces, so that the derivative sums over
    the first axis by one too: on a CPU XLA's own reduction over it takes nine times as long.
    """
    ones = jnp.ones((len(x), 1), x.dtype)
    return x * jnp.dot(ones, factor.reshape(1, -1), precision="highest").reshape(x.shape)
