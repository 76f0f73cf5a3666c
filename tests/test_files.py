"""A file is written as a whole or not at all."""

from __future__ import annotations

import pytest

from hdgnn_jax.files import write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
