"""Plans QM9's and OC20's runs for pods, and writes a page on how they scale.

    python -m experiments.scaling --workdir=runs/scaling --page=experiments/results/scaling.md

The training step of each config is compiled for each topology (see `experiments.plan`): with
weights and optimiser whole on every chip, and divided among chips. Nothing is run. A plan takes
from half a minute to some minutes, and stands on the page when it is made; finished ones are read
from WORKDIR. TPUs need the extra `tpu-plan`, the H100 `jax[cuda12]`; plans that cannot be made are
named on the page.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re

from experiments import program

PROGRAM = program.Program(str(__doc__), [program.WORKDIR, program.PAGE], resumes=True)
if __name__ == "__main__":
    # Devices that are here have no part in it, and could be in use.
    os.environ["JAX_PLATFORMS"] = "cpu"
    PROGRAM.begin()

import jax

from experiments.configs import is2re, qm9
from hdgnn_jax.errors import HDGNNError
from hdgnn_jax.files import write_atomically, write_json
from hdgnn_jax.run import planned
from hdgnn_jax.run.task import check
from hdgnn_jax.training.chips import GIB, devices_of
from hdgnn_jax.training.plots import BLUE, GREEN, ORANGE, empty_figure, png
from hdgnn_jax.training.tables import markdown_table
from hdgnn_jax.types import Config, Json


@dataclasses.dataclass(frozen=True)
class Work:
    """A config, and the structures that it is planned with.

    Attributes:
      title: on the page.
      file: of the config, with its variant.
      mean: the mean structure of its data.
      on_tpu, on_gpu: structures on a chip.
      changed: a field of `model`, with its value, that differs from the config's.
      thorough: whether the compiler for TPUs works as hard as for a run.
    """

    title: str
    file: str
    mean: planned.Structured
    on_tpu: int
    on_gpu: int
    changed: tuple[str, str | bool] | None = None
    thorough: bool = False

    @property
    def name(self) -> str:
        """The config's, with what is changed."""
        change = "" if self.changed is None else " model.{}={}".format(*self.changed)
        return f"{self.file}{change}{' --thorough' * self.thorough}"

    @property
    def scaled(self) -> bool:
        """Whether it is planned for all topologies, and not for the first alone."""
        return self.changed is None and not self.thorough

    def columns(self) -> list[tuple[str, bool]]:
        """Topologies, each with the state whole and, on several chips, divided."""
        if not self.scaled:
            return [(TOPOLOGIES[0], False)]
        return [
            (topology, divided)
            for topology in TOPOLOGIES
            for divided in (False, True)[: 1 if topology.endswith(":1") else 2]
        ]

    def config(self) -> Config:
        """The nested config."""
        module, variant = self.file.split(".py:")
        config: Config = json.loads(
            {"qm9": qm9, "is2re": is2re}[module].get_config(variant).to_json()
        )
        changes = [] if self.changed is None else [self.changed]
        return {**config, "model": {**config["model"], **dict(changes)}}


QM9 = planned.Structured(18.0, 290.0)
"""Means over QM9's molecules; pairs within 5 Å."""
OC20 = planned.Structured(78.0, 3_100.0)
"""A system of OC20, its atoms with up to 40 neighbours each."""
WORKS = (
    Work("QM9", "qm9.py:full", QM9, 16, 64),
    Work("IS2RE", "is2re.py:full", OC20, 7, 28),
    Work("IS2RE, two shells", "is2re.py:shells", OC20, 7, 28),
    Work("QM9, products in bfloat16", "qm9.py:full", QM9, 16, 64, ("precision", "bfloat16")),
    Work("QM9, activations computed again", "qm9.py:full", QM9, 16, 64, ("remat", True)),
    Work("QM9, compiled as for a run", "qm9.py:full", QM9, 16, 64, thorough=True),
)
TOPOLOGIES = ("v5e:2x2", "v5e:16x16", "h100:1")
COLOURS = (BLUE, ORANGE, GREEN)
HEADER = (
    "chips", "state", "structures a chip", "memory of a chip, GiB", "GB moved", "padding",
    "step, ms", "bound by", "structures/s", "kept", "hours",
)  # fmt: skip
TEXT = """# Training on pods, as planned

Written by the command below; nothing here is typed by hand, and nothing was run: these are figures
of the compilers for those chips, not measurements.

```
python -m experiments.scaling --workdir=runs/scaling --page={page}
```

A step takes at least what its products, its traffic to memory or its exchanges take; the longest
counts. A real step takes longer: not counted is how long operations take one after another, but in
the last table. Only there the compiler works as hard as for a run; elsewhere it keeps little in a
TPU's fast memory, and so moves more bytes. The batch grows with the chips.

`padding`: the share of the bytes moved that fills tiles of 8 x 128 numbers. `kept`: the share of a
chip's speed that is left if nothing is computed while chips exchange gradients or weights. `hours`:
to see as many structures as the config's run does, without validation. QM9's mean molecule has
{qm9.atoms:.0f} atoms and {qm9.edges:.0f} edges, OC20's system is taken to have {oc20.atoms:.0f}
and {oc20.edges:,.0f}. JAX {jax}.

![structures a second against chips]({plot})
"""


