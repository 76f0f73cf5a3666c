"""Maps a function in several processes of one thread each."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""With more threads, sums are divided by the number of cores, which changes the last bits."""


def map_in_processes(
    function: Callable[..., T], *columns: Iterable[object], processes: int
) -> Generator[T]:
    """Yields `function` of each row of the columns, in their order.

    Args:
      function: a function at the top level of a module.
      columns: columns of arguments, as for `map`.
      processes: number of processes.
    """
    spawn = multiprocessing.get_context("spawn")
    # Only this process handles an interruption.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    try:
        # The processes start here, and BLAS reads the variables when it is loaded.
        os.environ.update(ONE_THREAD)
        results = pool.map(function, *columns)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)
