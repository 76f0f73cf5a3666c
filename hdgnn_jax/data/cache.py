"""The cache of built data sets, and checks that its files are unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator


def cache_folder(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """`cache` if given, else the environment's HDGNN_CACHE, else ~/.cache/hdgnn_jax."""
    root = cache or os.environ.get("HDGNN_CACHE") or "~/.cache/hdgnn_jax"
    return pathlib.Path(root).expanduser()


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: pathlib.Path) -> pathlib.Path:
    """The path of the file that holds the SHA-256 of `path`, beside it."""
    return path.with_name(path.name + ".sha256")


def is_complete(path: pathlib.Path) -> bool:
    """Whether a file and its digest exist; the digest is written last."""
    return path.exists() and digest_file(path).exists()


def is_unchanged(path: pathlib.Path) -> bool:
    """Whether a file still has the SHA-256 stored beside it; False if either is damaged."""
    return sha256(path) == digest_file(path).read_text(errors="replace").strip()


def write_with_digest(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Writes a file and its digest: all or nothing.

    Args:
      path: the file.
      write: writes the content to the path that it is called with.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own, because another process may write the same file at the same time.
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        write(unfinished)
        digest_file(unfinished).write_text(sha256(unfinished) + "\n")
        unfinished.replace(path)
        digest_file(unfinished).replace(digest_file(path))


@contextlib.contextmanager
def all_or_nothing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder of the same name, which is moved to `folder` when the block ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{folder.name}.unfinished-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as part:
        unfinished = pathlib.Path(part) / folder.name
        unfinished.mkdir()
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            # If another process was first, its folder has the same content.
            if not folder.exists():
                raise
