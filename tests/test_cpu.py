"""A process makes the settings that steps on a CPU need, and leaves those that a user made."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
