"""Times kernels of ours and their counterparts in e3nn-jax, in turn, in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks.report import Report
from experiments.benchmarks.timing import Call, interleave, ratio
from hdgnn_jax.types import Apply, PyTree

WAYS = ("forward", "gradient")


class Kernel(NamedTuple):
    """A function and its arguments; the gradient is taken with respect to the first argument."""

    function: Apply
    arguments: tuple[PyTree, ...]


class Pair(NamedTuple):
    """Two computations of the same numbers.

    Attributes:
      ours: the library's kernel.
      e3nn: one or more kernels of e3nn-jax; forward and gradient count the fastest of each.
      difference: largest difference of their values; NaN where they have different weights.
    """

    ours: Kernel
    e3nn: tuple[Kernel, ...]
    difference: float = math.nan


def versus(report: Report, title: str, pairs: Mapping[str, Pair]) -> dict[str, float]:
    """Times and prints all pairs, and returns `{name}_{way}_ratio`: e3nn's time over ours."""
    calls: dict[str, Call] = {}
    for name, pair in pairs.items():
        for k, kernel in enumerate([pair.ours, *pair.e3nn]):
            for way, call in zip(WAYS, _forward_and_gradient(kernel), strict=True):
                calls[f"{name} {way} {k}"] = call
    times = interleave(calls, 3 if report.quick else 15)
    rows, ratios = [], {}
    for name, pair in pairs.items():
        for way in WAYS:
            ours, *others = (times[f"{name} {way} {k}"] for k in range(1 + len(pair.e3nn)))
            e3nn = min(others, key=np.median)
            ratios[f"{name}_{way}_ratio"] = ratio(e3nn, ours)
            difference = "" if math.isnan(pair.difference) else pair.difference
            rows.append([name, way, *map(milliseconds, (ours, e3nn)),
                         ratios[f"{name}_{way}_ratio"], difference])  # fmt: skip
    columns = ["", "", "ours, ms", "e3nn, ms", "ratio", "difference"]
    report.table(title, columns, rows, "Times: best / median.")
    return ratios


def milliseconds(samples: np.ndarray) -> str:
    """The best and the median of samples in seconds, as text in ms."""
    return f"{1e3 * samples.min():.3g} / {1e3 * np.median(samples):.3g}"


def _forward_and_gradient(kernel: Kernel) -> tuple[Call, Call]:
    function, (first, *others) = jax.jit(kernel.function), kernel.arguments
    leaves, tree = jax.tree.flatten(function(first, *others))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    cotangent = jax.tree.unflatten(
        tree, [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )

    @jax.jit
    def gradient(first: PyTree, others: PyTree, cotangent: PyTree) -> PyTree:
        return jax.vjp(lambda first: kernel.function(first, *others), first)[1](cotangent)[0]

    return lambda: function(first, *others), lambda: gradient(first, others, cotangent)
