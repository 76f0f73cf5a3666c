"""Pickles of real torch and torch_geometric are read to the bit; nothing else is, whatever it does.

`oc20/*.pickle` were written with torch 2.14.1: `pyg1` by torch_geometric 1.7.2 (its compiled
extensions replaced by empty modules), `pyg2` by 2.8.1, with the newest protocol and with 2.
`expected.npz` has torch's own values.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdgnn_jax.data import torch_pickle
from hdgnn_jax.data.torch_pickle import PickleError, dumps, load_int, loads

FOLDER = pathlib.Path(__file__).parent / "oc20"
DIALECTS = ("pyg1", "pyg2", "pyg2_protocol2")


def fixture(dialect: str, record: str) -> bytes:
    return (FOLDER / f"{dialect}_{record}.pickle").read_bytes()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("record", ["slab", "test", "odd"])
def test_real_records_are_read_to_the_bit(dialect, record):
    fields = loads(fixture(dialect, record))
    with np.load(FOLDER / "expected.npz") as arrays:
        expected = {name.split(".")[1]: arrays[name] for name in arrays.files
                    if name.split(".")[0] == record}  # fmt: skip
    assert fields.keys() == expected.keys()
    for name, value in expected.items():
        found = np.asarray(fields[name])
        assert (found.dtype, found.shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(found, value)


def test_what_is_written_is_read_again():
    rng = np.random.default_rng(0)
    fields = {
        name: np.asarray(rng.integers(0, 2, shape)).astype(dtype)
        for name, dtype, shape in [
            ("f4", "f4", (3, 2)), ("f8", "f8", ()), ("f2", "f2", (1, 2, 3)), ("i8", "i8", (0, 3)),
            ("i4", "i4", 300), ("i2", "i2", 1), ("i1", "i1", 70_000), ("u1", "u1", 0),
            ("b", "?", 5),
        ]
    }  # fmt: skip
    fields["turned"] = fields["f4"].T
    scalars = {"sid": 2**40, "natoms": -1, "y": 0.1, "yes": True}
    back = loads(dumps({**fields, **scalars}))
    assert {name: back.pop(name) for name in scalars} == scalars
    assert back.keys() == fields.keys()
    for name, value in fields.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(back[name], value)
    with pytest.raises(PickleError, match="no tensors of complex128"):
        dumps({"x": np.zeros(1, complex)})


def test_integers():
    for value in (0, 255, 70_000, 2**40):
        assert load_int(pickle.dumps(value)) == value
    with pytest.raises(PickleError, match="no integer"):
        load_int(pickle.dumps(True))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def opcodes(value) -> bytes:
    return pickle.dumps(value, protocol=3)[2:-1]


def called(name: str, *arguments: bytes) -> bytes:
    """The opcodes of a call."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n(".encode() + b"".join(arguments) + b"tR"


def record(field: bytes) -> bytes:
    """A record with a field that these opcodes make."""
    return b"\x80\x03ctorch_geometric.data.data\nData\n)\x81}" + opcodes("x") + field + b"sb."


TENSOR = torch_pickle._dump_tensor(np.arange(6.0), {})
BLOB = TENSOR.split(b"q\xfdB", 1)[1][4:].split(b"q\0\x85R", 1)[0]
LOAD = "torch.storage._load_from_bytes"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Call(os.system, "exit 1"), r"posix\.system"),
        (Call(eval, "1"), r"builtin.*\.eval"),
        (Call(exec, "1"), r"builtin.*\.exec"),
        (Call(getattr, Call(__import__, "os"), "system"), r"builtin.*\.getattr"),
        (Call(np.load, "x.npy"), r"numpy.*\.load"),
        (Call(subprocess.Popen, "exit 1"), r"\.Popen"),
        (Call(pickle.loads, b""), r"pickle\.loads"),
        (Call(bytearray, 10**12), r"builtin.*\.bytearray"),
    ],
)
def test_other_names_are_refused_by_name(attack, name, protocol):
    with pytest.raises(PickleError, match=f"{name}' has no place"):
        loads(pickle.dumps({"pos": attack}, protocol=protocol))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (called("os.system", opcodes("exit 1")), r"os\.system' has no place"),
        (opcodes("os") + opcodes("system") + b"\x93", r"os\.system' has no place"),
        (called("torch.FloatStorage"), r"torch\.FloatStorage' has no place"),
        (called(LOAD, opcodes(b"\x80\x02" + called("os.system", opcodes("x")) + b".")),
         r"not stored as .*os\.system"),
        (called(LOAD, opcodes(BLOB.replace(b"torch\nDoubleStorage", b"os\nsystem"))),
         r"not stored as .*os\.system"),
        (called(LOAD, opcodes(BLOB.replace(b"DoubleStorage", b"load"))), "names torch.load"),
        (called(LOAD, opcodes(torch_pickle._HEADER + called(LOAD, opcodes(BLOB)))),
         r"not stored as .*_load_from_bytes"),
        (called(LOAD, opcodes(BLOB[:-1])), "cut short"),
        (called(LOAD, opcodes("text")), "calls something"),
        (called("torch._utils._rebuild_tensor_v2", opcodes("x")), "calls something"),
        (called("collections.OrderedDict", opcodes([("x", 1)])), "calls something"),
        (called("_codecs.encode", opcodes("eval"), opcodes("rot13")), "calls something"),
        (called("torch_geometric.data.data.Data"), "calls something"),
        (opcodes(None) + opcodes("x") + b"R", "calls something"),
        (opcodes(None) + b")\x81", "makes an object"),
        (opcodes("x") + b"}b", "sets the state"),
        (opcodes("x") + opcodes("y") + opcodes("z") + b"s", "entries of neither"),
        (b"}" + opcodes(1) + opcodes("z") + b"s", "entries of neither"),
    ],
)  # fmt: skip
def test_other_calls_are_refused(field, message):
    with pytest.raises(PickleError, match=message):
        loads(record(field))


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        (b"\x96", "BYTEARRAY8"), (b"\x8e", "BINBYTES8"), (b"\x8d", "BINUNICODE8"),
        (b"\x8b", "LONG4"), (b"\x92", "NEWOBJ_EX"), (b"\x82", "EXT1"), (b"\x97", "NEXT_BUFFER"),
        (b"i", "INST"), (b"o", "OBJ"), (b"P", "PERSID"), (b"Q", "BINPERSID"), (b"0", "POP"),
        (b"2", "DUP"), (b"I", "INT"), (b"\xff", "0xff"),
    ],
)  # fmt: skip
def test_other_opcodes_are_refused_by_name(opcode, name):
    with pytest.raises(PickleError, match=f"the opcode {name} has no place"):
        loads(record(b"N" + opcode + b"\xff" * 8))


