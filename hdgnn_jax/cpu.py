"""Settings of the C library and of XLA without which a step on a CPU takes about twice as long."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Parameters of glibc's `mallopt`, from its `malloc.h`."""
COMPILER = ("--xla_cpu_use_fusion_emitters=false",)
"""XLA's older way to compile fused operations: less compilation, and a step as fast or faster."""
FEW_CORES = 2
"""With this many cores or fewer, `ON_FEW_CORES` is set too."""
ON_FEW_CORES = (
    "--xla_cpu_multi_thread_eigen=false", "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)  # fmt: skip
"""One core per operation, several operations at once: on two cores a step with small arrays is 1.3
times faster, one with large arrays equally fast. More cores were not tried."""
HAS_GLIBC = platform.libc_ver()[0] == "glibc"


@functools.cache
def tune() -> None:
    """Applies the settings, once, for the whole process.

    JAX reads XLA's when it starts its devices, and not later; flags that XLA_FLAGS names already
    stay. `make_mesh` calls this, so that training, prediction and the calculator have the settings.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = (*COMPILER, *ON_FEW_CORES * (cores() <= FEW_CORES))
    added = [flag for flag in wanted if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    if HAS_GLIBC:
        # XLA allocates its buffers anew at each step. One arena keeps their memory in the process:
        # arenas of threads end at 64 MiB and give larger buffers back to the system, which has to
        # clear their pages at the next step.
        for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
            ctypes.CDLL(None).mallopt(name, value)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def release() -> None:
    """Returns freed memory, which the settings keep in the process, to the system."""
    gc.collect()
    if HAS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
