"""Runs one program together in many processes, each with its own devices."""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from hdgnn_jax.errors import HDGNNError

SILENCE = 100
"""Seconds of silence after which the other processes give up a process."""
REPORT = 900
"""Seconds that the other processes wait at their end while the first writes the report."""


class HostsError(HDGNNError):
    """Processes do not find each other; the message says what is missing."""


def connect(
    coordinator: str | None, processes: int | None, process: int | None, seconds: float
) -> None:
    """Joins the other processes. Call it before anything that asks JAX for devices.

    Args:
      coordinator: host:port of process 0. None, here and below: taken from the environment of
        Cloud TPU, Slurm or Open MPI.
      processes: number of processes.
      process: number of this process, from 0.
      seconds: how long to wait for the others; then the program ends with one line and exit code 1.

    Raises:
      HostsError: where an argument is wrong, the environment does not describe the processes, or
        the port is in use.
    """
    if coordinator is not None and not re.fullmatch(r"\S+:\d+", coordinator):
        raise HostsError(f"--coordinator_address={coordinator} must be HOST:PORT")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise HostsError(f"--process_id={process} must lie between 0 and --num_processes - 1")
    # JAX itself would end the process from C++, with a stack trace instead of an exception.
    timer = threading.Timer(seconds, _give_up, (coordinator, seconds))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=REPORT,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        if "RPC server" in str(error):
            raise HostsError(
                f"cannot listen on {coordinator or 'the port'}, which another run may have: choose "
                "another port"
            ) from error
        raise HostsError(
            f"this process does not know its place among others ({error}): start it under Slurm or "
            "on Cloud TPU, or give --coordinator_address=HOST:PORT --num_processes=N --process_id=K"
        ) from error
    finally:
        timer.cancel()


def _give_up(coordinator: str | None, seconds: float) -> None:
    """Ends this process, which has waited for the others for this time."""
    where = f"the coordinator {coordinator}" if coordinator else "their coordinator"
    print(
        f"error: after {seconds:g} s not all processes have reached {where}: start all of them "
        "with the same address, and see that its port is open",
        file=sys.stderr,
    )
    abort()


def is_first() -> bool:
    """Whether this process writes logs and reports."""
    return jax.process_index() == 0


_calls = itertools.count(1)


def preempted(step: int) -> bool:
    """Whether to stop after this step, since a process got SIGTERM; all get the same answer.

    All processes call it once per step. JAX gets the number of calls instead of the step, because
    steps may go back and this number must not.
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def first_said(text: str | None) -> str | None:
    """The text of the first process that has one, cut to 200 bytes; all processes call it."""
    if jax.process_count() == 1:
        return text
    said = np.zeros(200, np.uint8)
    content = np.frombuffer((text or "").encode()[: len(said)], np.uint8)
    said[: len(content)] = content
    texts = [bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(said)]
    return next((found.decode(errors="replace") for found in texts if found), None)


def abort() -> None:
    """Ends this process at once; an orderly exit would wait for the other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
