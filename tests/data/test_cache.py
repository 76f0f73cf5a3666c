"""What is kept is written whole or not at all, and known to be what was written."""

from __future__ import annotations

import hashlib
import pathlib

import pytest
from damage import KINDS, damage

from hdgnn_jax.data import cache
from hdgnn_jax.data.cache import (
    all_or_nothing,
    cache_folder,
    digest_file,
    is_complete,
    is_unchanged,
    write_with_digest,
)

CONTENT = b"what was written"


def write(path: pathlib.Path, content: bytes = CONTENT) -> None:
    write_with_digest(path, lambda unfinished: unfinished.write_bytes(content))


def test_the_folder_is_that_of_the_config_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HDGNN_CACHE", str(tmp_path / "of the environment"))
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == tmp_path / "of the environment"
    monkeypatch.delenv("HDGNN_CACHE")
    assert cache_folder() == pathlib.Path("~/.cache/hdgnn_jax").expanduser()


def test_a_file_has_its_digest_beside_it(tmp_path):
    path = tmp_path / "new" / "some.2.npz"
    write(path)
    assert path.read_bytes() == CONTENT
    assert digest_file(path).name == "some.2.npz.sha256"
    assert digest_file(path).read_text().strip() == hashlib.sha256(CONTENT).hexdigest()
    assert is_complete(path)
    assert is_unchanged(path)
    assert sorted(path.parent.iterdir()) == [path, digest_file(path)]
    write(path, b"something else")
    assert is_unchanged(path)
    assert sorted(path.parent.iterdir()) == [path, digest_file(path)]


@pytest.mark.parametrize("of_digest", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_either_is_seen(tmp_path, of_digest, kind):
    path = tmp_path / "some.npz"
    write(path)
    damage(digest_file(path) if of_digest else path, kind)
    if kind == "remove":
        assert not is_complete(path)
    else:
        assert is_complete(path)
        assert not is_unchanged(path)


@pytest.mark.parametrize("moment", ["content", "digest", "first move", "second move"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_is_interrupted_is_not_taken_for_whole(tmp_path, monkeypatch, moment, error):
    path, moves, replace = tmp_path / "some.npz", [], pathlib.Path.replace

    def interrupt(*args):
        raise error

    def moved(self, target):
        moves.append(target)
        if moment == ("first move", "second move")[len(moves) - 1]:
            raise error
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", moved)
        if moment == "digest":
            patch.setattr(cache, "sha256", interrupt)
        make = interrupt if moment == "content" else lambda path: path.write_bytes(CONTENT)
        with pytest.raises(error):
            write_with_digest(path, make)
    assert not is_complete(path)
    # The file may be there, but never without the digest's last word.
    assert {p.name for p in tmp_path.iterdir()} <= {path.name}
    write(path)
    assert is_unchanged(path)


def test_of_two_writers_at_once_both_succeed(tmp_path):
    path = tmp_path / "some.npz"

    def overtaken(unfinished):
        write(path)
        unfinished.write_bytes(CONTENT)

    write_with_digest(path, overtaken)
    assert is_unchanged(path)
    assert sorted(tmp_path.iterdir()) == [path, digest_file(path)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_folder_is_not_there(tmp_path, error):
    folder = tmp_path / "cache" / "set"

    def half_of_it():
        with all_or_nothing(folder) as unfinished:
            (unfinished / "half").touch()
            raise error

    with pytest.raises(error):
        half_of_it()
    assert list(folder.parent.iterdir()) == []


def test_of_two_folders_at_once_the_first_wins_and_both_succeed(tmp_path):
    folder = tmp_path / "cache" / "set"
    with all_or_nothing(folder) as late:
        with all_or_nothing(folder) as early:
            (early / "first").touch()
        (late / "second").touch()
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
