"""Divides a compiled program's time by kind of operation and by the arrays it works on."""

from __future__ import annotations

import collections
import functools
import math
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.profiler import ProfileData, ProfileOptions

from experiments.benchmarks.timing import Call

KINDS = ("dot", "scatter", "gather", "elementwise", "other")
"""Kinds of operations. A fused operation has the first of these kinds that it contains."""
ARRAYS = ("edge", "node", "sphere", "weights")
"""Meanings of the rows of an operation's largest array; `weights` if none of the others."""

_NOT_ELEMENTWISE = {"reduce", "reduce-window", "sort", "custom-call", "while", "call"}
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")

Shape = tuple[int, ...]


class Sizes(NamedTuple):
    """Sizes that identify arrays: padded edges and nodes of a batch, stored points of a sphere."""

    edges: int
    nodes: int
    points: int


class Operation(NamedTuple):
    """An instruction of a compiled program; a fused instruction counts as a whole.

    Attributes:
      opcodes: its own opcode and those fused into it.
      shapes: shapes of the arrays that it writes, then of those that it reads.
      source: path of modules and JAX operation that it comes from, as far as XLA kept it.
    """

    opcodes: frozenset[str]
    shapes: tuple[Shape, ...]
    source: str

    @property
    def kind(self) -> str:
        """The kind of the operation, one of `KINDS`."""
        for kind in ("dot", "scatter", "gather"):
            if kind in self.opcodes:
                return kind
        # All other fused operations are loops over elements.
        fused = "fusion" in self.opcodes and not self.opcodes & _NOT_ELEMENTWISE
        return "elementwise" if fused else "other"

    def array(self, sizes: Sizes) -> str:
        """The kind of its largest array, one of `ARRAYS`."""
        return _array(max(self.shapes, key=math.prod, default=()), sizes)


class Cost(NamedTuple):
    """Milliseconds of one operation in one run of its program, summed over turns of loops."""

    name: str
    milliseconds: float
    operation: Operation


def profile(call: Call, text: str, repeats: int) -> list[Cost]:
    """The time of each operation of a program, the costliest first.

    It works on a CPU only, where the profiler names operations as the compiled program does. An
    operation that several cores share counts with its duration.

    Args:
      call: runs the program, compiled and warm.
      text: the compiled program, from `as_text()`.
      repeats: number of runs to average over.
    """
    options = ProfileOptions()
    # Tracing Python's calls would slow the runs down.
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(repeats):
                jax.block_until_ready(call())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(file))
    known = read_program(text)
    total: dict[str, float] = collections.defaultdict(float)
    for plane in data.planes:
        for line in plane.lines:
            events = [(e.start_ns, e.duration_ns, e.name) for e in line.events if e.name in known]
            for name, nanoseconds in _own_times(events).items():
                total[name] += nanoseconds
    costs = [Cost(name, ns / repeats / 1e6, known[name]) for name, ns in total.items()]
    return sorted(costs, key=lambda cost: -cost.milliseconds)


def shares(costs: Sequence[Cost], sizes: Sizes) -> dict[str, float]:
    """`{kind or array}_share`, a share of the time of all operations, for every kind and array."""
    total = sum(cost.milliseconds for cost in costs)
    found = dict.fromkeys((*KINDS, *ARRAYS), 0.0)
    for cost in costs:
        for name in (cost.operation.kind, cost.operation.array(sizes)):
            found[name] += cost.milliseconds / total
    return {f"{name}_share": share for name, share in found.items()}


def rows(costs: Sequence[Cost], sizes: Sizes) -> list[list[object]]:
    """Rows of a table: source, milliseconds, kind, array, and shape written."""
    return [
        [
            # The end of the path is the place in the model; the beginning is the same for most.
            "/".join(cost.operation.source.split("/")[-3:]) or cost.name,
            cost.milliseconds,
            cost.operation.kind,
            cost.operation.array(sizes),
            "x".join(map(str, cost.operation.shapes[0])) if cost.operation.shapes else "",
        ]
        for cost in costs
    ]


def read_program(text: str) -> dict[str, Operation]:
    """The operations of a compiled program, by name."""
    computations: dict[str, set[str]] = {}
    found: dict[str, tuple[str, list[Shape], list[str], str]] = {}
    inside: set[str] = set()
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            inside = computations.setdefault(heading[1], set())
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, operands, rest = match.groups()
            inside.add(opcode)
            found[name] = opcode, _shapes(shape), re.findall(r"%([\w.\-]+)", operands), rest
    return {name: _operation(*parts, found, computations) for name, parts in found.items()}


def _operation(
    opcode: str,
    written: list[Shape],
    operands: list[str],
    rest: str,
    found: Mapping[str, tuple[str, list[Shape], list[str], str]],
    computations: Mapping[str, set[str]],
) -> Operation:
    fused = re.search(r"calls=%?([\w.\-]+)", rest) if opcode == "fusion" else None
    source = re.search(r'op_name="([^"]*)"', rest)
    read = [shape for operand in operands if operand in found for shape in found[operand][1]]
    return Operation(
        frozenset({opcode} | (computations[fused[1]] if fused else set())),
        (*written, *read),
        source[1] if source else "",
    )


def _shapes(text: str) -> list[Shape]:
    """The shape of an array, or the shapes of all arrays in a tuple."""
    dimensions = re.findall(r"\w+\[([\d,]*)\]", text)
    return [tuple(int(n) for n in found.split(",") if n) for found in dimensions]


@functools.cache
def _array(shape: Shape, sizes: Sizes) -> str:
    """One of `ARRAYS`. Products may flatten rows together with other axes."""

    def multiple(rows: int) -> bool:
        return any(n and n % rows == 0 for n in shape)

    if multiple(sizes.edges):
        return "edge"
    if multiple(sizes.nodes):
        on_points = multiple(sizes.points * sizes.nodes) or sizes.points in shape
        return "sphere" if on_points else "node"
    return "weights"


def _own_times(events: Sequence[tuple[float, float, str]]) -> dict[str, float]:
    """Nanoseconds by name, without the time of events nested in an event of the same thread.

    So a loop has only the time that the operations of its body leave.

    Args:
      events: start, duration, name.
    """
    own: dict[str, float] = collections.defaultdict(float)
    around: list[tuple[float, str]] = []
    # Of two events that start together, the longer encloses the other.
    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        own[name] += duration
        if around:
            own[around[-1][1]] -= duration
        around.append((start + duration, name))
    return own
