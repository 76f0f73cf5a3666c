"""Embeddings of elements and of edges (from their distance and elements)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs.batching import gather
from hdgnn_jax.models.dense import AFTER_SILU, Dense, Precision

N_TAGS = 3
"""Bulk, surface, adsorbate."""


def element_index(atomic_numbers: jax.Array, elements: Sequence[int]) -> jax.Array:
    """[N] index of each atom's element in `elements`; padding (0) gets the index 0.

    `Structures.check` refuses elements outside the list, on the host.
    """
    table = np.zeros(max(elements) + 1, np.int32)
    table[list(elements)] = np.arange(len(elements))
    return jnp.asarray(table)[atomic_numbers]


class ElementEmbedding(nn.Module):
    """A learned vector per element, initially normal: `[N] -> [N, features]`.

    Attributes:
      n_elements: rows of the table.
      features: length of each vector.
      scale: initial standard deviation.
    """

    n_elements: int
    features: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, species: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.scale)
        return self.param("table", init, (self.n_elements, self.features))[species]


class DistanceBlock(nn.Module):
    """e_ij = SiLU(W2 SiLU(W1 g(|r_ij|) + E_s[z_j] + E_r[z_i])) (Figure 1): `[E, features]`."""

    n_elements: int
    features: int
    precision: Precision

    @nn.compact
    def __call__(
        self, smeared: jax.Array, species: jax.Array, senders: jax.Array, receivers: jax.Array
    ) -> jax.Array:
        # About 2.5 Gaussians are not small at any distance; the gain gives their sum unit variance.
        gain = (smeared.shape[-1] / 1.77) ** 0.5
        radial = Dense(self.features, self.precision, gain=gain, name="distance")(smeared)
        sender = ElementEmbedding(self.n_elements, self.features, name="sender")(species)
        receiver = ElementEmbedding(self.n_elements, self.features, name="receiver")(species)
        total = (radial + gather(sender, senders) + gather(receiver, receivers)) / 3**0.5
        mix = Dense(self.features, self.precision, gain=AFTER_SILU, name="mix")
        return nn.silu(mix(nn.silu(total)))
