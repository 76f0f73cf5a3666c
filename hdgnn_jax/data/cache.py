"""Where data sets are kept once they are built, and whether they are still what was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator


def cache_folder(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """`cache`, or by default the environment's HDGNN_CACHE, or ~/.cache/hdgnn_jax."""
    root = cache or os.environ.get("HDGNN_CACHE") or "~/.cache/hdgnn_jax"
    return pathlib.Path(root).expanduser()


def sha256(path: pathlib.Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: pathlib.Path) -> pathlib.Path:
    """Where the SHA-256 of a file is kept, beside it."""
    return path.with_name(path.name + ".sha256")


def is_complete(path: pathlib.Path) -> bool:
    """Whether a file and its digest, which is written last, are there."""
    return path.exists() and digest_file(path).exists()


def is_unchanged(path: pathlib.Path) -> bool:
    """Whether a file still has its digest; damage of either says no."""
    return sha256(path) == digest_file(path).read_text(errors="replace").strip()


def write_with_digest(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Writes a file and its digest: all or nothing.

    Args:
      path: of the file.
      write: writes it to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, for another process may be at it too; what it makes is the same.
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        write(unfinished)
        digest_file(unfinished).write_text(sha256(unfinished) + "\n")
        unfinished.replace(path)
        digest_file(unfinished).replace(digest_file(path))


@contextlib.contextmanager
def all_or_nothing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder of the same name elsewhere, which takes its place when all is written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{folder.name}.unfinished-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as part:
        unfinished = pathlib.Path(part) / folder.name
        unfinished.mkdir()
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            # Where another process was first, its folder is as good as ours.
            if not folder.exists():
                raise
