"""A process makes the settings that steps on a CPU need, and leaves those that a user made."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import xla_flags

from hdgnn_jax import cpu

needs_glibc = pytest.mark.skipif(not cpu.HAS_GLIBC, reason="its settings")


def test_flags_of_xla_are_left_as_the_user_has_them():
    named = "--xla_cpu_multi_thread_eigen=true --xla_force_host_platform_device_count=3"
    script = "import os; from hdgnn_jax import cpu; cpu.tune(); print(os.environ['XLA_FLAGS'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "XLA_FLAGS": named},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == named


def test_flags_that_xla_does_not_have_are_left_out():
    """It would end the process."""
    there = "--xla_force_host_platform_device_count=4"
    assert xla_flags.known_to_xla((there, "--xla_cpu_of_another_year=true")) == [there]


def test_cores_are_those_that_the_process_may_use():
    assert 1 <= cpu.cores() <= (os.cpu_count() or 1)


@needs_glibc
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


@needs_glibc
def test_a_step_reuses_the_memory_of_the_last():
    """Also where its buffers are larger than an arena of a thread; without the settings each of its
    pages would be cleared again. The median: at first a small array may take a buffer's place."""
    of_100_mib = (
        "import resource, jax, jax.numpy as jnp\n"
        "from hdgnn_jax import cpu\n"
        "cpu.tune()\n"
        "x = jnp.ones((5000, 8))\n"
        "step = jax.jit(lambda x: jnp.exp(x @ x.T) @ x).lower(x).compile()\n"
        "assert step.memory_analysis().temp_size_in_bytes > 64 * 2**20\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "counts = []\n"
        "for _ in range(17):\n"
        "    step(x).block_until_ready()\n"
        "    counts.append(faults())\n"
        "assert sorted(after - before for before, after in zip(counts, counts[1:]))[8] < 1000\n"
    )
    subprocess.run([sys.executable, "-c", of_100_mib], check=True)
