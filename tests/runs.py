"""A finished run of seconds on made-up molecules, made once for all workers."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import shortened
from fake_qm9 import write_cache

from experiments import train
from experiments.configs import ablations
from experiments.configs.qm9 import get_config
from hdgnn_jax.config import flatten, with_fields
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.programs import Programs
from hdgnn_jax.run.results import restored
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.so3 import sphere
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import Memory
from hdgnn_jax.training.record import Course, Record

PROGRAMS: dict[tuple, Programs] = {}
"""Those that `shared_programs` has made."""


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    """Predictors that differ in their weights alone share programs, whoever has loaded them.

    One module at a time: elsewhere, in the same worker, compilations are counted.
    """
    make = Predictor.programs.func

    def programs(self):
        """The key is all that `Programs` depends on; a target is known by its name."""
        fitted = tuple((one.name, one.head, one.reference) for one in self.fitted)
        model = self.model.hyper, self.model.loop
        key = (model, fitted, self.repulsion, self.has_forces, self.mesh)
        if key not in PROGRAMS:
            PROGRAMS[key] = make(self)
        return PROGRAMS[key]

    shared = functools.cached_property(programs)
    shared.__set_name__(Predictor, "programs")
    with pytest.MonkeyPatch.context() as patch:
        # To the bit as in the programs that tests start.
        patch.setattr(sphere, "WRITTEN_OUT", shortened.WRITTEN_OUT)
        patch.setattr(Predictor, "programs", shared)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: what `make(folder)` gave to the worker that came first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make_once(name, make):
        kept = root / f"{name}.pickle"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_bytes(pickle.dumps(make(root)))
        return pickle.loads(kept.read_bytes())

    return make_once


@pytest.fixture(scope="session")
def config(once):
    """Of a run of seconds."""
    small = get_config("quick")
    small.model.update(ablations.BASELINE)
    cache = once("cache", lambda folder: write_cache(folder / "cache"))
    small.data.update(cache=str(cache), train_size=300, reference="fitted")
    small.model.update(
        cutoff=3.0, degree=1, product_degree=1, layers=1, channels=4, hidden=8,
        invariant_channels=8, edge_channels=8, n_gaussians=8,
    )  # fmt: skip
    small.optimizer.learning_rate = 5e-3
    small.training.update(
        batch_size=256, steps=12, first_validation=5, validate_every=12,
        validation_size=100, log_every=4, n_budgets=1, ema=0.99, auxiliary=False,
    )  # fmt: skip
    return json.loads(small.to_json())


@pytest.fixture(scope="session")
def command(config, once):
    """The command that makes a run of this config, and what it printed."""
    usual = flatten(json.loads(get_config("quick").to_json()))
    arguments = ["--config=experiments/configs/qm9.py:quick"]
    arguments += [
        f"--config.{name}={value}"
        for name, value in flatten(config).items()
        if value != usual[name]
    ]

    def make(folder):
        workdir = f"--workdir={folder / 'finished'}"
        return subprocess.run(
            [sys.executable, "-m", "experiments.train", workdir, *arguments],
            cwd=pathlib.Path(train.__file__).parents[1],
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )

    return once("command", make)


@pytest.fixture(scope="session")
def finished(command):
    """The folder of a run that nothing interrupted; not to be changed."""
    assert command.returncode == 0, command.stderr
    (workdir,) = (a.partition("=")[2] for a in command.args if a.startswith("--workdir="))
    return pathlib.Path(workdir)


@pytest.fixture(scope="session")
def in_use(finished):
    """The finished run's task and predictor, whose programs all tests of a worker share."""
    return restored(finished)


@pytest.fixture
def changed(config):
    """`changed(**{"data.cache": ...})`: the config with other values."""
    return lambda **values: with_fields(config, values)


@pytest.fixture(scope="session")
def several(config, once):
    """The folder of a run for three targets, on what the linear model leaves; not to be changed."""
    new = {
        **config,
        "target": "gap,mu,U0",
        "data": {**config["data"], "reference": "linear"},
        "training": {**config["training"], "auxiliary": True},
    }

    def make(folder):
        # This may come before `shared_programs`, which does so for the tests.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sphere, "WRITTEN_OUT", shortened.WRITTEN_OUT)
            train.run(new, folder / "several")
        return folder / "several"

    return once("several", make)


def untrained(config, workdir):
    """Makes the folder of a run of this config that has taken no step."""
    data = dataset(config)
    task, _ = Task.prepare(config, data, examples(config, data, "train"))
    record = Record(
        config, task.model.hyper.to_dict(), task.fitted, {}, task.domain, Budget(400, 80, 9),
        data.digest(), Course(), Memory(),
    )  # fmt: skip
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(0, task.init_state(step.make_mesh()), record.to_dict(), 1.0)


def predictions(report, part):
    """Ids, true values and predictions of a part, from the folder of a target's report."""
    file = report / f"predictions_{part}.csv"
    ids, truth, prediction = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).T
    return ids.astype(int), truth, prediction
