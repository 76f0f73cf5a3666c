"""Reads the text of a compiled program: loops, bytes moved, products, exchanges, padded arrays."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hdgnn_jax.training.hlo import Array, Computations, Operation, parse

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "opt-barrier", "async-start",
    "async-update", "async-done",
}  # fmt: skip
"""Operations that move no bytes themselves."""
SLICES = {"slice", "dynamic-slice", "gather"}
"""Operations that read no more of their first operand than they write."""
PASSES = {"highest": 6, "high": 3}
"""Products of bfloat16 in one of float32, by the precision that it asks for."""


class Run(NamedTuple):
    """An operation, with how often a step runs it and the computation that it is in."""

    operation: Operation
    times: int
    inside: str


def read(text: str) -> Compiled:
    """The program whose text is `compiled.as_text()`."""
    return Compiled(*parse(text))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
      computations: by name, operations by name, in order.
      entry: the name of the computation that the program starts with.
    """

    computations: Computations
    entry: str

    @functools.cached_property
    def runs(self) -> list[Run]:
        """All operations that write arrays of their own: not those inside of fused ones."""
        return [run for run, fused in self._walk(self.entry, 1, False) if not fused]

    @functools.cached_property
    def all_runs(self) -> list[Run]:
        """The same, and those inside of fused ones."""
        return [run for run, _ in self._walk(self.entry, 1, False)]

    def _walk(self, name: str, times: int, fused: bool) -> Iterator[tuple[Run, bool]]:
        for operation in self.computations.get(name, {}).values():
            yield Run(operation, times, name), fused
            kind = operation.kind
            if kind in ("while", "call", "conditional", "async-start", "fusion"):
                turns = times * (self.turns(operation, name) or 1 if kind == "while" else 1)
                for called in operation.called:
                    yield from self._walk(called, turns, fused or kind == "fusion")

    @property
    def parameters(self) -> list[Operation]:
        """The arguments of the program."""
        operations = self.computations[self.entry].values()
        return [operation for operation in operations if operation.kind == "parameter"]

    @property
    def unknown_loops(self) -> int:
        """Number of loops whose number of turns the text does not tell; they count as one turn."""
        return sum(
            run.operation.kind == "while" and not self.turns(run.operation, run.inside)
            for run in self.all_runs
        )

    def turns(self, loop: Operation, inside: str) -> int | None:
        """How often a loop turns; None: the text does not tell."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        if condition is None:
            return None
        # A counter from 0 is compared with a constant, in the condition or among what it carries.
        limits = []
        for operation in self.computations.get(condition[1], {}).values():
            place = re.search(r"index=(\d+)", operation.rest)
            if operation.kind == "constant" and operation.arrays[0].shape == ():
                limits.append(operation)
            elif operation.kind == "get-tuple-element" and place:
                made = self.computations[inside].get(loop.operands[0])
                if made and made.kind == "tuple":
                    given = self.computations[inside].get(made.operands[int(place[1])])
                    limits += [given] if given and given.kind == "constant" else []
        numbers = [int(o.operands[0]) for o in limits if re.fullmatch(r"\d+", o.operands[0])]
        return max(numbers, default=0) or None

    def moved(
        self, repeated: bool = True, on_chip: bool = False, padded: bool = True
    ) -> int:
        """Bytes that a step reads and writes.

        A fused operation reads its operands and writes its result once. Of an operand that it only
        slices or gathers from, it reads what it takes.

        Args:
          repeated: whether a loop counts as often as it turns; if not, once.
          on_chip: whether arrays in the fast memory on the chip count.
          padded: whether padding counts.
        """
        total = 0
        for operation, times, inside in self.runs:
            if operation.kind not in FREE and not operation.kind.endswith("-done"):
                moved = self._moved_by(operation, inside, on_chip, padded)
                total += (times if repeated else 1) * moved
        return total

    def _moved_by(self, operation: Operation, inside: str, on_chip: bool, padded: bool) -> int:
        def size(arrays: tuple[Array, ...]) -> int:
            return _size([array for array in arrays if on_chip or not array.on_chip], padded)

        written = size(operation.written)
        scope, read = self.computations[inside], 0
        if operation.kind.removesuffix("-start") in SLICES:
            source = scope[operation.operands[0]].arrays[0]
            return written + size(tuple(
                array._replace(on_chip=source.on_chip) for array in operation.written
            ))  # fmt: skip
        if operation.kind == "dynamic-update-slice":
            return 2 * size(scope[operation.operands[1]].arrays)
        for k, name in enumerate(operation.operands):
            arrays = scope[name].arrays if name in scope else ()
            taken = self._taken(operation, k, padded) if operation.kind == "fusion" else None
            read += size(arrays) if taken is None else min(size(arrays), taken)
        updated = self._updated(operation, padded) if operation.kind == "fusion" else None
        return read + (written if updated is None else min(written, updated))

    def _taken(self, fusion: Operation, k: int, padded: bool) -> int | None:
        """Bytes that a fused operation takes of its operand k; None: all."""
        inner = self.computations.get(fusion.called[0], {}) if fusion.called else {}
        name = next(
            (o.name for o in inner.values() if o.kind == "parameter" and o.operands[0] == str(k)),
            None,
        )
        taken = 0
        for operation in inner.values():
            if name is None or name not in operation.operands:
                continue
            if operation.kind in SLICES and operation.operands[0] == name:
                taken += _size(operation.arrays, padded)
            elif operation.kind != "dynamic-update-slice" or operation.operands[0] != name:
                return None
        return taken if name is not None else None

    def _updated(self, fusion: Operation, padded: bool) -> int | None:
        """Bytes that a fused operation writes into an array which it changes in place."""
        inner = self.computations.get(fusion.called[0], {}) if fusion.called else {}
        *_, last = inner.values() if inner else (None,)
        if last is None or last.kind != "dynamic-update-slice":
            return None
        return _size(inner[last.operands[1]].arrays, padded)

    @functools.cached_property
    def products(self) -> list[tuple[float, int, int]]:
        """FLOP of each matrix product in one turn, the number of turns, passes of bfloat16."""
        found = []
        for operation, times, inside in self.all_runs:
            if operation.kind in ("dot", "convolution"):
                first, second = (self.computations[inside][name] for name in operation.operands)
                asked = re.search(r"operand_precision=\{(\w+)", operation.rest)
                is_float = first.arrays[0].dtype == "f32"
                passes = PASSES.get(asked[1] if asked else "", 1) if is_float else 1
                flop = 2.0 * _multiplications(operation, first.arrays[0], second.arrays[0])
                found.append((flop, times, passes))
        return found

    @property
    def exchanges(self) -> dict[str, tuple[int, int]]:
        """By kind of collective, the number in a step and the bytes of one device's arrays."""
        found: dict[str, tuple[int, int]] = {}
        for operation, times, inside in self.all_runs:
            kind = operation.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                scope = self.computations[inside]
                given = sum(a.bytes for n in operation.operands if n in scope
                            for a in scope[n].arrays)  # fmt: skip
                result = sum(array.bytes for array in operation.written)
                count, size = found.get(kind, (0, 0))
                found[kind] = (count + times, size + times * max(given, result))
        return found

    @property
    def cycles(self) -> int:
        """What the compiler expects its fused operations to take, where it says so."""
        total = 0
        for operation, times, _ in self.runs:
            if found := re.search(r'"estimated_cycles":"(\d+)"', operation.rest):
                total += times * int(found[1])
        return total


