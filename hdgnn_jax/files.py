"""Files that are written as a whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file as a whole: a crash leaves the old file or the new one, never a part."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Replaces a file, as a whole, by this content as JSON."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(pathlib.Path(path), text.encode())
