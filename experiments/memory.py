"""Settings of the C library and of XLA without which a CPU's step takes about twice as long."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys

SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"
"""XLA allocates its buffers anew at each step. Here they stay in the process, on large pages. One
arena for all threads (`arena_max=1`) gains nothing more and makes compilation a third slower."""
COMPILER = ("--xla_cpu_use_fusion_emitters=false",)
"""XLA's older way to compile fused operations: less compilation, and a step as fast or faster."""
FEW_CORES = 2
"""Up to so many, the settings below are made too."""
ON_FEW_CORES = (
    "--xla_cpu_multi_thread_eigen=false", "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)  # fmt: skip
"""One core to an operation, several operations at once: on two cores a step of small arrays is 1.3
times faster, one of large arrays as fast. More cores were not tried."""
HAS_GLIBC = platform.libc_ver()[0] == "glibc"


def restart() -> None:
    """Starts the program again with these settings, which are read when a process starts.

    Other libraries are told to be quiet in the same way.
    """
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if HAS_GLIBC:
        wanted["GLIBC_TUNABLES"] = SETTINGS
    # jax sets the log level to 1 where it is not set.
    missing = {name: v for name, v in wanted.items() if os.environ.get(name, "1") == "1"}
    flags = os.environ.get("XLA_FLAGS", "")
    few = len(os.sched_getaffinity(0)) <= FEW_CORES if hasattr(os, "sched_getaffinity") else False
    added = [flag for flag in (*COMPILER, *ON_FEW_CORES * few) if flag.split("=")[0] not in flags]
    if added:
        missing["XLA_FLAGS"] = " ".join((flags, *added)).strip()
    if missing:
        os.environ.update(missing)
        os.execv(sys.executable, sys.orig_argv)


def release() -> None:
    """Gives the system what a finished run has left free, which the settings keep."""
    gc.collect()
    if HAS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
