"""One process at a time writes to a folder."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys

import pytest

from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.training.workdir import occupied

HOLD = """
import pathlib, sys, time
from hdgnn_jax.training.workdir import occupied
with occupied(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    """Killed without a word, as by a scheduler, it leaves nothing that would keep others out."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "in\n"
        message = rf"another run writes to .*{first.pid}\)"
        with pytest.raises(CheckpointError, match=message), occupied(tmp_path):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    for _ in range(2):
        with occupied(tmp_path):
            pass
    assert not list(tmp_path.parent.glob(".*.lock"))


def test_a_folder_has_one_lock_by_whatever_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with occupied(tmp_path):
        for path in (".", "link", f"../{tmp_path.name}"):
            with pytest.raises(CheckpointError), occupied(pathlib.Path(path)):
                pass


def test_a_place_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"/file cannot be written to \((File exists|Not a directory)\): choose another"
    with pytest.raises(CheckpointError, match=message), occupied(tmp_path / "file" / "run"):
        pass
