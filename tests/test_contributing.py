"""What CONTRIBUTING.md shows can be applied to this revision, and then works."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)


def apply(diff, folder, *how):
    """What `git apply` says of a diff."""
    return subprocess.run(
        ["git", "apply", *how], cwd=folder, input=diff, text=True, capture_output=True, check=False
    )


@pytest.mark.parametrize("diff", DIFFS, ids=["target", "data set", "pathway", "head"])
def test_each_diff_applies(diff):
    """Or has been applied, by a reader who tries it."""
    applied, undone = (apply(diff, ROOT, "--check", *how) for how in ([], ["--reverse"]))
    assert not (applied.returncode and undone.returncode), f"CONTRIBUTING.md: {applied.stderr}"


TRY = """
import json, jax
from experiments.configs import ablations, md17
from hdgnn_jax.inference.weights import one_atom
from hdgnn_jax.run import task

config = json.loads(ablations.get_config("scaled").to_json()) | {"target": "B", "head": "max"}
task.check(config)
model = task.model_of(config, neighbors=9.0)
graph = one_atom(model)
params = jax.eval_shape(model.init, jax.random.key(0), graph)
print(jax.eval_shape(model.apply, params, graph).shape)
task.check(json.loads(md17.get_config().to_json()))
"""


@pytest.mark.slow
def test_a_network_of_all_that_the_diffs_add_can_be_traced(tmp_path):
    for folder in ("hdgnn_jax", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    # Some may have been applied by a reader.
    said = [apply(diff, tmp_path).stderr for diff in DIFFS]
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.stdout == "(2, 1)\n", (said, done.stderr)
