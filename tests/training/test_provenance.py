"""The card says what it takes to get the same numbers, as far as it can be known."""

from __future__ import annotations

import json
import subprocess

from hdgnn_jax.training import provenance
from hdgnn_jax.training.provenance import reproduction_card
from hdgnn_jax.training.record import Course


def test_the_card_names_versions_hardware_and_source():
    found = reproduction_card(
        {"model": {"channels": 8}, "seed": 3},
        Course(seconds=1.5, resumed=[100]),
        split_digest="ab",
        parameters=7,
    )
    assert json.loads(json.dumps(found)) == found
    assert found["versions"].keys() == {"python", *provenance.PACKAGES}
    assert found["versions"]["jax"]
    assert sum(found["hardware"]["devices"].values()) >= 1
    assert found["hardware"]["cpu"]
    assert found["config"] == {"model": {"channels": 8}, "seed": 3}
    assert (found["seed"], found["seconds"]) == (3, 1.5)
    assert found["resumed_at_steps"] == [100]


def test_git_state_is_none_without_git(monkeypatch):
    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert provenance._git_state() is None


def test_git_state_of_a_copy_git_does_not_know(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance._git_state() is None
