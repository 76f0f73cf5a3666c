"""States of both ends of every edge, in the layout of the device that is compiled for."""

from __future__ import annotations

import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs.batching import gather

Ends: TypeAlias = tuple[jax.Array, jax.Array]
"""An array for the receivers and one for the senders."""


LANES = 128
"""The numbers to multiples of which a TPU's memory pads the last axis."""


def gather_ends(
    x: jax.Array, receivers: jax.Array, senders: jax.Array
) -> tuple[jax.Array, ...]:
    """x of receivers and of senders: two arrays [E, S, C], or one of both, [E, S, 2C].

    A TPU's memory pads the last axis to multiples of 128 numbers; there one array is made where it
    takes half of two, as for C = 64. On a CPU two save a copy, and up to a sixth of a step.

    Args:
      x: [N, S, C].
      receivers, senders: [E]; receivers ascend.
    """
    if _platform() == "tpu" and 0 < x.shape[-1] % LANES <= LANES // 2:
        return (_side_by_side(x.shape[0], x, receivers, senders),)
    return gather(x, receivers), gather(x, senders)


def halves(ends: tuple[jax.Array, ...]) -> Ends:
    """The arrays of receivers and of senders, out of what `gather_ends` returned."""
    if len(ends) == 1:
        receiver, sender = jnp.split(ends[0], 2, -1)
    else:
        receiver, sender = ends
    return receiver, sender


def _platform() -> str:
    """`cpu`, `gpu` or `tpu`, of the mesh that is traced for, or else of JAX's own devices.

    A plan's TPUs need not be here.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _side_by_side(n: int, x: jax.Array, receivers: jax.Array, senders: jax.Array) -> jax.Array:
    return jnp.concatenate([gather(x, receivers), gather(x, senders)], -1)


def _forward(
    n: int, x: jax.Array, receivers: jax.Array, senders: jax.Array
) -> tuple[jax.Array, Ends]:
    return _side_by_side(n, x, receivers, senders), (receivers, senders)


def _backward(n: int, at: Ends, g: jax.Array) -> tuple[jax.Array, None, None]:
    # Both halves are summed by either end: to split g by edge would write it twice, padded.
    receivers, senders = at
    to_receivers = jax.ops.segment_sum(g, receivers, n, indices_are_sorted=True)
    to_senders = jax.ops.segment_sum(g, senders, n)
    channels = g.shape[-1] // 2
    return to_receivers[..., :channels] + to_senders[..., channels:], None, None


_side_by_side.defvjp(_forward, _backward)
