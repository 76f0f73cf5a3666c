"""Settings of the C library and of JAX without which a step on a CPU takes about twice as long."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import pathlib
import platform
import re

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Parameters of glibc's `mallopt`, from its `malloc.h`."""
FOR_ONE_RUN = {"xla_backend_optimization_level": 0}
"""Options of XLA's compiler for a program that runs once. Not to optimise it saves more."""
HAS_GLIBC = platform.libc_ver()[0] == "glibc"


@functools.cache
def tune() -> None:
    """Applies the settings, once, for the whole process.

    XLA allocates the buffers of a step anew each time. glibc would map large ones anew too, and the
    system clear their pages; so nothing is mapped or given back. It cannot be told so for the
    arenas of threads, which map what is over 64 MiB; so a step runs in the thread that calls it, as
    a rule the main one, whose arena grows without a limit. Threads for parts of a step have arenas
    of their own: compilation leaves tens of thousands of small free blocks, and threads that search
    one list of them wait for each other.

    JAX reads its setting when it starts its devices, and not later. `make_mesh` calls this, so that
    training, prediction and the calculator have the settings.
    """
    if HAS_GLIBC:
        # Here, since programs set its environment before they import it.
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
        for name, value in ((ARENA_MAX, 8), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
            ctypes.CDLL(None).mallopt(name, value)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    return reported("self/status", "VmRSS") or 0


def reported(file: str, field: str) -> int | None:
    """Bytes that Linux reports in a field of a file in /proc, as MemTotal in meminfo.

    None: the system does not tell.
    """
    path = pathlib.Path("/proc") / file
    found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.M) if path.exists() else None
    return int(found[1]) * 1024 if found else None


def release() -> None:
    """Returns freed memory, which the settings keep in the process, to the system."""
    gc.collect()
    if HAS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
