"""What a training step will need on some chips, read from the program compiled for them.

Nothing is run and no array is allocated: the step is compiled from shapes.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hdgnn_jax import cpu
from hdgnn_jax.errors import HDGNNError, InputError
from hdgnn_jax.training import compiled as program
from hdgnn_jax.training import hlo
from hdgnn_jax.training.chips import GIB, Chip
from hdgnn_jax.types import Json

PARTS = {
    "state.params": "weights", "state.ema": "averaged weights", "state.opt_state": "optimiser",
    "state.step": "step", "batch": "batch",
}  # fmt: skip
"""Arguments of the step, by the beginning of their names."""
LOWER = (
    "lower training.batch_size, or set model.remat=True (activations are computed again), or lower "
    "model.channels, model.hidden or model.degree"
)
DIVIDE = "set training.divide_state=True (weights and optimiser are divided among chips)"


CYCLES = "operations"
"""Among what could bound a step: the compiler's estimate of its operations one after another."""


LESS_EFFORT: Json = {"exec_time_optimization_effort": -0.5}
"""Option of the compiler for TPUs: products with all digits of float32 compile in 11 s instead of
75. Little is kept in the fast memory: QM9's `full` moves 71 GB a step instead of 42. Its operations
took about twice as long, `quick`'s three times: their estimate says nothing of a run's program."""

WITHOUT_TRITON: Json = {"xla_gpu_enable_triton_gemm": False}
"""Option of the compiler for GPUs: products by cuBLAS alone. Without a GPU to try them on, it finds
no tiles for Triton's products of 49 rows, and stops."""


class TooLargeError(InputError):
    """The step needs more memory than a chip has; the message says what lowers it."""


class CompilerError(HDGNNError):
    """The compiler stopped for another reason than memory; the message has its first line."""


class Padded(NamedTuple):
    """Arrays of one shape.

    Attributes:
      array: shape and tiles.
      number: how many operations write one.
      place: where in the model the first arises.
      bytes, tiled: of all of them, the numbers alone and with their padding.
    """

    array: str
    number: int
    place: str
    bytes: int
    tiled: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step on one of several like chips.

    Attributes:
      chip: what it can do.
      devices: number of chips.
      arguments, outputs, temporary, code: bytes of memory; the state is an argument that
        is given away, and no output.
      process: bytes that the process holds beside them, on a CPU, with what its compiler has taken
        and keeps; else 0.
      flop: of a step, as XLA counts it, with loops as often as they turn.
      product_flop: of its matrix products.
      moved: bytes that go to and from the chip's memory.
      padding: those of them that are padding.
      on_chip: bytes that stay in the fast memory on the chip.
      seconds: by what could bound the step, the least time that this needs.
      unknown_loops: loops that are counted as one turn.
      operations: number of them in a step, a fused one counted once.
      exchanges: by kind of collective, number and bytes of one chip's arrays.
      given: arguments by part.
      arrays: those that a step writes, by shape, largest first.
    """

    chip: Chip
    devices: int
    arguments: int
    outputs: int
    temporary: int
    code: int
    process: int
    flop: float
    product_flop: float
    moved: int
    padding: int
    on_chip: int
    seconds: dict[str, float]
    unknown_loops: int
    operations: int
    exchanges: dict[str, tuple[int, int]]
    given: list[Padded]
    arrays: list[Padded]

    @property
    def on_cpu(self) -> bool:
        """Whether its chips are this machine, and share its memory."""
        return self.chip.is_cpu

    @property
    def memory(self) -> int:
        """Bytes that are needed: of each chip, or of the machine where they share it."""
        buffers = self.arguments + self.outputs + self.temporary
        return buffers * (self.devices if self.on_cpu else 1) + self.code + self.process

    @property
    def bound(self) -> str:
        """What bounds the step."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step_seconds(self) -> float:
        """Of a step: on a chip all overlaps and the longest counts; on a CPU nothing overlaps."""
        return sum(self.seconds.values()) if self.on_cpu else self.seconds[self.bound]

    def check_memory(self) -> None:
        """Refuses a step that needs more memory than there is.

        Raises:
          TooLargeError: naming the fields of the config that lower it.
        """
        if self.memory > self.chip.memory:
            given = self.arguments > self.memory / 3
            raise too_large(self.memory / GIB, self.chip.memory / GIB, self.chip.name, given)