def test_bombs_do_not_go_off():
    """Short pickles that would fill the memory, the stack or a day."""
    repeated = (
        opcodes("x" * 10_000) + called("_codecs.encode", b"h\x00", opcodes("latin1")[:-2]) * 500
    )
    flags = opcodes(BLOB.replace(b"Double", b"Bool").replace(b"K\x06N", b"J\0\0\1\0N")[:-56]
                    + struct.pack("<q", 65536) + bytes(65536))  # fmt: skip
    bombs = [
        b"Nr\xff\xff\xff\x7f",  # a memo of 2^31 places
        b"B\xff\xff\xff\xff",  # 4 GB of bytes
        b"X\xff\xff\xff\xff",
        b")" + b"\x85" * 200_000,  # a very deep tuple
        b"})" + b"\x85" * 200_000 + b"Ns",  # the same to be hashed
        b"(" * 200_000,
        b"\x8a\xff" + b"\xff" * 255,
        repeated,
        flags + called(LOAD, b"h\x00") * 5000,
    ]
    tracemalloc.start()
    for bomb in bombs[:-2]:
        with contextlib.suppress(PickleError):
            assert loads(record(bomb)).keys() <= {"x"}
    for bomb in bombs[-2:]:
        with pytest.raises(PickleError, match="calls something as no record does"):
            loads(record(bomb))
    # The message names what is in a wrong storage: not by trying each start of a megabyte.
    with pytest.raises(PickleError, match=r"not stored as torch.save does it"):
        loads(record(called(LOAD, opcodes(b"c" * 1_000_000))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8


@pytest.mark.parametrize(
    "layout",
    [
        (0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 3), (4, 1)), (-1, (6,), (1,)), (5, (2,), (-1,)),
        (0, (2**30,), (0,)), (0, (4, 4), (0, 1)), (0, (2**62, 2**62), (0, 0)), (0, (6,), (1, 1)),
        (0, (1,) * 17, (1,) * 17), (True, (6,), (1,)), (0, (6.0,), (1,)), (2**62, (1,), (1,)),
        (0, (0, 2**62), (1, 1)), (0, (-1,), (1,)), (0, ("6",), (1,)),
        (0, (0, 2**39, 2**39), (1, 1, 1)),
    ],
)  # fmt: skip
def test_a_tensor_larger_than_its_storage_is_refused(layout):
    honest = b"".join(map(opcodes, (0, (6,), (1,))))
    written = dumps({"x": np.arange(6.0)})
    assert honest in written
    with pytest.raises(PickleError):
        loads(written.replace(honest, b"".join(map(opcodes, layout))))


def test_names_of_fields_change_nothing():
    fields = dict.fromkeys(("__class__", "__dict__", "__init__", "state", "name"), 1)
    assert loads(dumps(fields)) == fields
    with pytest.raises(PickleError, match="no record of torch_geometric"):
        loads(pickle.dumps(fields))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_pickle_cut_anywhere_is_refused(dialect):
    content = fixture(dialect, "slab")
    for size in range(len(content)):
        with pytest.raises(PickleError):
            loads(content[:size])


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(DIALECTS),
    st.lists(st.tuples(st.integers(0, 7000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_pickle_is_refused_or_read(dialect, changes):
    content = bytearray(fixture(dialect, "odd"))
    for place, value in changes:
        content[place] = value
    try:
        fields = loads(bytes(content))
    except PickleError:
        return
    assert sum(np.asarray(value).size for value in fields.values()) < 10_000


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_anything_else_is_refused(content):
    with pytest.raises(PickleError):
        loads(content)
