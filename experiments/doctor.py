"""Checks this machine and installation, and says what is wrong and how to fix it.

    python -m experiments.doctor

It checks whether devices compute correctly, the versions of Python and of required packages,
memory, the folder of data sets and its content, disk space, and the cache of compiled programs.
With --workdir=DIR it also checks whether a run can be written there and whether its checkpoints are
intact. The exit code is 1 if something is wrong; warnings leave it at 0.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Literal, NamedTuple

from experiments import program

PROGRAM = program.Program(str(__doc__), [], [program.WORKDIR])
if __name__ == "__main__":
    PROGRAM.begin()

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.cpu import cores, reported
from hdgnn_jax.data import is2re, qm9, qm9_smiles
from hdgnn_jax.data.cache import cache_folder, is_complete
from hdgnn_jax.errors import CheckpointError, HDGNNError
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.tables import print_table

GIB = 2**30
ENOUGH_DISK, ENOUGH_MEMORY = 5 * GIB, 4 * GIB
"""Building QM9's cache takes 2 GiB of disk, the checkpoints of a full run 1. Compiling and training
`quick` take 3 GiB of memory."""


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
      subject: the thing that was checked.
      found: the result, in a few words.
      verdict: `ok`, `warning` or `wrong`.
      fix: what the user should do; empty if nothing.
    """

    subject: str
    found: str
    verdict: Literal["ok", "warning", "wrong"] = "ok"
    fix: str = ""


def main() -> None:
    """The program."""
    workdir = program.workdir() if program.WORKDIR.value else None
    if not examine(workdir):
        sys.exit(1)


def examine(workdir: pathlib.Path | None) -> bool:
    """Prints all findings; returns whether nothing is wrong."""
    found = list(findings(workdir))
    rows = [(one.subject, one.found, one.verdict, one.fix) for one in found]
    print_table("Doctor", ("", "found", "", "to mend it"), rows, left=range(4))
    wrong = sum(one.verdict == "wrong" for one in found)
    print(f"{wrong} wrong" if wrong else "nothing is wrong")
    return not wrong


def findings(workdir: pathlib.Path | None) -> Iterator[Finding]:
    """Yields the findings of all checks."""
    yield Finding("Python", f"{platform.python_version()} on {platform.platform()}")
    yield from _packages()
    yield from _devices()
    yield from _memory()
    yield from _data()
    yield _compilation_cache()
    if workdir is not None:
        yield from _run(workdir)


def _packages() -> Iterator[Finding]:
    try:
        needed = importlib.metadata.requires("hdgnn_jax") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("hdgnn_jax", "not installed", "wrong", "pip install . in its folder")
        return
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not requirement.specifier.contains(version or "0", prereleases=True) or not version:
            yield Finding(
                requirement.name, version or "not installed", "wrong",
                f'pip install "{requirement}"',
            )  # fmt: skip
        found.append(f"{requirement.name} {version}")
    shown = [text for text in found if text.split()[0] in ("jax", "flax", "optax", "numpy")]
    yield Finding("packages", f"{len(found)}, among them {', '.join(shown)}")


def _devices() -> Iterator[Finding]:
    try:
        devices = jax.devices()
    except RuntimeError as refusal:
        reason = str(refusal).splitlines()[0]
        yield Finding("devices", reason, "wrong", "unset JAX_PLATFORMS, or install what it names")
        return
    kind = f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"
    accelerators = {"/dev/nvidia0": "cuda12", "/dev/kfd": "rocm", "/dev/accel0": "tpu"}
    there = [extra for path, extra in accelerators.items() if pathlib.Path(path).exists()]
    if there and jax.default_backend() == "cpu":
        yield Finding(
            "devices", kind, "wrong",
            f'an accelerator is there and JAX does not see it: pip install "jax[{there[0]}]", '
            "and unset JAX_PLATFORMS",
        )  # fmt: skip
    else:
        yield Finding("devices", kind)
    # Checks that every device computes what NumPy does.
    a = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    for device in devices:
        on_device = jax.device_put(a, device)
        found = np.asarray(jnp.dot(on_device, on_device, precision="highest"))
        error = np.abs(found - a @ a).max() / np.abs(a @ a).max()
        if not error < 1e-5:
            yield Finding(
                str(device), f"matrix product off by {error:.1e}", "wrong",
                "do not train on it: update its driver, or leave it out",
            )  # fmt: skip


def _memory() -> Iterator[Finding]:
    available = reported("meminfo", "MemAvailable")
    if available is not None:
        low = available < ENOUGH_MEMORY
        yield Finding(
            "memory", f"{available / GIB:.1f} GiB free, {cores()} cores",
            "warning" if low else "ok",
            "training may be killed: close other programs" if low else "",
        )  # fmt: skip


def _data() -> Iterator[Finding]:
    root = cache_folder()
    yield _writable("data sets", root, "set HDGNN_CACHE to a folder of yours")
    yield _space(root)
    for name, file, load in (
        ("QM9", qm9.PACKED, qm9.load), ("QM9 from SMILES", qm9_smiles.PACKED, qm9_smiles.load)
    ):
        # An incomplete cache is no fault.
        if is_complete(root / "qm9" / file):
            try:
                yield Finding(name, f"{len(load()):,} molecules, sound")
            except HDGNNError as error:
                yield Finding(name, "damaged", "wrong", str(error))
    for folder in sorted((root / "is2re").glob("*/manifest.json")):
        try:
            parts = is2re.parts(folder.parent)
            records = sum(content["records"] for content in parts.values())
            yield Finding(f"IS2RE {folder.parent.name}", f"{records:,} systems")
        except HDGNNError as error:
            yield Finding(f"IS2RE {folder.parent.name}", "damaged", "wrong", str(error))


def _compilation_cache() -> Finding:
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        return Finding(
            "compiled programs", "not kept", "warning",
            "set JAX_COMPILATION_CACHE_DIR to a folder: a run that goes on starts sooner",
        )  # fmt: skip
    return _writable("compiled programs", pathlib.Path(folder), "name another folder")


def _run(workdir: pathlib.Path) -> Iterator[Finding]:
    yield _writable(str(workdir), workdir, "choose another --workdir")
    yield _space(workdir)
    if not (workdir / "checkpoints").is_dir():
        yield Finding("checkpoints", "none yet")
        return
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step in checkpoints.steps():
            try:
                checkpoints.verify(step)
                yield Finding(f"checkpoint {step}", "sound")
            except CheckpointError as error:
                yield Finding(f"checkpoint {step}", "damaged", "wrong", str(error))


def _writable(subject: str, folder: pathlib.Path, fix: str) -> Finding:
    """Checks that a file can be created in the folder, or in its nearest parent that exists."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Finding(subject, str(folder))
    except OSError as error:
        return Finding(subject, f"{folder}: {error.strerror or error}", "wrong", fix)


def _space(folder: pathlib.Path) -> Finding:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    low = free < ENOUGH_DISK
    return Finding(
        f"disk of {folder.name}", f"{free / GIB:.1f} GiB free", "warning" if low else "ok",
        "delete what is not needed: a full disk stops a run at its next checkpoint" if low else "",
    )  # fmt: skip


if __name__ == "__main__":
    PROGRAM.run(main)
