"""The reproduction card of a run: what is needed to get the same numbers."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess

import jax

from hdgnn_jax.cpu import cores, reported
from hdgnn_jax.training.record import Course
from hdgnn_jax.types import Config, Json

PACKAGES = (
    "hdgnn_jax", "jax", "jaxlib", "flax", "optax", "numpy", "e3nn-jax", "jraph",
    "orbax-checkpoint", "rdkit",
)  # fmt: skip


def reproduction_card(
    config: Config, course: Course, *, split_digest: str, parameters: int
) -> Json:
    """A dictionary, which JSON can store, of all that is needed to get the same numbers.

    Args:
      config: the run's configuration, in types that JSON has.
      course: course of the run.
      split_digest: SHA-256 of the lists of molecules in each split.
      parameters: number of learned parameters.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": course.seconds,
        "resumed_at_steps": course.resumed,
        "extended": course.extended,
        "batches_left_out": course.left_out,
        "seed": config["seed"],
        "split_digest": split_digest,
        "init_digest": course.init_digest,
        "parameters": parameters,
        "git": _git_state(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "hardware": _hardware(),
        "config": dict(config),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> Json | None:
    """The git revision of this source; None where git does not track this file."""
    here = pathlib.Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie in another project's repository, whose revision is irrelevant.
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> Json:
    devices = [device.device_kind for device in jax.devices()]
    memory = reported("meminfo", "MemTotal")
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "jax_backend": jax.default_backend(),
        "devices": {kind: devices.count(kind) for kind in devices},
    }


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
