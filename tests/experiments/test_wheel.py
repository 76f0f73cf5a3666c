"""The wheel holds all that the programs need: they run where there is no repository."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import experiments
from experiments import console, program
from hdgnn_jax.errors import InputError

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(experiments.__file__).parents[1]


@pytest.fixture(scope="module")
def site(once):
    """A folder with the wheel installed in it."""

    def make(folder):
        options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
        installed = folder / "site"
        # Makes the wheel on the way.
        install = [sys.executable, "-m", "pip", "install", *options, "--target", installed, ROOT]
        subprocess.run(install, check=True)
        return installed

    return once("wheel", make)


def start(site, folder, name, *arguments):
    return subprocess.run(
        [sys.executable, site / "bin" / f"hdgnn-{name}", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_every_program_is_a_command(site):
    assert {path.name for path in (site / "bin").iterdir()} >= {f"hdgnn-{n}" for n in console.NAMES}
    assert (site / "hdgnn_jax" / "py.typed").exists()


def test_all_modules_and_weights_are_in_it(site):
    for pattern in ("hdgnn_jax/**/*.py", "experiments/**/*.py", "hdgnn_jax/weights/*"):
        files = {path.relative_to(ROOT) for path in ROOT.glob(pattern)}
        assert files
        assert files <= {path.relative_to(site) for path in site.glob(pattern)}


def test_training_finds_its_configs_elsewhere(site, tmp_path):
    """All is imported by then."""
    wrong = "--config.target=nothing"
    done = start(site, tmp_path, "train", "--config=qm9:quick", "--workdir=run", wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unknown target 'nothing'; QM9 has mu, alpha, ")


def test_a_config_that_is_none_is_one_line(site, tmp_path):
    done = start(site, tmp_path, "train", "--config=qm99:quick", "--workdir=run")
    assert done.returncode == 1
    assert "qm99" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argument", "file"),
    [
        ("--config=qm9:quick", "configs/qm9.py:quick"),
        ("--config=experiments/configs/is2re.py", "configs/is2re.py"),
        ("--space=experiments/spaces/qm9_quick.json", "spaces/qm9_quick.json"),
    ],
)
def test_what_the_package_brings_is_found_by_name(argument, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag = argument.partition("=")[0]
    assert program._shipped(argument) == f"{flag}={ROOT / 'experiments' / file}"


@pytest.mark.parametrize(
    "argument",
    [
        "--config=mine/qm9.py:quick", "--config=qm9.py:quick", "--space=at 10:30/space.json",
        "--target=qm9", "--config.target=gap", "qm9:1-100",
    ],
)  # fmt: skip
def test_other_names_are_left_alone(argument, tmp_path, monkeypatch):
    """Files of the user's own among them, also where one of the package has the same name."""
    monkeypatch.chdir(tmp_path)
    for file in ("mine/qm9.py", "qm9.py", "at 10:30/space.json"):
        pathlib.Path(file).parent.mkdir(exist_ok=True)
        pathlib.Path(file).touch()
    assert program._shipped(argument) == argument


@pytest.mark.parametrize("argument", ["--config=mine/qm9.py:quick", "--config=q", "--space=x.json"])
def test_a_file_that_is_not_there_is_named(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q").mkdir()
    with pytest.raises(InputError, match=rf"{argument}: there is no file"):
        program._shipped(argument)
