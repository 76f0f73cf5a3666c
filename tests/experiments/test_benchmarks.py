"""The benchmarks run, and what they compare are the same numbers."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla_flags

from experiments.benchmarks import (
    operations,
    processes,
    quick,
    sphere,
    timing,
    wigner,
    workloads,
)
from experiments.benchmarks.report import Report

pytestmark = pytest.mark.slow

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


def test_a_part_alone_has_the_settings_of_a_program(tmp_path, monkeypatch):
    probe = tmp_path / "probe.py"
    # Without the settings each result of 128 MiB is mapped anew, some 32,000 pages. The median, as
    # in `test_cpu.py`: at first a small array may take a result's place.
    probe.write_text("""
import jax, resource

def faults(name, quick):
    twice = jax.jit(lambda x: 2 * x)
    x, counts = jax.numpy.ones(2**25), []
    for _ in range(17):
        jax.block_until_ready(twice(x))
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    faults = sorted(after - before for before, after in zip(counts, counts[1:]))
    return {"faults": faults[8], name: quick}
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    part = importlib.import_module("probe").faults
    found = processes.alone(part, "quick", True, PYTHONPATH=str(tmp_path))
    assert found["quick"] is True
    assert found["faults"] < 1000


def test_quick_gives_its_cost_and_where_it_goes(monkeypatch):
    # Of several sizes: with as many edges as atoms an array of the ones is taken for the others'.
    made = functools.partial(workloads.random_molecules, sizes=np.resize((4, 5, 6), 60).tolist())
    monkeypatch.setattr(workloads, "training_molecules", lambda config, count: made(config))
    results = quick.run(Report(quick=True))
    assert results.keys() == {
        *(f"quick_{part}_ms_per_molecule_core{best}" for part in ("step", "inference")
          for best in ("", "_best")),
        "quick_utilisation",
        "quick_bytes_per_edge_layer",
        *(f"quick_profile_{part}_{name}_share" for part in ("train", "inference")
          for name in (*operations.KINDS, *operations.ARRAYS)),
    }  # fmt: skip
    # As programs are compiled here a scatter is a loop, not an operation.
    assert all(value > 0 for key, value in results.items() if "scatter" not in key)
    for part in ("train", "inference"):
        for names in (operations.KINDS, operations.ARRAYS):
            shares = [results[f"quick_profile_{part}_{name}_share"] for name in names]
            assert sum(shares) == pytest.approx(1)


def test_operations_are_known_by_kind_and_array():
    sizes = operations.Sizes(edges=5008, nodes=304, points=13)

    def program(nodes, senders, weights):
        edges = jnp.sin(nodes)[senders] @ weights
        return jnp.zeros_like(nodes).at[senders].add(edges), jnp.tanh(weights) + 1

    lowered = jax.jit(program).lower(jnp.ones((304, 16)), jnp.zeros(5008, int), jnp.ones((16, 16)))
    # As a user's programs are compiled.
    has_both = xla_flags.known_to_xla([xla_flags.OLDER_FUSIONS])
    text = lowered.compile({"xla_cpu_use_fusion_emitters": True} if has_both else None).as_text()
    found = {(o.kind, o.array(sizes)) for o in operations.read_program(text).values()}
    assert {("dot", "edge"), ("gather", "edge"), ("scatter", "edge"),
            ("elementwise", "weights")} <= found  # fmt: skip
    shapes = {"edge": (3, 5008, 8), "node": (304 * 9, 16), "sphere": (13, 304, 32),
              "weights": (16, 32)}  # fmt: skip
    for array, shape in shapes.items():
        operation = operations.Operation(frozenset(), ((2,), shape), "")
        assert operation.array(sizes) == array


def test_a_loop_is_not_charged_for_its_body():
    events = [(0, 10, "while"), (1, 4, "dot"), (6, 3, "dot"), (10, 5, "dot")]
    assert operations._own_times(events) == {"while": 3, "dot": 12}
