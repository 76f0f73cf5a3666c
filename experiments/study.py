"""Trains variants x seeds x targets with one small budget, and compares them on one page.

    python -m experiments.study --workdir=runs/study --page=experiments/results/study.md

Each run is a folder in --workdir, as `experiments.train` leaves it. The same command resumes an
interrupted one. Several commands can share the work, each on its own cores: --share=0/2 and
--share=1/2. The command that finds all runs finished writes the page, with its plot and its JSON
beside it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator

from absl import flags

from experiments import program

VARIANTS = (
    "baseline", "linear", "fully_tp", "unrestricted", "softmax", "equal_weights",
    "learned_weights", "no_layer_norm", "extra_linear", "unshared_mlp", "nn_of_rotated",
)  # fmt: skip
SIZE = {
    "data.train_size": 8000,
    "model.layers": 2,
    "model.channels": 8,
    "model.hidden": 16,
    "training.steps": 400,
    "training.validate_every": 400,
    "training.first_validation": 400,
    "training.n_budgets": 1,
}
"""Fields that differ from `ablations.py`: the same budget for all variants."""

TURNED = 512
"""Number of test molecules, the first, that are also predicted after a random rotation."""

LIST = flags.DEFINE_list("variants", list(VARIANTS), "NAMES in ablations.py, baseline first")
TARGETS = flags.DEFINE_list("targets", ["U0", "gap"], "NAMES of targets of QM9")
STEPS = flags.DEFINE_integer("steps", SIZE["training.steps"], "N, steps of each run")
SHARE = flags.DEFINE_string("share", "0/1", "K/N: train every Nth run, from run K on")

PROGRAM = program.Program(str(__doc__), [program.WORKDIR], [program.PAGE, program.SEEDS])
if __name__ == "__main__":
    PROGRAM.begin()

import jax

from experiments import study_page, train
from experiments.configs import ablations
from hdgnn_jax import cpu
from hdgnn_jax.data.targets import find_target
from hdgnn_jax.errors import InputError
from hdgnn_jax.run.results import restored, rotation_error
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import write_atomically
from hdgnn_jax.types import Json


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Attributes:
      workdir: folder of all runs.
      variants: names in `ablations.VARIANTS`, `baseline` first.
      targets: names of QM9's targets.
      seeds: number of runs of each variant and target.
      steps: number of steps of each run.
    """

    workdir: pathlib.Path
    variants: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: int
    steps: int

    def runs(self) -> Iterator[tuple[str, str, int, pathlib.Path]]:
        """Yields target, variant, seed and folder; seeds come last, so a part has all variants."""
        for seed in range(self.seeds):
            for target in self.targets:
                for variant in self.variants:
                    yield target, variant, seed, self.workdir / target / variant / str(seed)

    def config(self, target: str, variant: str, seed: int) -> Json:
        """The config of one run."""
        config = ablations.get_config(variant)
        config.update_from_flattened_dict(
            {**SIZE, "training.steps": self.steps, "target": target, "seed": seed}
        )
        plain: Json = json.loads(config.to_json())
        return plain


def main() -> None:
    """The program."""
    seeds = 3 if program.SEEDS.value is None else program.SEEDS.value
    plan = Plan(program.workdir(), tuple(LIST.value), tuple(TARGETS.value), seeds, STEPS.value)
    run(plan, SHARE.value, pathlib.Path(program.PAGE.value) if program.PAGE.value else None)


def run(plan: Plan, share: str, page: pathlib.Path | None) -> None:
    """Trains the missing runs of this call's share; writes the page if all runs are finished.

    Raises:
      InputError: for a wrong share, variant, target or number of seeds, before any training.
      Other errors as `train.run` does.
    """
    try:
        first, every = map(int, share.split("/"))
    except ValueError:
        first, every = 0, 0
    if not 0 <= first < every:
        raise InputError(f"--share must be K/N with K < N, as 0/2, not {share!r}")
    if plan.variants[:1] != (study_page.BASELINE,) or not plan.targets:
        raise InputError("--variants must begin with baseline, and --targets name one or more")
    if plan.seeds < 2:
        raise InputError("--seeds must be at least 2: one run has no interval")
    for name in plan.targets:
        find_target(name)
    runs = list(plan.runs())
    configs = [plan.config(target, variant, seed) for target, variant, seed, _ in runs]
    for config, (*_, folder) in zip(configs, runs, strict=True):
        if study_page.trained(folder):
            card = json.loads((folder / "report" / "card.json").read_text())
            train.refuse_other_config(card["config"], config, folder, of_both=True)
    mine = range(first, len(runs), every)
    for count, at in enumerate(mine, start=1):
        target, variant, seed, folder = runs[at]
        if not study_page.trained(folder):
            print(f"\n{count} of {len(mine)}: {target}, {variant}, seed {seed}")
            train.run(configs[at], folder)
        if not study_page.finished(folder):
            measure(folder, seed)
        # A hundred compiled programs would take some GiB.
        jax.clear_caches()
        cpu.release()
    missing = [folder for *_, folder in runs if not study_page.finished(folder)]
    if missing:
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished; first missing: "
              f"{missing[0]}")  # fmt: skip
    elif page is not None:
        study_page.write(page, plan.workdir, plan.targets, plan.variants, plan.seeds)


def measure(folder: pathlib.Path, seed: int) -> None:
    """Measures and writes the rotation error of a finished run's best weights on test molecules."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        task, predictor = restored(checkpoints)
    (error,) = rotation_error(task, predictor, task.examples("test").first(TURNED), seed).values()
    content = json.dumps({"rotation_error": error, "molecules": TURNED}) + "\n"
    write_atomically(study_page.rotation_file(folder), content.encode())


if __name__ == "__main__":
    PROGRAM.run(main)
