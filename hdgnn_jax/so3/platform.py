"""The kind of device that a program is traced for."""

from __future__ import annotations

import jax


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: that of the mesh which is traced for, or else of JAX's default.

    A plan is traced for TPUs on a machine that has none.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)
