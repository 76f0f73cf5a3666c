"""Reads and writes pickled `torch_geometric` records without torch.

A pickle can make Python call anything, so it is never given to `pickle`. A small interpreter here
knows only the opcodes and names that such records have. It imports and calls nothing, and refuses
everything else by name.
"""

from __future__ import annotations

import functools
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.types import Json


class PickleError(InputError):
    """A pickle is damaged or not a record of tensors; the message says what is wrong."""


class _Global(NamedTuple):
    """A name in a pickle, which is not imported."""

    name: str


class _Storage(NamedTuple):
    """`size` numbers from byte `start` of `buffer`."""

    buffer: bytes
    start: int
    size: int
    dtype: np.dtype


class _Object:
    """An instance of a class in a pickle: only the name of the class and the state."""

    def __init__(self, name: str):
        self.name = name
        self.state: Json = {}


_LOAD, _REBUILD = "torch.storage._load_from_bytes", "torch._utils._rebuild_tensor_v2"
_DATA, _STORE = "torch_geometric.data.data.Data", "torch_geometric.data.storage.GlobalStorage"
_EDGE, _TENSOR = (f"torch_geometric.data.data.Data{kind}Attr" for kind in ("Edge", "Tensor"))
_ORDERED, _ENCODE = "collections.OrderedDict", "_codecs.encode"
_NAMES = {
    tuple(full.rsplit(".", 1)): _Global(full)
    for full in (_LOAD, _REBUILD, _DATA, _STORE, _EDGE, _TENSOR, _ORDERED, _ENCODE)
}
_DTYPES = {
    f"torch.{name}Storage": np.dtype(code)
    for name, code in (
        ("Float", "<f4"), ("Double", "<f8"), ("Half", "<f2"), ("Long", "<i8"), ("Int", "<i4"),
        ("Short", "<i2"), ("Char", "|i1"), ("Byte", "|u1"), ("Bool", "|b1"),
    )
}  # fmt: skip

# A storage in torch.save's format before zip files: three pickles that never change, the storage's
# name, the list of names, then the count and the numbers. All bytes are fixed except the groups, so
# there is nothing to interpret.
_SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
_HEADER = b"".join(pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, _SYSTEM))
_STORAGE = re.compile(
    re.escape(_HEADER)
    + rb"\x80\x02\(X\x07\0\0\0storageq\0ctorch\n(\w+)\nq\x01X.\0\0\0(\w+)q\x02"
    + rb"X.\0\0\0[\w:]+q\x03[KMJ](.{1,4}?)Ntq\x04Q\.\x80\x02\]q\0X.\0\0\0\2q\x01a\.",
    re.DOTALL,
)

_U8, _U16, _I32, _U32, _F64 = map(struct.Struct, ("<B", "<H", "<i", "<I", ">d"))
_NUMBERS = {ord("K"): _U8, ord("M"): _U16, ord("J"): _I32, ord("G"): _F64}
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}
_STRINGS: dict[int, tuple[struct.Struct, Callable[[bytes], object]]] = {
    0x8C: (_U8, bytes.decode),
    ord("X"): (_U32, bytes.decode),
    ord("C"): (_U8, bytes),
    ord("B"): (_U32, bytes),
    0x8A: (_U8, functools.partial(int.from_bytes, byteorder="little", signed=True)),
}
_PUT = {ord("q"): _U8, ord("r"): _U32}
_GET = {ord("h"): _U8, ord("j"): _U32}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_ADDED = {ord("a"): 1, ord("s"): 2}
_SKIPPED = {0x80: 1, 0x95: 8}  # the protocol and the length of a frame
_MEMOIZE, _STACK_GLOBAL, _NEWOBJ = 0x94, 0x93, 0x81
_MARK, _REDUCE, _BUILD, _GLOBAL, _STOP = b"(Rbc."
_OPCODES = {ord(op.code): op.name for op in pickletools.opcodes}  # for messages


