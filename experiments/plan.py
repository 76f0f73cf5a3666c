"""Says what a run will need on chips that are not here: memory, time, what bounds it.

    python -m experiments.plan --config=experiments/configs/qm9.py:quick --topology=v5e:2x2

It compiles the training step of the config for that topology, with the compiler for TPUs, which
needs no TPU (pip install "hdgnn_jax[tpu-plan]"), and reads the compiled program: nothing is run, no
weights are made. --topology=cpu plans for this machine, h100:8 for GPUs (pip install
"jax[cuda12]"). Any field of the config can be set. The sizes of batches come from the data; where
these are not here, from --atoms and --edges. Compilation takes from half a minute to some minutes;
several times that for TPUs with --thorough: as a run compiles, with the time of its operations.
"""

from __future__ import annotations

import os
import time

from absl import flags

from experiments import program

TOPOLOGY = flags.DEFINE_string(
    "topology", None, "NAME of the chips: cpu, v5e:2x2, v5p:2x2x1, v6e:2x2, v5e:4x4, ..., h100:8"
)
ATOMS = flags.DEFINE_float(
    "atoms", None, "N, atoms of the mean structure, to plan without data", lower_bound=1
)
EDGES = flags.DEFINE_float(
    "edges", None, "N, its edges: pairs within the cutoff, both directions counted", lower_bound=1
)
LARGEST = flags.DEFINE_bool(
    "largest_batch", False, "search the largest batch that fits, with a compilation for each try"
)
THOROUGH = flags.DEFINE_bool(
    "thorough", False, "compile for a TPU as a run does: slower, and with the operations' times"
)
TRIES = flags.DEFINE_integer("tries", 10, "N, the most batches to try", lower_bound=1)

PROGRAM = program.Program(str(__doc__), [program.CONFIG, TOPOLOGY], [program.JSON])
if __name__ == "__main__":
    # Devices that are here have no part in it, and could be in use.
    os.environ["JAX_PLATFORMS"] = "cpu"
    PROGRAM.begin()

import jax

from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_json
from hdgnn_jax.run import planned
from hdgnn_jax.run.task import check
from hdgnn_jax.training import plan as plans
from hdgnn_jax.training.chips import GIB, devices_of
from hdgnn_jax.training.tables import print_table, print_text
from hdgnn_jax.types import Config, Json

SHOWN = 8
"""Shapes of arrays in the table."""
MODEL = {
    False: "Assumed: the longest of these is the step's time, all else overlaps with it, and every "
    "unit works at its peak. A real step takes longer.",
    True: "Assumed: nothing overlaps, and a step takes their sum; the speeds are those of a "
    "product and an addition, measured just now.",
}


def main() -> None:
    """The program."""
    atoms, edges = ATOMS.value, EDGES.value
    if (atoms is None) != (edges is None):
        raise InputError("--atoms and --edges must be given together")
    mean = planned.Structured(atoms, edges) if atoms and edges else None
    tries = TRIES.value if LARGEST.value else 0
    config, topology = program.read_config(), str(TOPOLOGY.value)
    found = run(config, topology, mean, tries, bool(THOROUGH.value))
    if program.JSON.value:
        write_json(program.JSON.value, found)


def run(
    config: Config,
    topology: str,
    mean: planned.Structured | None = None,
    tries: int = 0,
    thorough: bool = False,
) -> Json:
    """Plans a run, prints the plan, and returns it.

    Args:
      config: nested.
      topology: see `devices_of`.
      mean: what to plan with instead of data.
      tries: the most batches to try for the largest that fits; 0: it is not searched.
      thorough: see `plans.plan`.

    Raises:
      InputError: for a wrong config or topology, a missing compiler, data that are not here, or a
        step that needs more memory than there is.
      CompilerError: where the compiler stops for another reason than memory.
    """
    check(config)
    jax.config.update("jax_enable_compilation_cache", False)
    devices, chip = devices_of(topology)
    planner = planned.Planner(config, devices, chip, mean, thorough)
    try:
        found, batch, seconds = planner.plan(config)
    except plans.TooLargeError as error:
        if tries:
            largest_batch(planner, tries, error)
        raise
    result = planned.numbers(found, batch, config, topology)
    show(found, batch, result, seconds)
    if tries:
        result["largest_batch"] = largest_batch(planner, tries, found)
    return result


