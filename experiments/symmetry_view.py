"""The tables and the plot of `experiments.symmetry`."""

from __future__ import annotations

import pathlib

import numpy as np
from matplotlib.axes import Axes

from hdgnn_jax.training.plots import empty_figure
from hdgnn_jax.training.tables import print_table
from hdgnn_jax.types import Json


def show_choices(found: Json) -> None:
    """Prints the table of choices."""
    unit, mae = found["unit"], found["test_mae"]
    of_forces = found["forces_of"]
    slopes = f"slopes of {of_forces['target']}, {of_forces['unit']}/Å"
    states = [f"state {k}" for k in range(1, len(found["layers"]) + 1)]
    rows = [
        (
            choice,
            f"{row['mad']:.3g} ± {row['error']:.2g}",
            "-" if mae is None else f"{row['mad'] / mae:.1%}",
            f"{row['forces_mad']:.3g} ± {row['forces_error']:.2g}",
            *(f"{layer[choice]['relative']:.1%}" for layer in found["layers"]),
        )
        for choice, row in found["choices"].items()
    ]
    print_table(
        f"Rotation error of {found['target']}, {found['molecules']} molecules x "
        f"{found['rotations']} rotations, {found['frames']} frame(s), {found['points']} points",
        ("", f"MAD, {unit}", "of the test MAE", slopes, *states),
        rows,
    )
    print("MAD: mean |E(x) - E(Qx)|")
    if len(found["targets"]) > 1:
        show_targets(found)


def show_targets(found: Json) -> None:
    """Prints the changes of each of several targets."""
    rows = []
    for target, known in found["targets"].items():
        mae = known["test_mae"]
        cells = [row["targets"][target]["mad"] for row in found["choices"].values()]
        numbers = ["-" if mae is None else f"{mae:.3g}", *(f"{cell:.3g}" for cell in cells)]
        rows.append((target, known["unit"], *numbers))
    header = ("target", "unit", "test MAE", *found["choices"])
    print_table("MAD of each target", header, rows, left=(0, 1))


def show_attention(found: Json) -> None:
    """Prints the mean weight of each term in each layer."""
    attention = found["attention"]
    terms = [f"a{n} ({term})" for n, term in enumerate(attention["terms"], start=1)]
    rows = [
        (str(k), *(f"{mean:.3f}" for mean in layer["mean"]))
        for k, layer in enumerate(attention["layers"], start=1)
    ]
    print_table("Mean weight of each term of eq. 11", ("layer", *terms), rows)


def show_curves(found: Json) -> None:
    """Prints the rotation error against frames and points."""
    for key, title in (("against_frames", "averaged frames"), ("against_points", "points")):
        numbers = [str(row["n"]) for row in found[key]]
        errors = [f"{row['mad']:.3g} ± {row['error']:.2g}" for row in found[key]]
        print_table(f"MAD against the number of {title}", numbers, [errors], left=())


def draw(path: pathlib.Path, found: Json) -> None:
    """Plots the MAD against frames and points, with error bars, and attention by distance."""
    figure = empty_figure(13, 3.6)
    left, right, last = figure.subplots(1, 3)
    draw_attention(last, found["attention"])
    lines = (
        (left, "against_frames", "mad", "error", "rotation"),
        (right, "against_points", "mad", "error", "rotation"),
        (right, "against_points", "sphere_mad", "sphere_error", "sphere alone"),
    )
    for axes, key, value, error, label in lines:
        n, mean, bar = ([row[name] for row in found[key]] for name in ("n", value, error))
        axes.errorbar(n, mean, yerr=bar, marker="o", capsize=3, label=label)
    for axes, label in ((left, "averaged frames"), (right, "points on the sphere")):
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.grid(alpha=0.3, which="both")
        if found["test_mae"] is not None:
            axes.axhline(found["test_mae"], color="black", ls="--", lw=0.8, label="test MAE")
    for axes, key in ((left, "against_frames"), (right, "against_points")):
        n = [row["n"] for row in found[key]]
        axes.set_xticks(n, map(str, n))
        axes.minorticks_off()
    left.set_ylabel(f"mean |E(x) - E(Qx)| of {found['target']} [{found['unit']}]")
    right.legend()
    figure.savefig(path)


def draw_attention(axes: Axes, attention: Json) -> None:
    """Plots each term's weight against the distance: mean over layers, and their range."""
    limits = np.array(attention["limits"])
    layers = np.array([layer["by_distance"] for layer in attention["layers"]], float)
    there = np.array(attention["edges"]) > 0
    centres = ((limits[1:] + limits[:-1]) / 2)[there]
    for n, term in enumerate(attention["terms"]):
        of_term = layers[:, n, there]
        (line,) = axes.plot(centres, of_term.mean(0), marker=".", label=f"a{n + 1} ({term})")
        axes.fill_between(
            centres, of_term.min(0), of_term.max(0), color=line.get_color(), alpha=0.2, lw=0
        )
    axes.set(xlabel="distance [Å]", ylabel="weight: mean and range of the layers")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
