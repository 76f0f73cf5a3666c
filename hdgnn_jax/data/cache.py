"""Where data sets are kept once they are built, and whether they are still what was written."""

from __future__ import annotations

import hashlib
import os
import pathlib


def cache_folder(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """`cache`, or by default the environment's HDGNN_CACHE, or ~/.cache/hdgnn_jax."""
    root = cache or os.environ.get("HDGNN_CACHE") or "~/.cache/hdgnn_jax"
    return pathlib.Path(root).expanduser()


def sha256(path: pathlib.Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unchanged(path: pathlib.Path, digest: pathlib.Path) -> bool:
    """Whether a file still has the SHA-256 that the other holds; damage of either says no."""
    return sha256(path) == digest.read_text(errors="replace").strip()
