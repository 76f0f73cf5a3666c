"""Signals on the sphere: quadrature, eq. 12 and eq. 13, on half of the points by parity.

Coefficients stand along the *first* axis here, `[(L + 1)**2, ...]`, so that a transform is one
plain matrix product. Even and odd degrees are kept apart: with e and o their two signals,
p(r) = e + o and p(-r) = e - o.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.so3 import degrees, harmonics

Rule = Literal["lebedev", "product"]

HIGHEST_ORDER = 131
"""The highest order for which a Lebedev rule exists."""
WRITTEN_OUT = 32
"""A transform of at most this many nonzero entries is a written-out sum: L = 1, 6 or 14 points."""
NEGLIGIBLE = 1e-14
"""Harmonics below this are 0 but for rounding."""


class Sphere(NamedTuple):
    """Points, weights and harmonics of one quadrature rule.

    Where the rule is closed under r -> -r (`antipodal`) only one point of each pair is stored.

    Attributes:
      even: [g, S_even] Y_lm(r_g) of even l.
      odd: [g, S_odd] Y_lm(r_g) of odd l.
      weights: [g]; they sum to 1 over all points of the rule.
      antipodal: whether -r_g are points of the rule too.
      degree: L.
    """

    even: np.ndarray | jax.Array
    odd: np.ndarray | jax.Array
    weights: np.ndarray
    antipodal: bool
    degree: int

    @property
    def n_points(self) -> int:
        """Points of the whole rule."""
        return len(self.weights) * (2 if self.antipodal else 1)


@functools.cache
def sphere(
    degree: int, rule: Rule = "lebedev", order: int | None = None, error: float | None = None
) -> Sphere:
    """A rule whose round trip is exact for signals up to degree L.

    Args:
      degree: L.
      rule: `lebedev`, of the given polynomial order, or `product`: 2 (L + 1) latitudes times
        2 (L + 1) + 1 longitudes, Fejer's weights.
      order: polynomial order of a `lebedev` rule. The default is the lowest order >= 2 L + 3 with
        positive weights, which leaves room for frequencies that the nonlinearity makes.
      error: instead of an order: takes the lowest such order with an `aliasing_error` up to this.

    Raises:
      InputError: where the rule does not exist or is not exact for degree L.
    """
    if rule == "product":
        if order is not None or error is not None:
            raise InputError("the product rule has no order: its size follows from the degree")
        return _from_points(degree, *_product(degree))
    if rule != "lebedev":
        raise InputError(f"sphere rule must be 'lebedev' or 'product', not {rule!r}")
    if order is not None:
        if error is not None:
            raise InputError("give sphere_order or sphere_error, not both")
        if order < 2 * degree:
            raise InputError(f"degree {degree} needs a Lebedev rule of order {2 * degree} or more")
        if (found := _lebedev(order)) is None:
            raise InputError(f"there is no Lebedev rule of order {order} for degree {degree}")
        return _from_points(degree, *found)
    for candidate, points, weights in lebedev_rules(degree):
        if candidate < 2 * degree + 3 or weights.min() <= 0:
            continue
        if error is None or aliasing_error(degree, points, weights) <= error:
            return _from_points(degree, points, weights)
    at_most = "" if error is None else f" with an error of {error:g} or less"
    raise InputError(f"there is no Lebedev rule for degree {degree}{at_most}")


def lebedev_rules(degree: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Order, points [n, 3] and weights [n] of the rules exact for degree L, in ascending order."""
    for order in range(2 * degree, HIGHEST_ORDER + 1):
        if (rule := _lebedev(order)) is not None:
            yield order, *rule


def aliasing_error(degree: int, points: np.ndarray, weights: np.ndarray) -> float:
    """Relative equivariance error of coefficients -> points -> SiLU -> coefficients.

    Root mean square over random signals of unit variance and random turns of the points, while
    the signals stand still (models/README.md, section 11).

    Args:
      degree: L.
      points: [n, 3].
      weights: [n]; they sum to 1.
    """
    # As in `_lebedev`.
    import scipy.special
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    signals = rng.normal(size=(degrees.size(degree), 64)) / (degree + 1)

    def round_trip(turn: np.ndarray) -> np.ndarray:
        y = np.asarray(harmonics.harmonics(degree, points @ turn.T))
        values = y @ signals
        again: np.ndarray = (y * weights[:, None]).T @ (values * scipy.special.expit(values))
        return again

    here, *turned = map(round_trip, [np.eye(3), *Rotation.random(8, rng=rng).as_matrix()])
    error = np.mean([np.square(there - here).sum() for there in turned])
    return float(np.sqrt(error / np.square(here).sum()))


def turn(sphere: Sphere, wigner: jax.Array) -> Sphere:
    """The same rule with its points turned by a rotation, given as its Wigner matrix D, [S, S]."""
    odd = degrees.degree_of(sphere.degree) % 2 == 1
    even, odd = degrees.where(~odd), degrees.where(odd)
    return sphere._replace(
        even=_dot(sphere.even, wigner[even][:, even].T),
        odd=_dot(sphere.odd, wigner[odd][:, odd].T),
    )


