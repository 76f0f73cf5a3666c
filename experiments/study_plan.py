"""The runs of a study: variants x sizes of the training set x seeds x targets, with one budget.

Targets are QM9's, and `relaxed_energy` on the stand-in for IS2RE (`experiments.prepare slabs`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from experiments import program
from experiments.configs import ablations, is2re, qm9
from hdgnn_jax.data import splits
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.data.targets import RELAXED_ENERGY
from hdgnn_jax.errors import InputError
from hdgnn_jax.types import Json

BASELINE = "baseline"
SIZE = {
    "model.degree": 1,
    "model.product_degree": 1,
    "model.layers": 2,
    "model.channels": 32,
    "model.update_channels": 32,
    "model.sphere_order": 5,
}
"""Fields of all runs that differ from `ablations.py`: QM9's steps take 50 to 120 ms on one core."""
QUICK = "quick"
"""The variant that is `quick` of the target's config, network included: what a user would train."""
VALIDATIONS = 4


class Run(NamedTuple):
    """One training. `size`: number of training structures; `folder`: as `train` leaves it."""

    target: str
    size: int
    variant: str
    seed: int
    folder: pathlib.Path

    @property
    def title(self) -> str:
        """What tells it from the other runs."""
        return f"{self.target}, {self.size:,} structures, {self.variant}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Its name in the study's record."""
        return f"{self.target}/{self.size}/{self.variant}/{self.seed}"

    @property
    def measured_file(self) -> pathlib.Path:
        """The file of what `study.measure` found."""
        return self.folder / "report" / "measured.json"

    @property
    def trained(self) -> bool:
        """Whether it has its report."""
        return (self.folder / "report" / "summary.json").exists()

    @property
    def finished(self) -> bool:
        """Whether it has its report, and what the study measures besides."""
        return self.trained and self.measured_file.exists()

    def read(self, file: str) -> Json:
        """The content of a file of its report."""
        return program.read_json(self.folder / "report" / file, dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Attributes:
      workdir: folder of all runs.
      targets: names of QM9's targets, or `relaxed_energy`.
      sizes: numbers of training structures, ascending.
      variants: names of `ablations.get_config`, or `quick`; `baseline` first.
      seeds: number of runs of each variant, size and target.
      steps: number of steps of each run.
    """

    workdir: pathlib.Path
    targets: tuple[str, ...]
    sizes: tuple[int, ...]
    variants: tuple[str, ...]
    seeds: int
    steps: int

    def check(self) -> None:
        """Stops before a training where a run could not be made or compared.

        Raises:
          InputError: for a wrong variant, target, size or number of seeds; `relaxed_energy` must be
            alone, since its structures are others.
        """
        different = len({*self.variants}) == len(self.variants) > 1
        if self.variants[:1] != (BASELINE,) or not different:
            raise InputError("--variants must begin with baseline and name another, each once")
        if not self.targets:
            raise InputError("--targets must name one or more")
        if self.seeds < 2:
            raise InputError("--seeds must be at least 2: one run has no interval")
        most = len(splits.split("standard").train)
        ascend = list(self.sizes) == sorted({*self.sizes})
        if not self.sizes or not ascend or not 0 < self.sizes[0] <= self.sizes[-1] <= most:
            raise InputError(
                f"--sizes must be numbers of training structures that ascend, up to {most:,}"
            )
        for name in self.variants:
            if name != QUICK:
                ablations.get_config(name)
        if self.targets != (RELAXED_ENERGY.name,):
            QM9("standard").chosen(self.targets)

    def check_data(self) -> None:
        """Raises an HDGNNError, before any training, where the slabs are not there, or too few."""
        if self.targets == (RELAXED_ENERGY.name,):
            config = self.config(self.run(RELAXED_ENERGY.name, self.sizes[-1], BASELINE, 0))
            dataset(config).part("train", RELAXED_ENERGY.name)

    def runs(self) -> Iterator[Run]:
        """All runs; seeds come last, so that the first ones have everything once."""
        fields = range(self.seeds), self.targets, self.sizes, self.variants
        for seed, target, size, variant in itertools.product(*fields):
            yield self.run(target, size, variant, seed)

    def run(self, target: str, size: int, variant: str, seed: int) -> Run:
        """One of the runs."""
        folder = self.workdir / target / str(size) / variant / str(seed)
        return Run(target, size, variant, seed, folder)

    def of(self, target: str, size: int, variant: str) -> list[Run]:
        """The runs that differ in their seed alone, in its order."""
        return [self.run(target, size, variant, seed) for seed in range(self.seeds)]

    def config(self, run: Run) -> Json:
        """The config of one run."""
        of_slabs = run.target == RELAXED_ENERGY.name
        usual = (is2re if of_slabs else qm9).get_config("quick")
        every = max(self.steps // VALIDATIONS, 1)
        if run.variant != QUICK:
            # As in the paper, where every atom sees neighbours.
            usual.model.neighborhood = "cutoff"
            ablations.vary(usual, run.variant).update_from_flattened_dict(SIZE)
        usual.update_from_flattened_dict({
            "training.steps": self.steps,
            "training.validate_every": every,
            "training.first_validation": every,
            "data.train_size": run.size,
            "target": run.target,
            "seed": run.seed,
        })  # fmt: skip
        plain: Json = json.loads(usual.to_json())
        return plain