def plan(
    lowered: jax.stages.Lowered, chip: Chip, devices: int, thorough: bool = False
) -> Plan:
    """Compiles a lowered training step, and reads what it needs.

    Args:
      lowered: for as many devices, from shapes with their shardings.
      chip: one of them.
      devices: their number.
      thorough: whether the compiler works as hard as for a run; see `LESS_EFFORT`.

    Raises:
      TooLargeError: where the compiler finds too little memory.
      CompilerError: where it stops for another reason.
    """
    try:
        made = lowered.compile(_options(chip, thorough))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise _overflow(str(error), chip) from error
        reason = str(error).partition("\n")[0][:200]
        raise CompilerError(
            f"the compiler of JAX {jax.__version__} cannot compile this step for {chip.name} "
            f"({reason}): plan for other chips, or install another version of JAX"
        ) from error
    memory: Any = made.memory_analysis()
    # None from the compiler for GPUs.
    counted: Any = made.cost_analysis() or {}
    return Plan(
        chip,
        devices,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        cpu.resident() if chip.is_cpu else 0,
        **_work(program.read(made.as_text() or ""), counted.get("flops"), chip, devices, thorough),
    )


def _options(chip: Chip, thorough: bool) -> Json | None:
    """Options of the compiler for a chip."""
    if chip.is_cpu:
        return None
    return (None if thorough else LESS_EFFORT) if chip.is_tpu else WITHOUT_TRITON


def _work(
    text: program.Compiled, flop: float | None, chip: Chip, devices: int, thorough: bool
) -> Json:
    """What a step computes, moves and exchanges, as fields of `Plan`.

    Args:
      text: the program.
      flop: XLA's count, with each loop as one turn; None: that of matrix products is all there is.
      chip, devices, thorough: as in `plan`.
    """
    products = text.products
    once, all_turns = (sum(f * (t if k else 1) for f, t, _ in products) for k in (0, 1))
    flop = once if flop is None else flop
    on_matrix_units = sum(f * t / _rate(chip, p) for f, t, p in products)
    moved, everything = text.moved(), text.moved(on_chip=True)
    return {
        "flop": flop * (all_turns / once if once else 1),
        "product_flop": all_turns,
        "moved": moved,
        "padding": moved - text.moved(padded=False),
        "on_chip": everything - moved,
        "seconds": {
            "matrix products": on_matrix_units,
            "memory": moved / chip.bandwidth,
            **_on_links(text.exchanges, chip, devices),
            **({CYCLES: text.cycles / chip.clock} if chip.clock and thorough else {}),
        },
        "unknown_loops": text.unknown_loops,
        "operations": sum(run.times for run in text.runs if _writes(run.operation)),
        "exchanges": text.exchanges,
        "given": _given(text),
        "arrays": _arrays(text),
    }


def _rate(chip: Chip, passes: int) -> float:
    """FLOP/s of products that take so many passes of bfloat16."""
    return chip.float32 if passes == 6 else chip.bfloat16 / passes


def _on_links(
    exchanges: dict[str, tuple[int, int]], chip: Chip, devices: int
) -> dict[str, float]:
    """Seconds on a ring of one link: a sum goes round twice, other exchanges once."""
    if chip.link is None:
        return {}
    rounds = {kind: 2 if kind == "all-reduce" else 1 for kind in exchanges}
    sent = sum(rounds[kind] * size for kind, (_, size) in exchanges.items())
    return {"links": sent * (devices - 1) / devices / chip.link}


def _given(text: program.Compiled) -> list[Padded]:
    """The arguments, by part."""
    found: dict[str, list[hlo.Array]] = collections.defaultdict(list)
    for operation in text.parameters:
        name = next((part for start, part in PARTS.items() if operation.place.startswith(start)),
                    "others")  # fmt: skip
        found[name] += operation.arrays
    return [
        Padded(name, len(arrays), "", sum(a.bytes for a in arrays), sum(a.tiled for a in arrays))
        for name, arrays in found.items()
    ]


def _arrays(text: program.Compiled) -> list[Padded]:
    """What operations write, by shape, the largest together first."""
    count: collections.Counter[hlo.Array] = collections.Counter()
    place: dict[hlo.Array, str] = {}
    for operation, _, _ in text.runs:
        if _writes(operation):
            for array in operation.written:
                count[array] += 1
                place[array] = place.get(array) or operation.place
    found = [
        Padded(str(array), n, _short(place[array]), n * array.bytes, n * array.tiled)
        for array, n in count.items()
    ]
    return sorted(found, key=lambda one: -one.tiled)


def _writes(operation: hlo.Operation) -> bool:
    return operation.kind not in program.FREE and not operation.kind.endswith("-done")


def _short(place: str) -> str:
    """The last parts of a place in the model."""
    names = [name for name in place.split("/") if not re.match(r"(jit|shard_map|HDGNN)", name)]
    return "/".join(names[-3:])


def _overflow(text: str, chip: Chip) -> TooLargeError:
    """The compiler's complaint in a sentence."""
    needed = re.search(r"\(([\d.]+[KMGT]?)\) exceeds", text) or re.search(r"Used ([\d.]+\w)", text)
    there = re.search(r"available HBM \(([\d.]+\w)\)", text) or re.search(
        r"Used [\d.]+\w of ([\d.]+\w)", text
    )
    given = re.search(r"(program|arguments)\s+([\d.]+)G", text)
    divide = bool(given and there and float(given[2]) > _gib(there[1]) / 3)
    return too_large(
        _gib(needed[1]) if needed else None,
        _gib(there[1]) if there else chip.memory / GIB,
        chip.name,
        divide,
    )


def too_large(needed: float | None, there: float, name: str, divide: bool) -> TooLargeError:
    """The sentence on a step that does not fit.

    Args:
      needed: GiB; None: unknown.
      there: GiB.
      name: of the chip.
      divide: whether the state takes much of it.
    """
    more = "more memory" if needed is None else f"{needed:.1f} GiB of memory"
    ways = f"{LOWER}, or {DIVIDE}" if divide else LOWER
    return TooLargeError(f"a step needs {more}, and {name} has {there:.1f} GiB: {ways}")


def _gib(text: str) -> float:
    """Of XLA's short form, such as 15.75G."""
    return float(text.rstrip("KMGTB")) * {"K": 2**-20, "M": 2**-10, "T": 2**10}.get(text[-1], 1)


GROWTH = 8
"""The most that a batch grows from one try to the next."""
ENOUGH = 1 / 16
"""A batch that is known to this share of itself is not searched further."""


def largest_batch(
    attempt: Callable[[int], float], start: int, multiple: int, most: int, tries: int
) -> tuple[int, int | None]:
    """The largest batch that fits: it grows by what memory is left, then is bisected.

    Args:
      attempt: (batch) -> the share of the memory that it takes; raises `TooLargeError`.
      start: the first batch that is tried.
      multiple: batches are multiples of it.
      most: the largest batch that makes sense.
      tries: the most batches that are tried; each is compiled.

    Returns:
      The largest batch that was seen to fit, 0 if none, and the smallest that was seen not to;
      None: none was.
    """
    fits, fails, size = 0, None, start
    for _ in range(tries):
        try:
            share = attempt(size)
        except TooLargeError:
            fails = size
        else:
            fits = size
            if share > 1 - ENOUGH:
                break
        if fails is None:
            size = min(int(fits * min(GROWTH, 1 / share)), most)
        else:
            size = (fits + fails) // 2
        size = size // multiple * multiple
        if size in (0, fits) or (fails and fails - fits <= max(multiple, fits * ENOUGH)):
            break
    return fits, fails
