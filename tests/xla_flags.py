"""Flags of XLA that not every version has."""

from __future__ import annotations

import importlib.util
import mmap
import pathlib
from collections.abc import Iterable

OLDER_FUSIONS = "--xla_cpu_use_fusion_emitters=false"
"""The older way to compile fused operations, which JAX 0.12 has no more."""


def known_to_xla(flags: Iterable[str]) -> list[str]:
    """Those of the flags for XLA, `--name=value`, that the installed one has.

    XLA ends the process on any other, and flags come and go. It can be asked in no other way than
    by a look into its library, for the names that end with a NUL.
    """
    spec = importlib.util.find_spec("jaxlib")
    folder = pathlib.Path((spec and spec.origin) or "").parent
    libraries = sorted(folder.glob("*.so*"), key=lambda path: path.stat().st_size)
    if not libraries:
        return []
    with (
        libraries[-1].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        names = {flag: flag.split("=")[0].removeprefix("--").encode() + b"\0" for flag in flags}
        return [flag for flag, name in names.items() if text.find(name) >= 0]
