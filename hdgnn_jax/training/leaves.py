"""Turns the arrays of a state into bytes, with their names, types and digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable

import jax
import numpy as np
from jax.experimental import multihost_utils

from hdgnn_jax.types import Fields, Json, PyTree


def named_leaves(tree: PyTree) -> Json:
    """Leaves by the path that code would write, e.g. ".params['embedding']['kernel']"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def whole(leaf: PyTree) -> np.ndarray:
    """The whole array as NumPy, on every process."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        array: np.ndarray = multihost_utils.process_allgather(leaf, tiled=True)
        return array
    return np.asarray(leaf)


def spread(packed: np.ndarray) -> np.ndarray | jax.Array:
    """Divides the bytes among the devices of several processes, padded with zeros at the end.

    With one process it returns them as they are.
    """
    n = jax.device_count()
    if jax.process_count() == 1:
        return packed
    mesh = jax.make_mesh((n,), ("bytes",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("bytes"))
    padded = np.pad(packed, (0, -len(packed) % n))
    return jax.make_array_from_callback(padded.shape, sharding, lambda at: padded[at])


def pack(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """A copy of the bytes of all arrays, end to end: [bytes] uint8."""
    return np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])


def describe(array: np.ndarray) -> Json:
    """Type and digest of an array, JSON-able."""
    return {"type": type_of(array), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}


def digest_of(contents: Fields) -> str:
    """SHA-256 of JSON-able content, such as the descriptions of arrays by name."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def type_of(leaf: PyTree) -> str:
    """The type and shape of an array in one text, e.g. float32[64,128]."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def size_of(text: str) -> int:
    """Number of bytes of an array whose type is `text`, as `type_of` writes it."""
    name, _, shape = text.rstrip("]").partition("[")
    return math.prod(map(int, filter(None, shape.split(",")))) * np.dtype(name).itemsize


def differences(like: Fields, saved: Fields) -> list[str]:
    """A line for every leaf whose type differs between the saved state and the requested one."""
    here = {name: type_of(leaf) for name, leaf in like.items()}
    there = {name: entry["type"] for name, entry in saved.items()}
    return [
        f"{name} {there.get(name, 'absent')} where {here.get(name, 'nothing')} is asked for"
        for name in here | there
        if here.get(name) != there.get(name)
    ]


def place(array: np.ndarray, like: PyTree) -> PyTree:
    """Puts a host array where `like` is: on the host, its devices, or the default device."""
    if isinstance(like, np.ndarray):
        return array
    if like.sharding is None:
        return jax.device_put(array)
    # Unlike device_put, this also serves a mesh that spans processes.
    return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])


def everywhere(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """The arrays, whole on every device of a sharding that copies them.

    One after another: on a CPU, exchanges between processes that run at once can wait for each
    other for ever, as those of `jax.device_put` did.
    """

    def copied(leaf: jax.Array) -> PyTree:
        if leaf.is_fully_replicated:
            return leaf
        return place(whole(leaf), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding))

    return jax.tree.map(copied, tree)
