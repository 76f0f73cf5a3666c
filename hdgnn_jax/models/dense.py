"""Linear layers and matrix products in the run's precision."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hdgnn_jax.so3 import degrees

Precision = Literal["float32", "bfloat16"]

AFTER_SILU = 1.679
"""1 / sqrt(E[SiLU(u)^2]) for u ~ N(0, 1): the gain of a layer whose input is a SiLU's output."""


KEPT = "kept"
"""The name, in rematerialisation policies, of arrays that are stored for the backward pass."""


def dot(x: jax.Array, kernel: jax.Array, precision: Precision, keep: bool = True) -> jax.Array:
    """The product x kernel over last and first axis; bfloat16 factors are summed in float32."""
    # x as a matrix: XLA then computes the kernel's derivative without transposing the cotangent.
    rows = x.reshape(-1, x.shape[-1])
    if precision == "bfloat16":
        rows, kernel = rows.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
        product = jnp.dot(rows, kernel, preferred_element_type=jnp.float32)
    else:
        product = jnp.dot(rows, kernel, precision="highest")
    product = product.reshape(*x.shape[:-1], -1)
    return checkpoint_name(product, KEPT) if keep else product


class DegreeDense(nn.Module):
    """An equivariant linear layer, one matrix per degree: `[N, S, in] -> [N, S, features]`."""

    features: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        degree = round(x.shape[1] ** 0.5) - 1
        parts = [
            Dense(self.features, self.precision, bias=False, name=f"degree_{l}")(
                x[:, degrees.block(l)]
            )
            for l in range(degree + 1)
        ]
        return jnp.concatenate(parts, 1)


class Dense(nn.Module):
    """A linear layer `[..., in] -> [..., features]`, initialised to preserve the variance.

    Attributes:
      features: output size.
      precision: precision of the product.
      bias: whether to add a bias, which starts at zero.
      gain: factor on the initial standard deviation.
      keep: whether the product is stored for the backward pass.
    """

    features: int
    precision: Precision = "float32"
    bias: bool = True
    gain: float = 1.0
    keep: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, part: slice = slice(None)) -> jax.Array:
        """The outputs, or only that part of them."""
        init = nn.initializers.variance_scaling(self.gain**2, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        y = dot(x, kernel[:, part], self.precision, self.keep)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (self.features,))[part]
        return y
