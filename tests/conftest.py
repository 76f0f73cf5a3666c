"""The test run is stricter than a user's."""

import collections
import gc
import os
import shutil
import tempfile

import xla_flags

# Programs run for seconds here; to optimise them would take longer. To compile fusions by way of
# MLIR takes as long as all the rest: `test_hdgnn.py` does, and holds it against what is done here.
os.environ["XLA_FLAGS"] = " ".join(
    xla_flags.known_to_xla((
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
        # Parts compiled side by side are more work, and two workers leave no core idle.
        "--xla_cpu_parallel_codegen_split_count=1",
        xla_flags.OLDER_FUSIONS,
        # One core per operation: the workers share the cores.
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    ))
)

# Two workers already share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

# What one worker or program has compiled, the others need not.
NAME = "JAX_COMPILATION_CACHE_DIR"
PROGRAMS = None if NAME in os.environ else tempfile.mkdtemp(prefix="hdgnn_jax_tests_")
os.environ.setdefault(NAME, PROGRAMS or "")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402
import shortened  # noqa: E402

from hdgnn_jax.training import step  # noqa: E402

# `test_hdgnn.py` holds the network against what users have.
shortened.shorten()

# Tracing makes many objects and few cycles: the collector took a fifth of its time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


def pytest_collection_modifyitems(items):
    """Long tests come first, so that no worker begins one when the other has nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def one_device(monkeypatch):
    """What is made here runs on the first device, until `monkeypatch.undo()`."""
    mesh = step.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(step, "make_mesh", lambda: mesh)


@pytest.fixture
def no_programs():
    """Forgets those of other tests: JAX drops the oldest of many, and counts them no longer."""
    jax.clear_caches()


def pytest_unconfigure():
    """Workers are gone by now."""
    if PROGRAMS is not None:
        shutil.rmtree(PROGRAMS, ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """One line on what the fault tests tried, where all that ran have passed."""
    stats = terminalreporter.stats
    bad = [report for key in ("failed", "error") for report in stats.get(key, ())]
    if any("tests/faults/" in report.nodeid for report in bad):
        return
    tried = collections.Counter()
    for report in stats.get("passed", ()):
        for name, count in report.user_properties:
            if name.startswith("tried "):
                tried[name.removeprefix("tried ")] += count
    if tried:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in tried.items())
        terminalreporter.write_line(
            f"faults: {tried.total():,} cases tried: {kinds}; none lost data or gave a silent "
            "wrong number"
        )
