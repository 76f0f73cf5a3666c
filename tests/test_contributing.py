"""What CONTRIBUTING.md shows can be applied to this revision."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("diff", DIFFS, ids=["target", "data set", "pathway", "head"])
def test_each_diff_applies(diff):
    """Or has been applied, by a reader who tries it."""
    applied, undone = (
        subprocess.run(
            ["git", "apply", "--check", *how], cwd=ROOT, input=diff, text=True, capture_output=True
        )
        for how in ([], ["--reverse"])
    )
    assert not (applied.returncode and undone.returncode), f"CONTRIBUTING.md: {applied.stderr}"