class _Machine:
    """Reads the pickle `data`."""

    def __init__(self, data: bytes):
        self.data = data
        # The number of bytes that calls may still process, each once as text and once as tensor.
        # Without this limit a short pickle could repeat the same long call again and again.
        self.left = 2 * len(data)

    def read(self) -> Any:
        """The value of the pickle."""
        try:
            return self._read()
        except (LookupError, TypeError, ValueError, struct.error) as error:
            if isinstance(error, PickleError):
                raise
            raise PickleError("the pickle is damaged or cut short") from error

    def _read(self) -> Any:
        data, at = self.data, 0
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        while True:
            op = data[at]
            at += 1
            if op == _MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif op in _PUT:
                memo[_PUT[op].unpack_from(data, at)[0]] = stack[-1]
                at += _PUT[op].size
            elif op in _GET:
                stack.append(memo[_GET[op].unpack_from(data, at)[0]])
                at += _GET[op].size
            elif op in _NUMBERS:
                stack += _NUMBERS[op].unpack_from(data, at)
                at += _NUMBERS[op].size
            elif op in _STRINGS:
                length, decode = _STRINGS[op]
                start = at + length.size
                at = start + length.unpack_from(data, at)[0]
                if at > len(data):
                    raise PickleError("the pickle is cut short")
                stack.append(decode(data[start:at]))
            elif op in _TUPLES:
                stack[-_TUPLES[op] :] = [tuple(stack[-_TUPLES[op] :])]
            elif op == _REDUCE:
                arguments = stack.pop()
                stack[-1] = self._call(stack[-1], arguments)
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op == _MARK:
                marks.append(len(stack))
            elif op in b"tue":
                first = marks.pop()
                items = stack[first:]
                del stack[first:]
                if op == ord("t"):
                    stack.append(tuple(items))
                else:
                    _add(stack[-1], items)
            elif op in _ADDED:
                items = stack[-_ADDED[op] :]
                del stack[-_ADDED[op] :]
                _add(stack[-1], items)
            elif op in b"]}":
                stack.append([] if op == ord("]") else {})
            elif op == _STACK_GLOBAL:
                name = stack.pop()
                stack[-1] = _named(stack[-1], name)
            elif op == _GLOBAL:
                middle = data.index(b"\n", at)
                end = data.index(b"\n", middle + 1)
                stack.append(_named(data[at:middle].decode(), data[middle + 1 : end].decode()))
                at = end + 1
            elif op == _NEWOBJ:
                arguments, cls = stack.pop(), stack.pop()
                stack.append(_new(cls, arguments))
            elif op == _BUILD:
                state = stack.pop()
                _build(stack[-1], state)
            elif op in _SKIPPED:
                at += _SKIPPED[op]
            elif op == _STOP:
                return stack.pop()
            else:
                name = _OPCODES.get(op, f"{op:#04x}")
                raise PickleError(f"the opcode {name} has no place in a record of tensors")

    def _call(self, function: object, arguments: object) -> Any:
        name = function.name if type(function) is _Global else None
        match arguments:
            case () if name == _ORDERED:
                return {}
            case (bytes(blob),) if name == _LOAD and self._afford(blob):
                return _storage(blob)
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if (
                name == _REBUILD
            ):
                return _tensor(storage, offset, shape, strides)
            case (str(text), "latin1") if name == _ENCODE and self._afford(text):
                return text.encode("latin1")
        raise PickleError("the pickle calls something as no record does")

    def _afford(self, argument: bytes | str) -> bool:
        self.left -= len(argument)
        return self.left >= 0


def _named(module: object, name: object) -> _Global:
    if type(module) is not str or type(name) is not str:
        raise PickleError("the pickle is damaged: a name is no text")
    known = _NAMES.get((module, name))
    if known is None:
        full = f"{module[:100]}.{name[:100]}"
        raise PickleError(f"{full!r} has no place in a record: the file may be an attack")
    return known


def _add(target: object, items: list[Any]) -> None:
    if type(target) is list:
        target += items
    elif type(target) is dict and len(items) % 2 == 0 and all(type(k) is str for k in items[::2]):
        target.update(zip(items[::2], items[1::2], strict=True))
    else:
        raise PickleError("the pickle is damaged: entries of neither a list nor a dictionary")


def _new(cls: object, arguments: object) -> _Object:
    if type(cls) is not _Global or cls.name not in (_DATA, _STORE) or type(arguments) is not tuple:
        raise PickleError("the pickle makes an object as no record does")
    return _Object(cls.name)


def _build(target: object, state: object) -> None:
    if type(target) is not _Object or type(state) is not dict:
        raise PickleError("the pickle sets the state of something that has none")
    target.state = state


def _storage(blob: bytes) -> _Storage:
    match = _STORAGE.match(blob)
    dtype = match and _DTYPES.get(f"torch.{match[1].decode()}")
    if match is None or dtype is None:
        raise PickleError(f"a tensor is not stored as torch.save does it{_called(blob)}")
    start = match.end() + 8
    (size,) = struct.unpack_from("<q", blob, match.end())
    if size != int.from_bytes(match[3], "little") or start + size * dtype.itemsize > len(blob):
        raise PickleError("a tensor's numbers are cut short")
    if dtype.kind == "b" and max(blob[start : start + size], default=0) > 1:
        raise PickleError("a tensor of bool holds something else")
    return _Storage(blob, start, size, dtype)


