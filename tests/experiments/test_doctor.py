"""The doctor finds what is wrong and says how to mend it."""

from __future__ import annotations

import shutil

import pytest
from damage import damage

from experiments import doctor
from hdgnn_jax.data.cache import digest_file
from hdgnn_jax.data.qm9 import PACKED


def of(workdir=None) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.findings(workdir)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HDGNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_nothing_is_wrong_here(finished, capsys):
    assert doctor.examine(finished)
    printed = capsys.readouterr().out
    assert "nothing is wrong" in printed
    found = of(finished)
    assert found["checkpoint 12"].found == "sound"
    assert found["packages"].verdict == "ok"


def test_a_damaged_checkpoint_is_named(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    array = max((run / "checkpoints" / "12").rglob("*"), key=lambda p: p.stat().st_size)
    damage(array, "flip")
    assert of(run)["checkpoint 12"].verdict == "wrong"
    assert "delete its folder" in of(run)["checkpoint 12"].fix
    assert of(run)["checkpoint 5"].verdict == "ok"
    assert not doctor.examine(run)
    assert "1 wrong" in capsys.readouterr().out


def test_damaged_data_are_named(cache):
    (cache / "qm9").mkdir(parents=True)
    (cache / "qm9" / PACKED).write_bytes(b"not what was written")
    digest_file(cache / "qm9" / PACKED).write_text("0" * 64)
    assert of()["QM9"].verdict == "wrong"
    assert f"{PACKED} is damaged" in of()["QM9"].fix
    assert "delete it and run again" in of()["QM9"].fix


def test_data_that_are_made_when_they_are_asked_for_are_not_wrong(cache):
    """Of another version, or of a build that was stopped."""
    for name in ("packed.npz", "packed.sha256", PACKED):
        (cache / "qm9").mkdir(parents=True, exist_ok=True)
        (cache / "qm9" / name).write_bytes(b"of another layout, or half of it")
        assert "QM9" not in of()


def test_a_folder_that_cannot_be_written_and_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    found = of(tmp_path / "file" / "run")
    assert found[str(tmp_path / "file" / "run")].verdict == "wrong"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert of()["disk of cache"].verdict == "warning"


def test_missing_and_old_packages_are_named(monkeypatch):
    needed = ["jax>=999", "no_such_package", 'pytest>=999; extra == "test"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: needed)
    found = of()
    assert found["jax"].fix == 'pip install "jax>=999"'
    assert found["no_such_package"].found == "not installed"
    assert "pytest" not in found
