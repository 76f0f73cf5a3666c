"""Work for several processes of one thread each."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""With more, sums are cut up by the number of cores: other last bits."""


def map_in_processes(
    function: Callable[..., T], *columns: Iterable[Any], processes: int
) -> Generator[T]:
    """Yields `function` of each row of the columns, in their order.

    Args:
      function: of the top level of a module.
      columns: of arguments, as of `map`.
      processes: how many work.
    """
    spawn = multiprocessing.get_context("spawn")
    # An interruption is this process's to handle.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    try:
        # The processes start here, and BLAS looks when it is loaded.
        os.environ.update(ONE_THREAD)
        results = pool.map(function, *columns)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)
