"""Many processes, each with devices of its own, that run one program together."""

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
"""Seconds after which the others give up a process that says nothing any more."""


class HostsError(HDGNNError):
    """Processes that do not find each other; the message says what is missing."""


def connect(
    coordinator: str | None, processes: int | None, process: int | None, seconds: float
) -> None:
    """Joins the other processes; before anything else that asks for devices.

    Args:
      coordinator: host:port of process 0; None, as the next two: from the environment of Cloud TPU,
        Slurm or Open MPI.
      processes: how many there are.
      process: this one's number, from 0.
      seconds: to wait for the others. Then the program ends with one line and exit code 1.

    Raises:
      HostsError: where the environment says nothing of other processes, or nonsense.
    """
    if coordinator is not None and not re.fullmatch(r"\S+:\d+", coordinator):
        raise HostsError(f"--coordinator_address={coordinator} must be HOST:PORT")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise HostsError(f"--process_id={process} must lie between 0 and --num_processes - 1")

    def give_up() -> None:
        where = f"the coordinator {coordinator}" if coordinator else "their coordinator"
        print(
            f"error: after {seconds:g} s not all processes have reached {where}: start all of them "
            "with the same address, and see that its port is open",
            file=sys.stderr,
        )
        abort()

    # JAX itself would end the process without a word to catch, but from C++ and with a stack trace.
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        if "RPC server" in str(error):
            raise HostsError(
                f"{coordinator or 'the port'} cannot be listened on, as where another run has it: "
                "choose another"
            ) from error
        raise HostsError(
            f"this process does not know its place among others ({error}): start it under Slurm or "
            "on Cloud TPU, or give --coordinator_address=HOST:PORT --num_processes=N --process_id=K"
        ) from error
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this process writes logs and reports."""
    return jax.process_index() == 0


_calls = itertools.count(1)


def preempted(step: int) -> bool:
    """Whether to stop after this step, the same for all: one of them was sent SIGTERM.

    Called once a step by all. JAX is told how often, for steps may go back and this must not.
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))


def first_said(text: str | None) -> str | None:
    """What the first process that has something to say says; called by all."""
    if jax.process_count() == 1:
        return text
    said = np.zeros(200, np.uint8)
    content = np.frombuffer((text or "").encode()[: len(said)], np.uint8)
    said[: len(content)] = content
    texts = [bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(said)]
    return next((found.decode(errors="replace") for found in texts if found), None)


def abort() -> None:
    """Ends this process at once: one that ends in order would wait for the others first."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
