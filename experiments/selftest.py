"""Tests the forces of a trained model whose target is an energy.

    python -m experiments.selftest --workdir=runs/forces --plot=selftest.png

Without --workdir the weights are those that come with the package. There are three tests, made on
every structure of the files named as words, or on ethanol:
  finite differences   compares forces (and the stress of cells) with differences of the energy, in
                       float64. If the error exceeds 1e-6 of the slope, the exit code is 1.
  rotation             compares forces of a turned structure with the turned forces. HDGNN gives up
                       exact symmetry; --frames=8 averages over frames and reduces the difference.
  constant energy      makes 1,000 steps of 0.5 fs from 300 K, and gives drift and ripple of the
                       total energy, which the plot shows.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from experiments import program

MD_STEPS = flags.DEFINE_integer("md_steps", 1000, "N, steps of the dynamics", lower_bound=2)
KELVIN = flags.DEFINE_float("kelvin", 300.0, "T, initial temperature of dynamics", lower_bound=0)

PROGRAM = program.Program(
    str(__doc__), [], [program.WORKDIR, program.JSON, program.PLOT, program.FRAMES], words=True,
)
if __name__ == "__main__":
    PROGRAM.begin()

import numpy as np

from hdgnn_jax.data.ase_files import read_structures
from hdgnn_jax.evaluation import selftest
from hdgnn_jax.evaluation.symmetry import random_rotations
from hdgnn_jax.files import write_json
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training.plots import BLUE, GREY, empty_figure
from hdgnn_jax.training.tables import print_table
from hdgnn_jax.types import Json

BOUND = 1e-6
"""Largest relative error of the finite differences."""
ROTATIONS = 8

ETHANOL = Structure.from_symbols(
    "CCOHHHHHH",
    np.array([
        [1.169, -0.401, 0.0], [0.0, 0.557, 0.0], [-1.190, -0.215, 0.0], [-1.946, 0.381, 0.0],
        [2.121, 0.142, 0.0], [1.128, -1.040, 0.887], [1.128, -1.040, -0.887], [0.050, 1.201, 0.887],
        [0.050, 1.201, -0.887],
    ]),
    "ethanol",
)  # fmt: skip


def main(*files: str) -> None:
    """The program."""
    predictor = Predictor.load(program.trained(), program.FRAMES.value)
    structures = [found for name in files for found in read(pathlib.Path(name))]
    if files and not structures:
        raise StructureError(f"there is no structure in {', '.join(files)}")
    structures = structures or [ETHANOL]
    found = measure(predictor, structures, MD_STEPS.value, KELVIN.value)
    show(found, predictor.energy().name)
    for doubt in predictor.doubts_of_forces():
        print(f"warning: {doubt}")
    if program.JSON.value:
        write_json(program.JSON.value, found)
    if program.PLOT.value:
        draw(pathlib.Path(program.PLOT.value), found)
    # Not "> BOUND", so that NaN fails.
    if not all(row["finite_differences"] <= BOUND for row in found):
        sys.exit(1)


def read(path: pathlib.Path) -> list[Structure]:
    """The structures of a file.

    Raises:
      StructureError: naming the first structure that cannot be read.
    """
    found = list(read_structures(path))
    for structure in found:
        if isinstance(structure, StructureError):
            raise structure
    return [structure for structure in found if isinstance(structure, Structure)]


def measure(
    predictor: Predictor, structures: list[Structure], steps: int, kelvin: float
) -> list[Json]:
    """The results of the tests for each structure.

    Raises:
      StructureError: naming the first structure that the model cannot use.
      PredictorError: where the model does not predict an energy.
    """
    predictor.energy_unit()
    _, reasons = predictor.usable(Structures.pack(structures))
    for place, reason in reasons.items():
        text = f"{reason}: give a file of structures that it knows"
        raise StructureError(text, structures[place].name)
    rows = []
    with progress_bar("tests") as progress:
        task = progress.add_task("testing", total=3 * len(structures))
        for structure in structures:
            row: Json = {"structure": structure.name}
            row["finite_differences"] = selftest.finite_differences(predictor, structure)
            progress.advance(task)
            change, size = selftest.turned_forces(
                predictor, structure, random_rotations(ROTATIONS, 0)
            )
            row |= {"rotation": change, "force": size}
            progress.advance(task)
            path = selftest.constant_energy(predictor, structure, steps, kelvin=kelvin)
            row |= {"drift": path.drift, "ripple": path.ripple, "times": path.times.tolist()}
            row |= {"total": path.total.tolist(), "potential": path.potential.tolist()}
            progress.advance(task)
            rows.append(row)
    return rows


def show(rows: list[Json], energy: str) -> None:
    """Prints the table; `energy` is the name of the target whose slopes the forces are."""
    header = (
        "structure", "finite differences, relative", "turned forces, meV/Å (of their size)",
        "drift, meV/(atom ps)", "ripple, meV/atom",
    )  # fmt: skip
    cells = [
        (
            row["structure"],
            f"{row['finite_differences']:.1e} "
            f"{'passed' if row['finite_differences'] <= BOUND else 'FAILED'}",
            f"{1e3 * row['rotation']:.3g} ({row['rotation'] / max(row['force'], 1e-30):.1%})",
            f"{1e3 * row['drift']:.3g}",
            f"{1e3 * row['ripple']:.3g}",
        )
        for row in rows
    ]
    print_table(f"Self-test of forces, the slopes of {energy}", header, cells)


def draw(path: pathlib.Path, rows: list[Json]) -> None:
    """Plots total and potential energy of the dynamics, relative to the initial total energy."""
    figure = empty_figure(7, 2.6 * len(rows))
    for axes, row in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        for key, colour in (("potential", GREY), ("total", BLUE)):
            energy = 1e3 * (np.array(row[key]) - row["total"][0])
            axes.plot(row["times"], energy, color=colour, lw=1, label=key)
        axes.set(xlabel="time [fs]", ylabel="energy [meV]", title=row["structure"])
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    PROGRAM.run(main)
