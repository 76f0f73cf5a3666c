"""The network as tests compile it: in fewer operations than for users."""

from __future__ import annotations

from hdgnn_jax.models import hdgnn
from hdgnn_jax.so3 import sphere

UNROLLED, WRITTEN_OUT = hdgnn.UNROLLED, sphere.WRITTEN_OUT
"""What users have."""


def shorten() -> None:
    """Layers go into a loop and sums become matrix products: a quarter of the operations less."""
    hdgnn.UNROLLED = sphere.WRITTEN_OUT = 0