def _size(arrays: Iterable[Array], padded: bool) -> int:
    return sum(array.tiled if padded else array.bytes for array in arrays)


def _multiplications(operation: Operation, first: Array, second: Array) -> int:
    """How often the product multiplies two numbers."""
    total = math.prod(operation.arrays[0].shape)
    if operation.kind == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", operation.rest)
        summed = axes[1].split(",") if axes else []
        return total * math.prod(first.shape[int(axis)] for axis in summed)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.rest)
    if labels is None:
        return total * math.prod(second.shape)
    of_first, of_second, of_result = labels.groups()
    total *= second.shape[of_second.index("i")]
    for axis, window in enumerate(_windows(operation)):
        given = first.shape[of_first.index(str(axis))]
        results = operation.arrays[0].shape[of_result.index(str(axis))]
        total = total // results * window.met(given, results)
    return total


class _Window(NamedTuple):
    """A convolution's window along an axis; the compiler writes batches of matrices as such."""

    size: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    def met(self, given: int, results: int) -> int:
        """How many of the `given` numbers, not of padding and gaps, all windows meet together."""
        last, total = (given - 1) * self.dilation, 0
        for start in range(-self.pad, results * self.stride - self.pad, self.stride):
            low, high = max(start, 0), min(start + self.size - 1, last)
            total += max(high // self.dilation - -(-low // self.dilation) + 1, 0)
        return total


def _windows(operation: Operation) -> list[_Window]:
    found = re.search(r"window=\{([^}]*)\}", operation.rest)
    fields = dict(re.findall(r"(\w+)=([\d_x-]+)", found[1])) if found else {}
    if "size" not in fields:
        return []

    axes = fields["size"].count("x") + 1
    columns = [
        # Of padding, what comes before.
        [int(value.split("_")[0]) for value in fields[name].split("x")]
        if name in fields
        else [usual] * axes
        for name, usual in (("size", 1), ("stride", 1), ("pad", 0), ("lhs_dilate", 1))
    ]
    return [_Window(*window) for window in zip(*columns, strict=True)]
