"""Real spherical harmonics, polar axis y, signs of `e3nn_jax`, `component` normalisation."""

from __future__ import annotations

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np


def harmonics(degree: int, direction: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Y(r) of eq. 2-3 for all degrees up to L, by the Legendre recurrence in Cartesian form.

    Y_lm = N_lm P_lm(y) Re/Im (z + ix)^|m|, with sum_m Y_lm(r)^2 = 2l + 1. A NumPy array gives a
    NumPy array (constants in float64), anything else a JAX array.

    Args:
      degree: L.
      direction: [..., 3] unit vectors.

    Returns:
      [..., (L + 1)**2].
    """
    xp: ModuleType = np if isinstance(direction, np.ndarray) else jnp
    x, y, z = (direction[..., k] for k in range(3))
    cosine, sine = [xp.ones_like(x)], [xp.zeros_like(x)]  # rho^m cos(m alpha), rho^m sin(m alpha)
    for _ in range(degree):
        cosine, sine = (
            [*cosine, z * cosine[-1] - x * sine[-1]],
            [*sine, z * sine[-1] + x * cosine[-1]],
        )
    # Each is replaced below.
    columns = [y] * (degree + 1) ** 2
    for m in range(degree + 1):
        # P_lm without its factor rho^m and without the Condon-Shortley sign.
        below, here = xp.zeros_like(y), xp.full_like(y, float(math.prod(range(1, 2 * m, 2))))
        for l in range(m, degree + 1):
            if l > m:
                below, here = here, ((2 * l - 1) * y * here - (l + m - 1) * below) / (l - m)
            ratio = math.factorial(l - m) / math.factorial(l + m)
            scale = math.sqrt((2 * l + 1) * ratio * (1 if m == 0 else 2))
            columns[l * l + l + m] = scale * here * cosine[m]
            if m > 0:
                columns[l * l + l - m] = scale * here * sine[m]
    stacked: jax.Array | np.ndarray = xp.stack(columns, -1)
    return stacked
