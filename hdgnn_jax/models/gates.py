"""What layers tell of themselves where they are asked: collections that cost nothing otherwise."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.so3 import degrees

GATES, STATES = "gates", "states"
"""Collections: shares of stuck gates, and the root mean square of each degree."""
CLOSED = 0.01
"""A gate below it, or above one less it, hardly moves."""


def gate(module: nn.Module, name: str, logits: jax.Array) -> jax.Array:
    """sigmoid(logits), of which the share that is stuck is kept where `GATES` is asked for."""
    value = nn.sigmoid(logits)
    if not module.is_initializing():
        module.sow(GATES, f"{name}_stuck", jnp.mean((value < CLOSED) | (value > 1 - CLOSED)))
    return value


def watch(module: nn.Module, x: jax.Array) -> None:
    """Keeps the rms of each degree of a state [N, S, C] where `STATES` is asked for."""
    degree = round(x.shape[1] ** 0.5) - 1
    blocks = [x[:, degrees.block(l)] for l in range(degree + 1)]
    if module.is_initializing():
        return
    module.sow(STATES, "rms", jnp.stack([jnp.sqrt(jnp.mean(part**2)) for part in blocks]))
