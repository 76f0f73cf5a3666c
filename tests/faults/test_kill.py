"""A run that is killed again and again ends with the bits of one that never was."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import time

import pytest

from experiments import train
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

KILLS = 4


def arrays(workdir, step):
    """All bytes of a kept step, by its digests, and its metric."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.verify(step)
        contents = checkpoints._read_contents(step)
    return contents["arrays"], contents["metric"]


def saving(workdir):
    """The checkpoints that do not have their final names yet."""
    folder = workdir / "checkpoints"
    found = os.scandir(folder) if folder.exists() else ()
    return {entry.inode() for entry in found if "tmp" in entry.name}


def reporting(workdir):
    """The state of the report's folder, as long as the file that is written last is not there."""
    report = workdir / "report"
    begun = report.exists() and not (report / "summary.json").exists()
    return {report.stat().st_mtime_ns} if begun else set()


AIMS = (None, saving, None, reporting)
"""A kill comes when this changes; None: at a random moment."""


def test_a_run_that_is_killed_ends_with_the_same_bits(config, finished, tmp_path, tried):
    """At random moments, and while it saves and reports; nothing that was saved is lost."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.train"])
    moments, aims = random.Random(0), itertools.cycle(AIMS)
    kills, runs, longest = 0, 0, 3.0
    while kills < KILLS or runs == 0:
        runs += 1
        workdir, newest = tmp_path / str(runs), 0
        while True:
            child = context.Process(target=train.run, args=(config, workdir))
            aim = next(aims) if kills < KILLS else None
            before = aim(workdir) if aim else None
            began = time.monotonic()
            child.start()
            while aim and child.exitcode is None and aim(workdir) <= before:
                child.join(0.001)
            if not aim:
                child.join(moments.uniform(0, longest) if kills < KILLS else None)
            if child.exitcode is not None:
                break
            child.kill()
            child.join()
            kills += 1
            with Checkpoints(workdir / "checkpoints") as checkpoints:
                steps = checkpoints.steps()
            assert max(steps, default=0) >= newest
            newest = max(steps, default=0)
        assert child.exitcode == 0
        longest = max(longest, time.monotonic() - began)
        for step in (5, 12):
            assert arrays(workdir, step) == arrays(finished, step)
        curves = [read_metrics(folder) for folder in (workdir, finished)]
        assert all(row.pop("seconds") > 0 for curve in curves for row in curve)
        assert curves[0] == curves[1]
        here, there = (
            json.loads((folder / "report" / "summary.json").read_text())
            for folder in (workdir, finished)
        )
        assert here.pop("seconds") != there.pop("seconds")
        assert here == there
    tried["kills"] = kills
