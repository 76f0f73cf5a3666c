"""A finished run of seconds on made-up molecules, made once for all workers."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest
from fake_qm9 import write_cache

from experiments import train
from experiments.configs import ablations
from experiments.configs.qm9 import get_config
from hdgnn_jax.run.results import restored


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
    usual = train.flatten(json.loads(get_config("quick").to_json()))
    arguments = ["--config=experiments/configs/qm9.py:quick"]
    arguments += [
        f"--config.{name}={value}"
        for name, value in train.flatten(config).items()
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

    def change(**values):
        new = copy.deepcopy(config)
        for path, value in values.items():
            *sections, name = path.split(".")
            section = new
            for key in sections:
                section = section[key]
            section[name] = value
        return new

    return change


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
        train.run(new, folder / "several")
        return folder / "several"

    return once("several", make)
