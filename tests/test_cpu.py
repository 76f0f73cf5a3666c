"""A process makes the settings that steps on a CPU need, and leaves those that a user made."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from molecules import KNOWN, graph_of
from small import BUDGET, loss_of, parameters

from hdgnn_jax import cpu


def flags_after(**environment: str) -> str:
    """XLA_FLAGS of a process that made the settings twice."""
    script = "import os; from hdgnn_jax import cpu; cpu.tune(); cpu.tune()"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(os.environ['XLA_FLAGS'])"],
        env={**{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_flags_of_xla_are_added_once_and_those_that_are_named_are_left():
    few = cpu.ON_FEW_CORES if cpu.cores() <= cpu.FEW_CORES else ()
    every = cpu.known_to_xla((*cpu.COMPILER, *few))
    assert set(few) <= set(every)
    assert flags_after().split() == every
    named = "--xla_cpu_multi_thread_eigen=true --xla_force_host_platform_device_count=3"
    others = [flag for flag in every if "multi_thread_eigen" not in flag]
    assert flags_after(XLA_FLAGS=named).split() == [*named.split(), *others]


def test_flags_that_xla_does_not_have_are_left_out():
    """It would end the process."""
    there = "--xla_force_host_platform_device_count=4"
    assert cpu.known_to_xla((there, "--xla_cpu_of_another_year=true")) == [there]


def test_cores_are_those_that_the_process_may_use():
    assert 1 <= cpu.cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not cpu.HAS_GLIBC, reason="its settings")
def test_memory_that_is_free_goes_back_to_the_system():
    """When it is told to; until then the settings keep it."""
    of_100_mib = (
        "from hdgnn_jax import cpu\n"
        "cpu.tune()\n"
        "blocks = [bytearray(2**20) for _ in range(100)]\n"
        "on_top = bytearray(2000)\n"
        "full = cpu.resident() / 2**20\n"
        "del blocks\n"
        "assert cpu.resident() / 2**20 > full - 10\n"
        "cpu.release()\n"
        "assert cpu.resident() / 2**20 < full - 90\n"
    )
    subprocess.run([sys.executable, "-c", of_100_mib], check=True)


@pytest.mark.slow
def test_what_is_compiled_for_users_is_what_these_tests_run(tmp_path):
    """Optimised, layers one after another, and fusions by way of MLIR, as JAX 0.12 has them."""
    script = (
        "import sys, jax, numpy as np\n"
        "from molecules import KNOWN, graph_of\n"
        "from small import BUDGET, loss_of, parameters\n"
        "found = loss_of()(parameters(), graph_of(KNOWN, budget=BUDGET))\n"
        "np.savez(sys.argv[1], *jax.tree.leaves(found))\n"
    )
    emitters = cpu.known_to_xla(["--xla_cpu_use_fusion_emitters=true"])
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "found.npz"],
        env={
            **os.environ,
            "XLA_FLAGS": " ".join([*emitters, *cpu.known_to_xla(cpu.COMPILER[1:])]),
            "PYTHONPATH": str(pathlib.Path(__file__).parent),
        },
        check=True,
    )
    here = jax.tree.leaves(loss_of()(parameters(), graph_of(KNOWN, budget=BUDGET)))
    with np.load(tmp_path / "found.npz") as there:
        for k, own in enumerate(here):
            # A gradient may be the small difference of large terms.
            bound = 1e-5 * max(np.abs(own).max(), 1e-3)
            np.testing.assert_allclose(there[f"arr_{k}"], own, rtol=1e-4, atol=bound)
