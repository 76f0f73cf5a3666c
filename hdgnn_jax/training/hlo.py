"""Parses the text that XLA prints of a compiled program: arrays, operations, computations."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|branch_computations=\{([^}]*)")
SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")


class Array(NamedTuple):
    """An array of the program.

    Attributes:
      dtype: XLA's name.
      shape: logical.
      order: axes from the minor to the major one.
      tile: of the minor axes, which memory pads to whole tiles; empty: no padding.
      on_chip: whether it lives in the fast memory on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """Of the numbers alone."""
        return self._bytes(self.shape)

    @property
    def tiled(self) -> int:
        """Bytes that it takes, padding included."""
        sizes = [self.shape[axis] for axis in reversed(self.order)] or list(self.shape)
        sizes = [1] * (len(self.tile) - len(sizes)) + sizes
        start = len(sizes) - len(self.tile)
        for k, tile in enumerate(self.tile):
            sizes[start + k] = -(-sizes[start + k] // tile) * tile
        return self._bytes(tuple(sizes))

    def _bytes(self, sizes: tuple[int, ...]) -> int:
        bits = BITS.get(self.dtype) or int((re.findall(r"\d+", self.dtype) or ["0"])[0])
        return math.prod(sizes) * bits // 8

    def __str__(self) -> str:
        tile = f" in {'x'.join(map(str, self.tile))}" if self.tile else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{tile}{', fast' * self.on_chip}"


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of a computation.

    Attributes:
      name: its own.
      kind: XLA's name of the operation.
      arrays: what it writes, several of a tuple; of one that only begins, what it reads too.
      operands: names.
      rest: attributes, as text.
    """

    name: str
    kind: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str

    @property
    def written(self) -> tuple[Array, ...]:
        """What it writes. One that only begins names what it reads too, and a scalar of its own."""
        if not self.kind.endswith("-start") or self.kind == "all-reduce-start":
            return self.arrays
        arrays = tuple(array for array in self.arrays if array.shape)
        half = len(arrays) // 2
        return arrays[:half] if self.kind == "copy-start" else arrays[half:]

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        found = []
        for one, several in CALLED.findall(self.rest):
            found += [one] if one else [name.strip(" %") for name in several.split(",")]
        return found

    @property
    def place(self) -> str:
        """Where in the model it arises; empty where the compiler made it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1].replace("\\'", "'") if found else ""


Computations: TypeAlias = dict[str, dict[str, Operation]]
"""By name, their operations by name, in order."""


def parse(text: str) -> tuple[Computations, str]:
    """The computations of a program, and the name of the one that it starts with."""
    computations: Computations = {}
    entry = inside = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            inside = header[2]
            computations[inside] = {}
            entry = inside if header[1] else entry
        elif (found := LINE.match(line)) and inside:
            operation = _operation(*found.groups())
            computations[inside][operation.name] = operation
    return computations, entry


def _operation(name: str, text: str) -> Operation:
    """Of `type kind(operands), attributes`."""
    end = _closing(text) if text.startswith("(") else text.index(" ")
    kind, _, rest = text[end:].strip().partition("(")
    stop = _closing("(" + rest) - 1
    inner = rest[: stop - 1]
    operands = tuple(inner.split()[:1]) if kind == "constant" else _names(inner)
    return Operation(name, kind, tuple(arrays_of(text[:end])), operands, rest[stop:])


def _names(text: str) -> tuple[str, ...]:
    found = re.findall(r"%([\w.\-]+)", text)
    return tuple(found or [text.strip()])


def _closing(text: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place + 1
    return len(text)


def arrays_of(text: str) -> Iterator[Array]:
    """The arrays of a type, such as `(f32[8,128]{1,0:T(8,128)}, s32[])`."""
    for dtype, shape, order, layout in SHAPE.findall(text):
        if dtype in ("token", "opaque"):
            continue
        sizes = tuple(int(size.strip("<=")) for size in shape.split(",") if size)
        tile = re.match(r"T\(([\d,]*)\)", layout)
        yield Array(
            dtype,
            sizes,
            tuple(int(axis) for axis in order.split(",") if axis),
            tuple(int(size) for size in tile[1].split(",")) if tile else (),
            "S(1)" in layout,
        )
