"""Measures which variants tell n-fold structures, and k-chains, from their look-alikes.

    python -m experiments.expressiveness --json=expressiveness.json --plot=expressiveness.png

A single strictly equivariant layer of degree L cannot tell a centre with n > L neighbours on a
circle from the same structure turned (Joshi et al. 2023); the learned pathway can. Success rates
are over seeds, each a model trained on the two structures alone. The rates for k-chains go to
FILE.chains.json. The same command resumes an interrupted one from both files.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import program

TRAININGS = flags.DEFINE_integer("trainings", 10, "N, of each kind, each with its own seed")
DEGREES = flags.DEFINE_list("degrees", list("123456"), "L, maximum degrees")
FOLDS = flags.DEFINE_list("folds", list(map(str, range(2, 11))), "N, numbers of neighbours")

PROGRAM = program.Program(str(__doc__), [], [program.JSON, program.PLOT], resumes=True)
if __name__ == "__main__":
    PROGRAM.begin()


from experiments.configs import ablations
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import expressiveness
from hdgnn_jax.files import write_atomically
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training.plots import empty_figure
from hdgnn_jax.training.tables import print_table
from hdgnn_jax.types import Json

VARIANTS = ("baseline", "fully_tp", "linear", "so2")
CHAIN = 4
"""Atoms between the ends of a chain."""


def model_of(variant: str, degree: int, layers: int) -> HDGNN:
    """A small model with a sphere so fine that aliasing cannot tell structures apart."""
    fields: Json = {"m_max": 1, **ablations.VARIANTS[variant]}
    hyper = HyperParameters(
        elements=(1, 6), cutoff=expressiveness.CUTOFF, degree=degree, layers=layers, channels=8,
        hidden=16, invariant_channels=8, edge_channels=8, n_gaussians=16, neighbors=2.0,
        product_degree=degree, sphere_error=1e-5, **fields,
    )  # fmt: skip
    return HDGNN(hyper)


def main() -> None:
    """The program."""
    PROGRAM.resumes = program.JSON.value is not None
    run(
        numbers(DEGREES), numbers(FOLDS), TRAININGS.value,
        program.JSON.value, program.PLOT.value,
    )  # fmt: skip


def numbers(holder: flags.FlagHolder[list[str]]) -> list[int]:
    """The values of a flag, each once, in ascending order.

    Raises:
      InputError: naming the flag, where it does not hold numbers.
    """
    try:
        found = sorted({int(text) for text in holder.value})
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--{holder.name} must be numbers with commas, not {holder.value!r}")
    return found


def run(
    all_degrees: Sequence[int], folds: Sequence[int], seeds: int, file: str | None, plot: str | None
) -> None:
    """Trains what the files lack, prints the tables and draws the plot.

    Raises:
      InputError: where a number is too small.
    """
    if min(folds) < 2 or min(all_degrees) < 1 or seeds < 1:
        raise InputError("--folds must be at least 2, --degrees and --trainings at least 1")
    path = pathlib.Path(file) if file else None
    rows, chains = Rates(path), Rates(path.with_suffix(".chains.json") if path else None)
    layers = range(1, CHAIN // 2 + 3)
    asked: list[Json] = [
        {"variant": variant, "L": degree, "n": n, "seeds": seeds}
        for degree in all_degrees for variant in VARIANTS for n in folds
    ]  # fmt: skip
    asked_chains: list[Json] = [
        {"variant": variant, "k": CHAIN, "layers": depth, "seeds": seeds}
        for variant in VARIANTS for depth in layers
    ]  # fmt: skip
    with progress_bar("trainings") as progress:
        task = progress.add_task("trainings", total=seeds * (len(asked) + len(asked_chains)))
        for at in range(0, len(asked), len(folds)):
            group = asked[at : at + len(folds)]
            missing = [key for key in group if not rows.find(key)]
            if missing:
                model = model_of(group[0]["variant"], group[0]["L"], 1)
                pairs = [
                    expressiveness.n_fold(key["n"], s) for key in missing for s in range(seeds)
                ]
                done = expressiveness.told_apart(model, pairs, seed=0).reshape(-1, seeds)
                rows.add(missing, done.mean(1))
            progress.advance(task, seeds * len(group))
        for key in asked_chains:
            if not chains.find(key):
                pairs = [expressiveness.k_chain(CHAIN)] * seeds
                model = model_of(key["variant"], 1, key["layers"])
                done = expressiveness.told_apart(model, pairs, seed=0, invariant=True)
                chains.add([key], [done.mean()])
            progress.advance(task, seeds)
    found = [rows.find(key) for key in sorted(asked, key=lambda k: VARIANTS.index(k["variant"]))]
    print_rates("n-fold structures, one layer: success, %", found, "L", "n")
    found_chains = [chains.find(key) for key in asked_chains]
    print_rates(f"{CHAIN}-chains, L = 1: success, %", found_chains, "variant", "layers")
    if plot:
        draw(pathlib.Path(plot), found)


class Rates:
    """Success rates, stored in a file that is written after each addition."""

    def __init__(self, path: pathlib.Path | None):
        """Reads the rates of an earlier call.

        Raises:
          InputError: where the file holds something else.
        """
        self.path, self.rows = path, []
        if path is not None and path.exists():
            self.rows = program.read_json(path, list)
            if not all(isinstance(row, dict) and "success_rate" in row for row in self.rows):
                raise InputError(f"{path} does not hold success rates: choose another --json")

    def find(self, key: Json) -> Json:
        """The row with these values; empty if it does not exist."""
        return next((row for row in self.rows if key.items() <= row.items()), {})

    def add(self, keys: Sequence[Json], rates: Sequence[float]) -> None:
        """Adds rows and writes the file."""
        self.rows += [
            {**key, "success_rate": float(rate)} for key, rate in zip(keys, rates, strict=True)
        ]
        if self.path is not None:
            lines = ",\n".join(f" {json.dumps(row)}" for row in self.rows)
            write_atomically(self.path, f"[\n{lines}\n]\n".encode())


def print_rates(title: str, rows: Sequence[Json], down: str, across: str) -> None:
    """Prints a table with a row per variant and `down`, and a column per `across`."""
    names = ["variant"] if down == "variant" else ["variant", down]
    columns = sorted({row[across] for row in rows})
    rates: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in names)
        rates.setdefault(key, []).append(f"{100 * row['success_rate']:.0f}")
    header = [*names, *(f"{across} = {c}" for c in columns)]
    print_table(title, header, [(*key, *cells) for key, cells in rates.items()])


def draw(path: pathlib.Path, rows: Sequence[Json]) -> None:
    """Plots success against L and n, a panel for each variant."""
    figure = empty_figure(3.2 * len(VARIANTS), 3.4)
    for axes, variant in zip(figure.subplots(1, len(VARIANTS)), VARIANTS, strict=True):
        mine = [row for row in rows if row["variant"] == variant]
        l, n = (sorted({row[name] for row in mine}) for name in ("L", "n"))
        rates = [[row["success_rate"] for row in mine if row["L"] == degree] for degree in l]
        axes.imshow(rates, vmin=0, vmax=1, origin="lower", cmap="Blues")
        axes.set(title=variant, xlabel="n", ylabel="L")
        axes.set_xticks(range(len(n)), n)
        axes.set_yticks(range(len(l)), l)
        for at, line in enumerate(rates):
            for place, rate in enumerate(line):
                axes.text(place, at, f"{100 * rate:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if rate > 0.6 else "black")  # fmt: skip
    figure.savefig(path)


if __name__ == "__main__":
    PROGRAM.run(main)
