"""Diagnostics of layers, in Flax collections that cost nothing unless they are made mutable."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.so3 import degrees

GATES, STATES, ATTENTION, FINITE = "gates", "states", "attention", "finite"
"""Names of the collections: shares of stuck gates, the root mean square of each degree, the
weights of the terms of eq. 11, and what `nonfinite` asks of each module."""
CLOSED = 0.01
"""A gate below this, or above 1 minus this, is stuck: its gradient is near 0."""


def gate(module: nn.Module, name: str, logits: jax.Array) -> jax.Array:
    """sigmoid(logits); stores the share of stuck gates in the collection `GATES`, if mutable."""
    value = nn.sigmoid(logits)
    if not module.is_initializing():
        module.sow(GATES, f"{name}_stuck", jnp.mean((value < CLOSED) | (value > 1 - CLOSED)))
    return value


def watch(module: nn.Module, x: jax.Array) -> None:
    """Stores the rms of each degree of a state [N, S, C] in the collection `STATES`, if mutable."""
    degree = round(x.shape[1] ** 0.5) - 1
    blocks = [x[:, degrees.block(l)] for l in range(degree + 1)]
    if module.is_initializing():
        return
    module.sow(STATES, "rms", jnp.stack([jnp.sqrt(jnp.mean(part**2)) for part in blocks]))


def attend(module: nn.Module, weights: Sequence[jax.Array]) -> None:
    """Stores the mean over channels of each term's weight, [E, terms], in `ATTENTION`, if mutable.

    Args:
      module: the message block.
      weights: a1, a2, ... of eq. 11, [E, C] each.
    """
    if not module.is_initializing():
        module.sow(ATTENTION, "weights", jnp.stack([a.mean(-1) for a in weights], -1))