def largest_batch(
    planner: planned.Planner, tries: int, known: plans.Plan | plans.TooLargeError
) -> Json:
    """Searches the largest batch that fits, with a line on each try.

    Args:
      planner: of the config.
      tries: the most batches that are compiled.
      known: what is known of the config's own batch.
    """
    config, chip = planner.config, planner.chip
    start = config["training"]["batch_size"]

    def attempt(size: int) -> float:
        if size == start and isinstance(known, plans.TooLargeError):
            raise known
        if size == start and isinstance(known, plans.Plan):
            return known.memory / known.chip.memory
        training, began = {**config["training"], "batch_size": size}, time.monotonic()
        try:
            found, _, _ = planner.plan({**config, "training": training}, True)
        except (plans.TooLargeError, plans.CompilerError) as error:
            said = str(error).partition(":")[0]
            print(f"training.batch_size = {size:,}: {said}", flush=True)
            raise plans.TooLargeError(said) from error
        print(
            f"training.batch_size = {size:,}: {found.memory / GIB:.2f} GiB of "
            f"{chip.memory / GIB:.1f}, {size / found.step_seconds:,.0f} structures/s "
            f"({time.monotonic() - began:.0f} s)",
            flush=True,
        )
        return found.memory / chip.memory

    most = len(planner.train) if planner.train is not None else 2**20
    fits, fails = plans.largest_batch(attempt, start, planner.mesh.size, most, tries + 1)
    failed = "" if fails is None else f"; {fails:,} does not"
    print(f"the largest batch seen to fit: {fits:,}{failed}" if fits else "none fits")
    return {"fits": fits, "fails": fails}


def show(found: plans.Plan, batch: planned.Batch, result: Json, seconds: float) -> None:
    """Prints the plan."""
    of = result["batch"]
    print_text(
        f"{found.devices} x {found.chip.name}; {of['structures']:,} structures a chip, "
        f"{batch.atoms:,.0f} atoms and {batch.edges:,.0f} edges on average, padded to "
        f"{batch.budget.n_node:,} and {batch.budget.n_edge:,} (the largest of the run's shapes). "
        f"Compiled in {seconds:.0f} s. Not a measurement: the compiler's figures."
    )
    _show_memory(found)
    _show_time(found, result)
    _show_padding(found)


def _show_memory(found: plans.Plan) -> None:
    there = found.chip.memory
    whose = "this machine" if found.on_cpu else "a chip"
    sizes = {
        "arguments": found.arguments, "outputs that are no arguments": found.outputs,
        "temporary": found.temporary, "program": found.code,
        "the process and its compiler": found.process,
    }  # fmt: skip
    title = f"Memory of {whose}: {found.memory / GIB:.3g} of {there / GIB:.3g} GiB"
    print_table(title, ("", "MiB"), [(name, _mib(size)) for name, size in sizes.items() if size])


def _show_time(found: plans.Plan, result: Json) -> None:
    notes = {
        "matrix products": f"{found.product_flop / 1e9:.3g} of {found.flop / 1e9:.3g} GFLOP",
        "memory": f"{found.moved / 1e9:.3g} GB to and from memory at "
        f"{found.chip.bandwidth / 1e9:,.0f} GB/s, {found.padding / 1e9:.3g} of them padding; "
        f"{found.on_chip / 1e9:.3g} GB within the chip",
        "links": ", ".join(
            f"{count} {kind} of {size / 1e6:.3g} MB"
            for kind, (count, size) in found.exchanges.items()
        )
        or "nothing is exchanged",
        plans.CYCLES: f"{found.operations:,}, one after another: the compiler's estimate, without "
        "gathers, scatters and copies",
    }
    bound = "takes" if found.on_cpu else "needs at least"
    title = f"A step {bound} {1e3 * found.step_seconds:.3g} ms, most for {found.bound}"
    rows = [(name, f"{1e3 * each:.3g}", notes[name]) for name, each in found.seconds.items()]
    print_table(title, ("", "ms", ""), rows, left=(0, 2))
    if found.bound == plans.CYCLES:
        print_text("Neither products nor memory nor links bound it: its arrays are small.")
    print_text(
        f"{result['structures_per_second']:,.0f} structures/s, {_time(result['hours'])} to the end "
        f"of the config, without validation. {MODEL[found.on_cpu]}"
    )
    if plans.CYCLES not in found.seconds and not found.on_cpu:
        takes = (
            "how long they take one after another: --thorough estimates it"
            if found.chip.is_tpu
            else "the start of each, which takes a GPU some microseconds"
        )
        print_text(f"Of {found.operations:,} operations it is not counted {takes}.")
    if found.unknown_loops:
        print_text(
            f"{found.unknown_loops} loop(s) of unknown length are counted once: too few FLOP, "
            "bytes and seconds."
        )


def _show_padding(found: plans.Plan) -> None:
    everything = plans.Padded(
        "all that a step writes", sum(one.number for one in found.arrays), "",
        sum(one.bytes for one in found.arrays), sum(one.tiled for one in found.arrays),
    )  # fmt: skip
    print_table(
        "Padding: arguments, and arrays that a step writes, by shape, in tiles, in fast memory",
        ("", "number", "MiB", "padded", "times", ""),
        map(_row, (*found.given, *found.arrays[:SHOWN], everything)),
        left=(0, 5),
    )


def _row(one: plans.Padded) -> list[str]:
    times = f"{one.tiled / one.bytes:.2f}" if one.bytes else ""
    return [one.array, f"{one.number:,}", _mib(one.bytes), _mib(one.tiled), times, one.place]


def _time(hours: float) -> str:
    for unit, factor in (("h", 1), ("min", 60)):
        if hours * factor > 1:
            return f"{hours * factor:,.1f} {unit}"
    return f"{3600 * hours:.0f} s"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.2f}"


if __name__ == "__main__":
    PROGRAM.run(main)
