"""The benchmarks run, and what they compare are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benchmarks import sphere, timing, wigner
from experiments.benchmarks.report import Report

EXPECTED = {
    wigner: {f"{kernel}_L2_{figure}" for kernel in ("wigner", "rotation")
             for figure in ("forward_ratio", "gradient_ratio", "difference")},
    sphere: {f"sphere_L2{rule}_{figure}" for rule in ("", "_soft")
             for figure in ("ratio", "gradient_ratio", "points_ratio", "difference")},
}  # fmt: skip


# e3nn-jax uses what jax and NumPy deprecate.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("group", EXPECTED, ids=lambda group: group.__name__.split(".")[-1])
def test_group_gives_its_keys_and_ours_equals_e3nn(group):
    results = group.run(Report(quick=True))
    assert results.keys() == EXPECTED[group]
    for key, value in results.items():
        assert 0 < value < (1e-5 if key.endswith("difference") else np.inf)


def test_calls_are_timed_in_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = timing.interleave(calls, rounds=3, least=0)
    assert order[-6:] == list("ababab")
    assert {name: seconds.shape for name, seconds in samples.items()} == {"a": (3,), "b": (3,)}
