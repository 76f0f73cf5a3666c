"""Embeddings of elements, and of an edge's distance and elements."""

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
    """[N] place of each atom's element in `elements`; padding (0) counts as the first.

    Elements outside the list are refused on the host, by `Structures.check`.
    """
    table = np.zeros(max(elements) + 1, np.int32)
    table[list(elements)] = np.arange(len(elements))
    return jnp.asarray(table)[atomic_numbers]


class ElementEmbedding(nn.Module):
    """A learned vector per element, normal at the start: `[N] -> [N, features]`.

    Attributes:
      n_elements: rows of the table.
      features: of each.
      scale: standard deviation at the start.
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
        # About 2.5 Gaussians are not small at a time; the gain gives their sum unit variance.
        gain = (smeared.shape[-1] / 1.77) ** 0.5
        radial = Dense(self.features, self.precision, gain=gain, name="distance")(smeared)
        sender = ElementEmbedding(self.n_elements, self.features, name="sender")(species)
        receiver = ElementEmbedding(self.n_elements, self.features, name="receiver")(species)
        total = (radial + gather(sender, senders) + gather(receiver, receivers)) / 3**0.5
        mix = Dense(self.features, self.precision, gain=AFTER_SILU, name="mix")
        return nn.silu(mix(nn.silu(total)))
