"""What every command does first: quiet dependencies, memory settings, one-line errors."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags

from hdgnn_jax.data.qm9 import QM9Error
from hdgnn_jax.training.checkpoint import CheckpointError
from hdgnn_jax.training.loop import DivergedError

MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"
"""XLA allocates its buffers anew at each step. With these settings they stay in the process and on
large pages; a step on a CPU then takes about half as long (experiments/benchmarks would show it)."""


ERRORS = (ValueError, QM9Error, CheckpointError, DivergedError, OSError)
"""What a user can cause; StructureError is a ValueError. Anything else is our bug: a traceback."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an absl program; a user's mistake ends it with one line and exit code 1."""
    _keep_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("hdgnn_jax").setLevel(logging.WARNING)

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except ERRORS as error:
            fail(error)
        except KeyboardInterrupt:
            fail("stopped; the same command goes on from the last checkpoint")

    try:
        app.run(guarded)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # Only flag and config parsing happens out here.
        fail(error)


def fail(message: object) -> None:
    """Ends the program with one line on the standard error stream."""
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def _keep_memory() -> None:
    """Starts the program again with `MALLOC`, which is read when a process starts."""
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = MALLOC
    os.execv(sys.executable, sys.orig_argv)