def _called(blob: bytes) -> str:
    """The names that a wrong storage would have called, for the message."""
    found = re.findall(rb"c([\w.]{1,99})\n([\w.]{1,99})\n", blob[:1000])
    names = {b".".join(name) for name in found}
    text = ", ".join(sorted(name.decode() for name in names))
    return f" (it names {text[:200]})" if names else ""


def _tensor(
    storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
) -> np.ndarray:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > 16:
        raise PickleError("a tensor's shape and strides do not agree")
    if not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
        raise PickleError("a tensor's shape, strides or offset are no numbers of that kind")
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # No more numbers than are stored: strides of 0 could make a huge array of a small file.
    if last >= storage.size or count > storage.size:
        raise PickleError("a tensor is larger than its storage")
    bytewise = [step * storage.dtype.itemsize for step in strides]
    start = storage.start + offset * storage.dtype.itemsize
    return np.ndarray(shape, storage.dtype, storage.buffer, start, bytewise)


def loads(data: bytes) -> Json:
    """The fields of a pickled `torch_geometric.data.Data`, of version 1 or 2.

    Args:
      data: the pickle, of protocol 2 to 5.

    Returns:
      The fields by name: arrays (read-only views of the pickle's bytes), int, float, bool or text.
      Fields of other types, such as None, are left out.

    Raises:
      PickleError: where `data` is damaged, or has a name or an operation that such records lack.
    """
    record = _Machine(data).read()
    if type(record) is not _Object or record.name != _DATA:
        raise PickleError(f"the pickle is no record of {_DATA}")
    store = record.state.get("_store")
    fields = store.state.get("_mapping") if type(store) is _Object else record.state
    if type(fields) is not dict:
        raise PickleError(f"the pickle is a {_DATA} without fields")
    kept = {k: v for k, v in fields.items() if isinstance(v, np.ndarray | int | float | str)}
    record.state.clear()  # it refers to itself as `_parent` and would wait for garbage collection
    return kept


def load_int(data: bytes) -> int:
    """The integer in a pickle.

    Raises:
      PickleError: where the pickle holds something else.
    """
    value = _Machine(data).read()
    if type(value) is not int:
        raise PickleError("the pickle is no integer")
    return value


def dumps(fields: Mapping[str, np.ndarray | int | float]) -> bytes:
    """Pickles a record as `torch_geometric` 2 does; both it and `loads` can read the result.

    Raises:
      PickleError: for an array whose type torch does not have.
    """
    memo: dict[str, int] = {}
    items = [
        _plain(name)
        + (_dump_tensor(value, memo) if isinstance(value, np.ndarray) else _plain(value))
        for name, value in fields.items()
    ]
    # Number 255 of the memo, which plain values do not use, is the record, for `_parent`.
    return b"".join(
        [
            b"\x80\x03", _name(_DATA), b")\x81q\xff}(",
            _plain("_edge_attr_cls"), _name(_EDGE), _plain("_tensor_attr_cls"), _name(_TENSOR),
            _plain("_store"), _name(_STORE), b")\x81}(",
            _plain("_mapping"), b"}(", *items, b"u",
            _plain("_parent"), b"h\xff", b"ubub.",
        ]
    )  # fmt: skip


def _dump_tensor(array: np.ndarray, memo: dict[str, int]) -> bytes:
    storage = next((name for name, dtype in _DTYPES.items() if dtype == array.dtype), None)
    if storage is None:
        raise PickleError(f"torch has no tensors of {array.dtype}")
    content = np.array(array, order="C")
    blob = b"".join(
        [
            _HEADER,
            b"\x80\x02(X\7\0\0\0storageq\0", _name(storage), b"q\1X\1\0\0\0", b"0",
            b"q\2X\3\0\0\0cpuq\3", _plain(array.size), b"Ntq\4Q.",
            pickle.dumps(["0"], protocol=2), struct.pack("<q", array.size), content.tobytes(),
        ]
    )  # fmt: skip
    strides = tuple(step // array.itemsize for step in content.strides)
    layout = _plain(0) + _plain(array.shape) + _plain(strides) + b"\x89"
    rebuild, load = _memoized(_REBUILD, memo), _memoized(_LOAD, memo)
    loaded = load + _plain(blob) + b"\x85R"
    return rebuild + b"(" + loaded + layout + _memoized(_ORDERED, memo) + b")RtR"


def _plain(value: object) -> bytes:
    """The opcodes that push a value of a built-in type."""
    return pickle.dumps(value, protocol=3)[2:-1]


def _name(full: str) -> bytes:
    module, name = full.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode()


def _memoized(full: str, memo: dict[str, int]) -> bytes:
    """The opcodes that push a name; a repeated name comes from the memo (below number 255)."""
    if full in memo:
        return b"h" + bytes([memo[full]])
    memo[full] = 254 - len(memo)
    return _name(full) + b"q" + bytes([memo[full]])
