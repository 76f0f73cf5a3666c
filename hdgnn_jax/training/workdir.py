"""A lock on a run's folder, so that one process at a time writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
from collections.abc import Iterator

from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training import distributed

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def occupied(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out until the block or the process ends, in whatever way.

    The lock is the kernel's, on a file beside the folder, which is removed at the end. A killed
    process may leave the file, but not the lock.

    Among processes that train together, the first takes the lock for all.

    Raises:
      CheckpointError: where another process has the lock, or no file can be written there.
    """
    if not distributed.is_first():
        yield
        return
    # Resolved: a folder has one lock, by whatever path.
    folder = workdir.resolve()
    path = folder.parent / f".{folder.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise CheckpointError(
            f"{path.parent} cannot be written to ({error.strerror}): choose another --workdir"
        ) from error
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise CheckpointError(
                    f"another run writes to {workdir} (process {file.read().strip()}): wait for "
                    "it, or choose another --workdir"
                ) from error
            except OSError as error:
                logger.warning("%s cannot be locked (%s): start no second run there", path, error)
            # The previous owner of the lock may have removed the file since it was opened.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
