"""Runs the same benchmarks on this tree and on an older revision, in turn."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks.report import Report
from hdgnn_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent.relative_to(ROOT)
TURNS = 2


def compare(revision: str, groups: Sequence[str], report: Report) -> dict[str, float]:
    """Runs A B A B, where A is this tree and B the revision, each time in a new process.

    Both run *this* tree's benchmarks, so that only the library differs.

    Returns:
      The medians of this tree, and `{key}_over_revision` for every key: the median of A over that
      of B.

    Raises:
      InputError: where the revision does not exist, or a run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        old = pathlib.Path(folder) / "old"
        _check_out(revision, old)
        runs: dict[pathlib.Path, list[dict[str, float]]] = {ROOT: [], old: []}
        for _ in range(TURNS):
            for tree, results in runs.items():
                results.append(_run(tree, groups, report, pathlib.Path(folder) / "results.json"))
    here, there = (
        {key: float(np.median([result[key] for result in results])) for key in results[0]}
        for results in runs.values()
    )
    shared = [key for key in here if key in there]
    ratios = {key: here[key] / there[key] if there[key] else float("nan") for key in shared}
    report.table(
        f"This tree against {revision}, median of {TURNS}",
        ["", "this tree", revision, "ratio"],
        [[key, here[key], there[key], ratios[key]] for key in shared],
    )
    return {**here, **{f"{key}_over_revision": value for key, value in ratios.items()}}


def _check_out(revision: str, folder: pathlib.Path) -> None:
    """Writes the revision's files into a folder; the repository is not changed."""
    archive = folder.with_suffix(".tar")
    try:
        command = ["git", "-C", str(ROOT), "archive", f"--output={archive}", "--", revision]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError("--compare needs git") from error
    if done.returncode:
        raise InputError(f"--compare={revision}: {done.stderr.strip().splitlines()[-1]}")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    shutil.copytree(ROOT / HERE, folder / HERE, dirs_exist_ok=True)


def _run(
    tree: pathlib.Path, groups: Sequence[str], report: Report, file: pathlib.Path
) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(tree)}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"{tree}: {reason}")
        return done.stdout

    # An installed package must not be imported instead of the revision's.
    found = python("-c", "import hdgnn_jax; print(list(hdgnn_jax.__path__)[0])").strip()
    if not pathlib.Path(found).resolve().is_relative_to(tree.resolve()):
        raise InputError(f"{tree}: Python imports {found} instead")
    quick = ["--quick"] * report.quick
    python("-m", "experiments.benchmarks", *groups, f"--json={file}", *quick)
    content = json.loads(file.read_text())
    return {key: value for key, value in content.items() if type(value) is float}
