"""Compares what `experiments.plan` says of the two reference configs with what is measured."""

from __future__ import annotations

import tempfile

import jax

from experiments.benchmarks import processes, timing, train, workloads
from experiments.benchmarks.report import Report
from hdgnn_jax.training import chips, plan


def run(report: Report) -> dict[str, float]:
    """Plans and measures each config in processes of their own.

    The memory is that of a process that compiles its program, as a new run does; the times are of
    one that finds it compiled.
    """
    results: dict[str, float] = {}
    for name in ("a", "b"):
        with tempfile.TemporaryDirectory() as folder:
            first, found = (
                processes.alone(part, name, report.quick, JAX_COMPILATION_CACHE_DIR=folder)
                for part in (train.compile_first, measured)
            )
        found["measured_gib"] = first["compiling_peak_gib"]
        found |= processes.alone(planned, name, report.quick)
        seconds = found["gflop"] / found["gflops"] + found["gbytes"] / found["gbytes_per_second"]
        found["planned_step_seconds"] = seconds
        for what in ("gib", "step_seconds"):
            found[f"planned_over_measured_{what}"] = (
                found[f"planned_{what}"] / found[f"measured_{what}"]
            )
        report.table(f"Config {name}, planned and measured", ["", ""], list(found.items()))
        results |= {f"plan_{name}_{key}": value for key, value in found.items()}
    return results


def planned(name: str, quick: bool) -> dict[str, float]:
    """What the plan says, before anything is compiled or made here."""
    jax.config.update("jax_enable_compilation_cache", False)
    _, given, batch = workloads.standard(name, quick)
    state = given.state_shapes(workloads.mesh())
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    lowered = workloads.train_step_of(given).lower(state, shapes)
    found = plan.plan(lowered, chips.this_machine(), 1)
    return {
        "planned_gib": found.memory / timing.GIB,
        "gflop": found.product_flop / 1e9,
        "gbytes": found.moved / 1e9,
    }


def measured(name: str, quick: bool) -> dict[str, float]:
    """Seconds of a step, and the speeds that the plan is made with."""
    _, given, batch = workloads.standard(name, quick)
    _, stepper = train.first_steps(given, batch)
    size = 2**20 if quick else 2**26
    times, rates = timing.with_peak(
        {"step": stepper, "add": chips.additions(size)}, 2 if quick else 10, quick
    )
    return {
        # The fastest of each: what other programs take of the machine is no part of a plan.
        "measured_step_seconds": float(times["step"].min()),
        "gflops": float(rates.max() / 1e9),
        "gbytes_per_second": float((2 * size / times["add"]).max() / 1e9),
    }
