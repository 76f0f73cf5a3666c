"""The folder of a run belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
from collections.abc import Iterator

from hdgnn_jax.training import distributed
from hdgnn_jax.training.checkpoint import CheckpointError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def occupied(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out, until the block or the process ends, however it ends.

    By the kernel's lock on a file beside the folder, which is gone afterwards: a process that was
    killed leaves at most the file, which keeps nobody out.

    Of processes that train together, the first does it for all.

    Raises:
      CheckpointError: where another process is in.
    """
    if not distributed.is_first():
        yield
        return
    path = workdir.absolute().parent / f".{workdir.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
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
                logger.warning("%s cannot be locked (%s): start no second run", path, error)
            # The one who had it may have removed it since it was opened.
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
