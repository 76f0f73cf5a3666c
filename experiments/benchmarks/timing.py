"""Measures seconds, the machine's matrix-product peak, and the memory of a process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from hdgnn_jax import cpu
from hdgnn_jax.types import Json, PyTree

Call = Callable[[], PyTree]
GIB = 2**30


def interleave(calls: Mapping[str, Call], rounds: int, least: float = 0.03) -> Json:
    """Times several calls in turn, so that a change of the machine's clock affects all of them.

    Args:
      calls: calls by name; each is first run once, to compile.
      rounds: number of samples of each.
      least: seconds; shorter calls are repeated within a sample.

    Returns:
      For each name, [rounds] seconds of one call.
    """
    repeats = {}
    for name, call in calls.items():
        _seconds(call, 1)
        repeats[name] = max(1, round(least / _seconds(call, 1)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(_seconds(call, repeats[name]))
    return {name: np.array(seconds) for name, seconds in samples.items()}


def ratio(slow: np.ndarray, fast: np.ndarray) -> float:
    """How many times longer `slow` took than `fast`: the median over rounds."""
    return float(np.median(slow / fast))


def matrix_products(quick: bool) -> dict[str, tuple[Call, float]]:
    """Products of square float32 matrices of several sizes: name to (call, FLOP).

    They are in full float32 on every device, like the model's own products.
    """
    sizes = (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
    dot = jax.jit(lambda a: jax.numpy.dot(a, a, precision="highest"))

    def make(n: int) -> Call:
        a = jax.random.normal(jax.random.key(0), (n, n))
        return lambda: dot(a)

    return {f"product of {n}": (make(n), 2.0 * n**3) for n in (sizes[:1] if quick else sizes)}


def with_peak(
    calls: Mapping[str, Call], rounds: int, quick: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`interleave`, and the largest FLOP/s of a matrix product in each round: [rounds]."""
    products = matrix_products(quick)
    times = interleave({**calls, **{name: call for name, (call, _) in products.items()}}, rounds)
    rates = [flop / times.pop(name) for name, (_, flop) in products.items()]
    return times, np.max(rates, axis=0)


def peak_memory() -> int:
    """The most bytes that this process has held.

    On Linux, getrusage would not do: its figure survives exec and begins at the parent's size.
    """
    if (most := cpu.reported("self/status", "VmHWM")) is not None:
        return most
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats
