"""Processes that train together give the numbers of one, and say so where they do not meet."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import train
from hdgnn_jax.inference.weights import load
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(train.__file__).parents[1]

# Gloo, which connects CPUs, prints "[Gloo] Rank 0 is connected to 3 peer ranks." and more to each
# process. Its threads write piece by piece at once: a line can be of two, or half of one's.
OF_GLOO = re.compile("Gloo|Rank|is|connected|to|peer|ranks|Expected|number|of|[^A-Za-z]")


def start(arguments: list[str], devices: int, **environment: str) -> subprocess.Popen:
    """The training program, on so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "COLUMNS": "80", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def of_two(arguments: list[str]) -> list[list[str]]:
    """The arguments of two processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--patience=60"]
    return [[*arguments, *place, f"--process_id={k}"] for k in range(2)]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit codes and output of all. Each sum over devices waits until all have had a core."""
    return [(p.wait(300), *p.communicate()) for p in processes]


def compare(workdir: pathlib.Path, finished: pathlib.Path) -> None:
    """Curves of both, and the weights that their reports would use, to 1e-5."""
    curves = [
        [
            (row["step"], row["train_loss"], row.get("validation_mae", 0))
            for row in read_metrics(folder)
        ]
        for folder in (workdir, finished)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    here, there = (
        np.concatenate(
            [np.ravel(leaf) for leaf in jax.tree.leaves(load(folder, step.make_mesh())[1])]
        )
        for folder in (workdir, finished)
    )
    assert np.linalg.norm(here - there) < 1e-5 * np.linalg.norm(there)


@pytest.fixture
def arguments(command, tmp_path):
    """Of the finished run, into another folder."""
    others = [a for a in command.args[3:] if not a.startswith("--workdir")]
    return [*others, f"--workdir={tmp_path / 'run'}"]


@pytest.mark.parametrize("divide", [False, True])
def test_two_processes_of_two_devices_train_as_one_of_four(finished, arguments, tmp_path, divide):
    """Each with a copy of the state, or with its part."""
    arguments = [*arguments, f"--config.training.divide_state={divide}"]
    done = finish([start(a, 2) for a in of_two(arguments)])
    assert [code for code, _, _ in done] == [0, 0], done
    assert "on 4 device(s)" in done[0][1]
    assert not OF_GLOO.sub("", done[1][1])
    compare(tmp_path / "run", finished)
    summaries = [
        json.loads((folder / "report" / "summary.json").read_text())
        for folder in (tmp_path / "run", finished)
    ]
    np.testing.assert_allclose(*[s["mae"] for s in summaries], rtol=1e-5)
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        for kept in checkpoints.steps():
            checkpoints.verify(kept)


def test_sigterm_to_one_stops_both_and_one_process_goes_on(finished, arguments, config, tmp_path):
    """They have found each other by what Slurm says."""
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    processes = [
        start([*arguments, "--distributed"], 2, **slurm, SLURM_PROCID=str(k), SLURM_LOCALID=str(k))
        for k in range(2)
    ]
    for line in processes[0].stdout:
        if line.startswith("HDGNN"):
            break
    processes[1].send_signal(signal.SIGTERM)
    stopped = finish(processes)
    assert [code for code, _, _ in stopped] == [128 + signal.SIGTERM] * 2, stopped
    assert "is saved; the same command goes on from there" in stopped[0][1]
    train.run(config, tmp_path / "run", report=False)
    compare(tmp_path / "run", finished)


@pytest.mark.usefixtures("one_device")
def test_one_device_trains_as_four_and_four_go_on(finished, config, tmp_path, monkeypatch):
    with pytest.raises(StoppedError):
        train.run(config, tmp_path / "run", lambda at: at == 9)
    monkeypatch.undo()
    train.run(config, tmp_path / "run", report=False)
    compare(tmp_path / "run", finished)


def test_a_missing_coordinator_is_named_in_time(arguments):
    began = time.monotonic()
    (_, second) = of_two(arguments)
    ((code, _, errors),) = finish([start([*second, "--patience=2"], 1)])
    assert code == 1
    assert errors.startswith("error: after 2 s not all processes have reached the coordinator 127.")
    assert len(errors.splitlines()) == 1
    assert time.monotonic() - began < 60
