"""The reproduction card of a run: what is needed to get the same numbers."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence

import jax

from hdgnn_jax.cpu import cores
from hdgnn_jax.types import Config, Json

PACKAGES = (
    "hdgnn_jax", "jax", "jaxlib", "flax", "optax", "numpy", "e3nn-jax", "jraph", "orbax-checkpoint"
)  # fmt: skip


def reproduction_card(
    config: Config,
    *,
    seed: int,
    split_digest: str,
    parameters: int,
    seconds: float,
    resumed: Sequence[int] = (),
    extended: Sequence[Mapping[str, int]] = (),
    left_out: int = 0,
    init_digest: str | None = None,
) -> Json:
    """A dictionary, which JSON can store, of all that is needed to get the same numbers.

    Args:
      config: the run's configuration, in types that JSON has.
      seed: seed of the parameters, the data order and the frames.
      split_digest: SHA-256 of the lists of molecules in each split.
      parameters: number of learned parameters.
      seconds: wall time.
      resumed: steps at which the run was interrupted and resumed.
      extended: steps at which `training.steps` was raised, with its value until then.
      left_out: number of batches left out after spikes of the loss.
      init_digest: SHA-256 of the weights of `config.init`; None without any.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "resumed_at_steps": list(resumed),
        "extended": list(extended),
        "batches_left_out": left_out,
        "seed": seed,
        "split_digest": split_digest,
        "init_digest": init_digest,
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
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gb": _memory_gb(),
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


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # not POSIX
        return None
