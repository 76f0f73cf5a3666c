"""Where data sets are kept once they are built."""

from __future__ import annotations

import os
import pathlib


def cache_folder(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """`cache`, or by default the environment's HDGNN_CACHE, or ~/.cache/hdgnn_jax."""
    root = cache or os.environ.get("HDGNN_CACHE") or "~/.cache/hdgnn_jax"
    return pathlib.Path(root).expanduser()
