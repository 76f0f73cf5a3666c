"""The folder of a run belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from hdgnn_jax.training.checkpoint import CheckpointError

FILE = "in_use"


@contextlib.contextmanager
def occupied(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out, until the block or the process ends, however it ends.

    Raises:
      CheckpointError: where another process is in.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / FILE).open("a+") as file:
        try:
            # The kernel's lock: nothing is left behind by a process that was killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise CheckpointError(
                f"another run writes to {workdir} (process {file.read().strip() or 'unknown'}): "
                "wait for it, or choose another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
