"""Invariant branch (Appendix B.1; models/README.md, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax

from hdgnn_jax.models.dense import AFTER_SILU, Dense, Precision


class InvariantBranch(nn.Module):
    """f + (2/3) W sum_j e_ij: `[N, C0]`; the layer applies the SiLU.

    Attributes:
      neighbors: the usual number of neighbours; the sum is divided by its square root.
      precision: precision of the matrix product.
    """

    neighbors: float
    precision: Precision

    @nn.compact
    def __call__(
        self, f: jax.Array, e: jax.Array, envelope: jax.Array, receivers: jax.Array
    ) -> jax.Array:
        total = jax.ops.segment_sum(
            e * envelope[:, None], receivers, f.shape[0], indices_are_sorted=True
        )
        dense = Dense(f.shape[-1], self.precision, bias=False, gain=AFTER_SILU, name="mix")
        return f + (2 / 3) * dense(total / self.neighbors**0.5)
