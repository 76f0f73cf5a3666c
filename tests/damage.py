"""What can happen to a file."""

from __future__ import annotations

import pathlib

KINDS = ("flip", "cut", "remove")


def damage(path: pathlib.Path, kind: str) -> None:
    """Flips a bit in the middle of it, cuts it in half, or removes it."""
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half] ^= 1
    if kind == "remove":
        path.unlink()
    else:
        path.write_bytes(content if kind == "flip" else content[:half])