def split_parity(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The even and the odd degrees of coefficients `[(L + 1)**2, ...]`, one after another."""
    degree = int(np.sqrt(len(x))) - 1
    # Split, not sliced: the derivative is then one concatenation, not a sum of padded parts.
    parts = jnp.split(x, [degrees.size(l) for l in range(degree)])
    odd = parts[1::2] or [x[:0]]
    return jnp.concatenate(parts[::2]), jnp.concatenate(odd)


def merge_parity(even: jax.Array, odd: jax.Array) -> jax.Array:
    """The inverse of `split_parity`."""
    degree = int(np.sqrt(len(even) + len(odd))) - 1
    halves = []
    for parity, values in enumerate((even, odd)):
        ends = np.cumsum([2 * l + 1 for l in range(parity, degree + 1, 2)])
        halves.append(iter(jnp.split(values, ends[:-1])))
    return jnp.concatenate([next(halves[l % 2]) for l in range(degree + 1)])


def to_sphere(sphere: Sphere, even: jax.Array, odd: jax.Array) -> jax.Array:
    """Eq. 12: coefficients `[S_even, ...]`, `[S_odd, ...]` to values `[points, ...]`.

    For an antipodal rule, the second half of the points are the antipodes of the first half.
    """
    return jnp.concatenate(_values(sphere, even, odd))


def from_sphere(sphere: Sphere, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eq. 13 by quadrature: values `[points, ...]` to even and odd coefficients."""
    return _coefficients(sphere, jnp.split(values, 2) if sphere.antipodal else [values])


def pointwise(
    sphere: Sphere,
    function: Callable[[jax.Array], jax.Array],
    even: jax.Array,
    odd: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Coefficients of `function` of a signal: eq. 12, the function at each point, eq. 13.

    The halves of an antipodal rule are never joined.
    """
    return _coefficients(sphere, [function(values) for values in _values(sphere, even, odd)])


def _values(sphere: Sphere, even: jax.Array, odd: jax.Array) -> list[jax.Array]:
    """Values at the stored points `[g, ...]`, and for an antipodal rule at their antipodes."""
    e, o = _dot(sphere.even, even), _dot(sphere.odd, odd)
    return [e + o, e - o] if sphere.antipodal else [e + o]


def _coefficients(sphere: Sphere, values: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Even and odd coefficients of `_values`."""
    e = o = values[0]
    if sphere.antipodal:
        here, there = values
        e, o = here + there, here - there
    weights = sphere.weights[:, None]
    return _dot((sphere.even * weights).T, e), _dot((sphere.odd * weights).T, o)


def sphere_mean(sphere: Sphere, values: jax.Array) -> jax.Array:
    """Mean over the sphere of values `[points, ...]`, by quadrature."""
    weights = np.tile(sphere.weights, 2) if sphere.antipodal else sphere.weights
    return jnp.tensordot(jnp.asarray(weights, values.dtype), values, 1, precision="highest")


def _dot(constant: np.ndarray | jax.Array, x: jax.Array) -> jax.Array:
    """The matrix product `constant @ x` over the first axis of x."""
    if isinstance(constant, np.ndarray) and 0 < np.count_nonzero(constant) <= WRITTEN_OUT:
        # With so few entries, sums are faster than a matrix product.
        rows = [
            sum(float(row[k]) * x[k] for k in np.flatnonzero(row)) for row in constant
        ]
        return jnp.stack([jnp.broadcast_to(row, x.shape[1:]) for row in rows]).astype(x.dtype)
    # x as a matrix: the compiler then writes the derivative in place, without a transposition.
    columns = x.reshape(len(x), math.prod(x.shape[1:]))
    flat = jnp.dot(jnp.asarray(constant, x.dtype), columns, precision="highest")
    return flat.reshape(len(constant), *x.shape[1:])


def _from_points(degree: int, points: np.ndarray, weights: np.ndarray) -> Sphere:
    pairs = np.linalg.norm(points[:, None] + points[None], axis=-1) < 1e-9
    antipodal = bool(pairs.any(-1).all())
    if antipodal:
        keep = np.arange(len(points)) < pairs.argmax(-1)
        points, weights = points[keep], weights[keep]
    y = np.asarray(harmonics.harmonics(degree, points))
    y = np.where(np.abs(y) < NEGLIGIBLE, 0, y)
    odd = degrees.degree_of(degree) % 2 == 1
    return Sphere(y[:, ~odd], y[:, odd], weights, antipodal, degree)


@functools.cache
def _lebedev(order: int) -> tuple[np.ndarray, np.ndarray] | None:
    """[n, 3] points with the pole y and [n] weights that sum to 1; None if no such rule exists."""
    # SciPy's larger packages take half a second to import, at each start of a program.
    import scipy.integrate

    try:
        points, weights = scipy.integrate.lebedev_rule(order)
    except NotImplementedError:
        return None
    return points[[1, 2, 0]].T, weights / (4 * np.pi)


def _product(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes at midpoints of equal intervals (Fejer's first rule) times equal longitudes."""
    n, n_around = 2 * (degree + 1), 2 * (degree + 1) + 1
    theta = (np.arange(n) + 0.5) * np.pi / n
    j = np.arange(1, n // 2 + 1)
    weights = (1 - 2 * (np.cos(2 * j * theta[:, None]) / (4 * j**2 - 1)).sum(-1)) / n
    phi = 2 * np.pi * np.arange(n_around) / n_around
    theta, phi = (grid.ravel() for grid in np.meshgrid(theta, phi, indexing="ij"))
    points = np.stack(
        [np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1
    )
    return points, np.repeat(weights, n_around) / n_around