def main() -> None:
    """The program."""
    folder, page = pathlib.Path(str(program.WORKDIR.value)), pathlib.Path(str(program.PAGE.value))
    program.refuse_unwritable("page", page)
    jax.config.update("jax_enable_compilation_cache", False)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[Work, list[Json]] = {work: [] for work in WORKS}
    for work, plans in rows.items():
        for topology, divided in work.columns():
            plans.append(row(work, topology, divided, folder))
            write(rows, page)
    print(page)


def row(work: Work, topology: str, divided: bool, folder: pathlib.Path) -> Json:
    """The plan of a config for a topology; from the folder, if it was made before."""
    state = state_of(divided)
    name = re.sub("[^A-Za-z0-9_]+", "-", f"{work.name}-{topology}-{state}".replace(".py", ""))
    file = folder / f"{name}.json"
    if not file.exists():
        print(f"{work.name} for {topology}, {state}", flush=True)
        new = made(work, topology, divided)
        if "missing" in new:
            # Not kept: a compiler may be installed before the next call.
            return new
        write_json(file, new)
    return program.read_json(file, dict)


def made(work: Work, topology: str, divided: bool) -> Json:
    """A new plan; the reason where there is none."""
    config = work.config()
    try:
        devices, chip = devices_of(topology)
        on_a_chip = work.on_gpu if topology.startswith("h100") else work.on_tpu
        structures = config["training"]["steps"] * config["training"]["batch_size"]
        batch = on_a_chip * len(devices)
        changes = {
            "batch_size": batch, "steps": structures // batch, "divide_state": divided,
        }  # fmt: skip
        config = {**config, "training": config["training"] | changes}
        check(config)
        planner = planned.Planner(config, devices, chip, work.mean, work.thorough)
        found, of, seconds = planner.plan(config)
    except HDGNNError as error:
        return {"topology": f"{topology}, {state_of(divided)}", "missing": str(error)}
    result = planned.numbers(found, of, config, topology)
    return {**result, "compiled_in": seconds, "state": state_of(divided)}


def state_of(divided: bool) -> str:
    """Where weights and optimiser are, in a word."""
    return "divided" if divided else "whole"


def kept(plan: Json) -> float:
    """The share of a step that is left beside its exchanges, if nothing overlaps with them."""
    others = max(seconds for name, seconds in plan["seconds"].items() if name != "links")
    return float(others / (others + plan["seconds"].get("links", 0.0)))


def write(rows: dict[Work, list[Json]], page: pathlib.Path) -> None:
    """Writes the page and its plot."""
    plot = page.with_suffix(".png")
    figure = empty_figure(7, 4.5)
    axes = figure.subplots()
    whole = [(work, plans) for work, plans in rows.items() if work.scaled]
    for (work, plans), colour in zip(whole, COLOURS, strict=False):
        for state, style in (("whole", "-"), ("divided", "--")):
            points = [
                (plan["chips"], plan["structures_per_second"])
                for plan in plans
                if plan.get("state") == state and "TPU" in plan["chip"]
            ]
            chips, rates = zip(*points, strict=True) if points else ((), ())
            label = f"{work.title}, state {state}"
            axes.loglog(chips, rates, style, color=colour, marker="o", label=label)
    axes.set_xlabel("TPU v5e chips")
    axes.set_ylabel("structures/s, planned")
    axes.legend(frameon=False, fontsize=9)
    write_atomically(plot, png(figure))
    tables = "\n".join(_table(work, plans) for work, plans in rows.items() if plans)
    text = TEXT.format(
        page=page.as_posix(), qm9=QM9, oc20=OC20, jax=jax.__version__, plot=plot.name
    )
    write_atomically(page, f"{text}\n{tables}".encode())


def _table(work: Work, plans: list[Json]) -> str:
    lines = []
    for plan in plans:
        if "missing" in plan:
            continue
        memory = plan["memory"]
        lines.append([
            f"{plan['chips']} {plan['chip']}", plan["state"], str(plan["batch"]["structures"]),
            f"{memory['needed'] / GIB:.2f} of {memory['available'] / GIB:.1f}",
            f"{plan['bytes_moved'] / 1e9:,.1f}",
            f"{plan['bytes_of_padding'] / plan['bytes_moved']:.0%}",
            f"{1e3 * plan['step_seconds']:.1f}", plan["bound"],
            f"{plan['structures_per_second']:,.0f}", f"{kept(plan):.3f}", f"{plan['hours']:,.1f}",
        ])  # fmt: skip
    missing = [f"{plan['topology']}: {plan['missing']}\n" for plan in plans if "missing" in plan]
    table = markdown_table(HEADER, lines, left=(0, 1, 7))
    return "\n".join([f"## {work.title}: `{work.name}`\n", table, "", *missing])


if __name__ == "__main__":
    PROGRAM.run(main)
