"""Maps a function in several processes of one thread each."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from hdgnn_jax.progress import progress_bar

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


def make_files(
    files: Mapping[pathlib.Path, Sequence[tuple[object, ...]]],
    function: Callable[..., T],
    write: Callable[[pathlib.Path, Iterator[T]], object],
    processes: int,
    title: str,
    unit: str,
    is_made: Callable[[pathlib.Path], bool] = pathlib.Path.exists,
) -> None:
    """Makes the files that are missing, in their order, with a progress bar.

    After an interruption it goes on with the first file that is not whole.

    Args:
      files: for each file, the arguments of `function` for each of its items.
      function: makes an item; a function at the top level of a module.
      write: writes a file, all or nothing, and takes all of its items.
      processes: number of processes.
      title, unit: the bar's description, and what an item is, in the plural.
      is_made: whether a file is whole.
    """
    missing = {file: rows for file, rows in files.items() if not is_made(file)}
    rows = list(itertools.chain(*missing.values()))
    total = sum(map(len, files.values()))
    made = map_in_processes(function, *zip(*rows, strict=True), processes=processes)
    with progress_bar(unit) as progress, contextlib.closing(made):
        task = progress.add_task(title, total=total, completed=total - len(rows))

        def counted(n: int) -> Iterator[T]:
            for item in itertools.islice(made, n):
                yield item
                progress.advance(task)

        for file, of_file in missing.items():
            write(file, counted(len(of_file)))
