"""Compares our transforms to the sphere and back with e3nn-jax's on an equally exact grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import Kernel, Pair, versus
from hdgnn_jax.so3 import degrees, sphere

SLACK = 1.1
"""A grid counts as equally exact if its error is at most this factor times ours."""

FLOAT32 = 1e-5
"""Largest relative error of a round trip that is exact except for rounding."""

Function = Callable[[jax.Array], jax.Array]
Transform = Callable[[jax.Array, Function], jax.Array]


class Exactness(NamedTuple):
    """Relative errors over random signals.

    Attributes:
      round_trip: error of coefficients -> points -> coefficients.
      square: error of the degrees up to L of the square, taken on the points: aliasing.
    """

    round_trip: float
    square: float


def run(report: Report) -> dict[str, float]:
    """Times each transform in its own layout: [S, nodes, C] for ours, [nodes, C, S] for e3nn's."""
    degree, channels, nodes = (2, 4, 8) if report.quick else (6, 64, 600)
    points = sphere.sphere(degree)
    rng = np.random.default_rng(0)
    signals = jnp.asarray(rng.normal(size=(256, degrees.size(degree))), jnp.float32)
    wanted = _grid(degree, "gausslegendre", 4 * degree, False)(signals, jnp.square)
    measured = _exactness(lambda x, f: _ours(points)(x.T, f).T, signals, wanted)
    rows: list[list[object]] = [["ours, Lebedev", points.n_points, *measured]]
    n_points, grids = {}, {}
    for quadrature in ("gausslegendre", "soft"):
        band, found = _smallest(degree, quadrature, measured, signals, wanted)
        n_beta, n_alpha = _shape(quadrature, band, fft=False)
        n_points[quadrature] = n_beta * n_alpha
        rows.append([f"e3nn, {quadrature}, {n_beta} x {n_alpha}", n_beta * n_alpha, *found])
        grids[quadrature] = [_grid(degree, quadrature, band, fft) for fft in (False, True)]
    report.table(
        f"Exactness at L = {degree}, white signals",
        ["rule", "points", "round trip", "aliasing of the square"],
        rows,
        f"{len(points.weights)} of our points are transformed: the antipodes follow by parity.",
    )

    x = jnp.asarray(rng.normal(size=(degrees.size(degree), nodes, channels)), jnp.float32)
    channels_first = jnp.moveaxis(x, 0, -1)

    def plain(transform: Transform) -> Function:
        return lambda x: transform(x, lambda values: values)

    def pair(quadrature: str) -> Pair:
        ours = Kernel(plain(_ours(points)), (x,))
        others = tuple(Kernel(plain(grid), (channels_first,)) for grid in grids[quadrature])
        there = jnp.moveaxis(jax.jit(others[0].function)(channels_first), -1, 0)
        return Pair(ours, others, float(abs(jax.jit(ours.function)(x) - there).max()))

    name, soft = f"sphere_L{degree}", f"sphere_L{degree}_soft"
    pairs = {name: pair("gausslegendre"), soft: pair("soft")}
    title = f"Round trip: L = {degree}, {nodes} nodes, {channels} channels"
    times = versus(report, title, pairs)
    results: dict[str, float] = {}
    for key, quadrature in ((name, "gausslegendre"), (soft, "soft")):
        results |= {
            f"{key}_ratio": times[f"{key}_forward_ratio"],
            f"{key}_gradient_ratio": times[f"{key}_gradient_ratio"],
            f"{key}_points_ratio": points.n_points / n_points[quadrature],
            f"{key}_difference": pairs[key].difference,
        }
    return results


def _exactness(transform: Transform, signals: jax.Array, wanted: jax.Array) -> Exactness:
    def error(found: jax.Array, exact: jax.Array) -> float:
        return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))

    return Exactness(
        error(transform(signals, lambda values: values), signals),
        error(transform(signals, jnp.square), wanted),
    )


def _smallest(
    degree: int, quadrature: str, ours: Exactness, signals: jax.Array, wanted: jax.Array
) -> tuple[int, Exactness]:
    """The lowest band limit whose grid is exact for degree L and aliases no more than ours."""
    for band in range(2 * degree, 4 * degree + 1):
        found = _exactness(_grid(degree, quadrature, band, fft=False), signals, wanted)
        if found.round_trip < FLOAT32 and found.square <= max(SLACK * ours.square, FLOAT32):
            break
    return band, found


def _shape(quadrature: str, band: int, fft: bool) -> tuple[int, int]:
    """Numbers of latitudes and longitudes for degree `band`; e3nn's FFT needs odd longitudes."""
    n_beta = band // 2 + 1 if quadrature == "gausslegendre" else 2 * (band // 2 + 1)
    return n_beta, (band + 1) | 1 if fft else band + 1


def _grid(degree: int, quadrature: str, band: int, fft: bool) -> Transform:
    irreps = e3nn_jax.s2_irreps(degree)

    def transform(x: jax.Array, function: Function) -> jax.Array:
        signal = e3nn_jax.to_s2grid(
            e3nn_jax.IrrepsArray(irreps, x),
            *_shape(quadrature, band, fft),
            quadrature=quadrature,
            fft=fft,
            p_val=1,
            p_arg=-1,
        )
        values = signal.replace_values(function(signal.grid_values))
        array: jax.Array = e3nn_jax.from_s2grid(values, irreps, fft=fft).array
        return array

    return transform


def _ours(points: sphere.Sphere) -> Transform:
    def transform(x: jax.Array, function: Function) -> jax.Array:
        values = function(sphere.to_sphere(points, *sphere.split_parity(x)))
        return sphere.merge_parity(*sphere.from_sphere(points, values))

    return transform
