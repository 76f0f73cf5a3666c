"""Settings of the C library and of XLA without which a step on a CPU takes about twice as long."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.util
import mmap
import os
import pathlib
import platform
import re
from collections.abc import Iterable

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Parameters of glibc's `mallopt`, from its `malloc.h`."""
OLDER_FUSIONS = "--xla_cpu_use_fusion_emitters=false"
"""XLA's older way to compile fused operations: less compilation, and a step as fast or faster. JAX
0.12 has it no more."""
COMPILER = (OLDER_FUSIONS, "--xla_backend_optimization_level=2")
"""LLVM's level 2 in place of 3 saves a quarter of the compilation; no step that was measured is
slower."""
FEW_CORES = 2
"""With this many cores or fewer, `ON_FEW_CORES` is set too."""
ON_FEW_CORES = (
    "--xla_cpu_multi_thread_eigen=false", "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)  # fmt: skip
"""One core per operation, several operations at once: on two cores a step with small arrays is 1.3
times faster, one with large arrays equally fast. More cores were not tried."""
FOR_ONE_RUN = {"xla_backend_optimization_level": 0}
"""Options of XLA's compiler for a program that runs once. Not to optimise it saves more."""
HAS_GLIBC = platform.libc_ver()[0] == "glibc"


@functools.cache
def tune() -> None:
    """Applies the settings, once, for the whole process.

    JAX reads XLA's when it starts its devices, and not later; flags that XLA_FLAGS names already
    stay. `make_mesh` calls this, so that training, prediction and the calculator have the settings.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = known_to_xla((*COMPILER, *ON_FEW_CORES * (cores() <= FEW_CORES)))
    added = [flag for flag in wanted if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    if HAS_GLIBC:
        # XLA allocates its buffers anew at each step. One arena keeps their memory in the process:
        # arenas of threads end at 64 MiB and give larger buffers back to the system, which has to
        # clear their pages at the next step.
        for name, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
            ctypes.CDLL(None).mallopt(name, value)


def known_to_xla(flags: Iterable[str]) -> list[str]:
    """Those of the flags for XLA, `--name=value`, that the installed one has.

    XLA ends the process on any other, and flags come and go. It can be asked in no other way than
    by a look into its library, for the names that end with a NUL.
    """
    spec = importlib.util.find_spec("jaxlib")
    folder = pathlib.Path((spec and spec.origin) or "").parent
    libraries = sorted(folder.glob("*.so*"), key=lambda path: path.stat().st_size)
    if not libraries:
        return []
    with (
        libraries[-1].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        names = {flag: flag.split("=")[0].removeprefix("--").encode() + b"\0" for flag in flags}
        return [flag for flag, name in names.items() if text.find(name) >= 0]


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
