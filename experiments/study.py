"""Trains variants x training-set sizes x seeds x targets with one budget; compares them on a page.

    python -m experiments.study --workdir=runs/study --page=experiments/results/study.md

Each run is a folder in --workdir, as `experiments.train` leaves it. The same command resumes an
interrupted one. Several commands can share the work, each on its own cores: --share=0/2 and
--share=1/2. The page, WORKDIR/study.md if --page does not name it, has a JSON file beside it, the
record of finished runs: they are not trained again, even on a machine without their folders. Every
command writes the page, with its plots, at its end, from the seeds whose runs are all finished.
Commands on several machines need one folder for the page, or their runs' folders side by side.
What error against training molecules looks like:

    python -m experiments.study --workdir=runs/study --page=experiments/results/sizes.md \\
        --targets=gap --variants=baseline,so2,fully_tp,linear --sizes=1000,3000,10000,30000,110000
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import program

VARIANTS = (
    "baseline", "linear", "fully_tp", "unrestricted", "so2", "softmax", "equal_weights",
    "learned_weights", "no_layer_norm", "extra_linear", "unshared_mlp", "nn_of_rotated",
)  # fmt: skip
TURNED, TRAINED = 512, 2000
"""Numbers of structures, the first of each part: of a test part also predicted after a random
rotation, and of the training set for the error there."""
ATTENDED = 64
"""Number of the first test structures on whose edges the weights of eq. 11 are averaged."""

LIST = flags.DEFINE_list(
    "variants", list(VARIANTS), "NAMES in ablations.py, or quick; baseline first"
)
TARGETS = flags.DEFINE_list(
    "targets", ["alpha", "gap"], "NAMES of targets of QM9, or relaxed_energy of the slabs"
)
SIZES = flags.DEFINE_list("sizes", ["30000"], "N,..., numbers of training structures")
STEPS = flags.DEFINE_integer("steps", 4000, "N, steps of each run", lower_bound=1)
SHORTER = flags.DEFINE_string(
    "shorter", None, "FILE.json, the record of this study with fewer steps, to compare with"
)
SHARE = flags.DEFINE_string("share", "0/1", "K/N: train every Nth run, from run K on")

PROGRAM = program.Program(
    str(__doc__), [program.WORKDIR], [program.PAGE, program.SEEDS], resumes=True,
)
if __name__ == "__main__":
    PROGRAM.begin()

import jax

from experiments import study_page, train
from experiments.study_plan import BASELINE, Plan, Run
from experiments.study_record import Record, alone
from hdgnn_jax import cpu
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation.attention import attention_weights
from hdgnn_jax.files import write_json
from hdgnn_jax.graphs import batching
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.results import predicted, restored, rotation_error
from hdgnn_jax.training.metrics import read_metrics
from hdgnn_jax.types import Json


def main() -> None:
    """The program."""
    seeds = 3 if program.SEEDS.value is None else program.SEEDS.value
    try:
        sizes = tuple(map(int, SIZES.value))
    except ValueError:
        sizes = ()  # refused by `Plan.check`
    plan = Plan(
        program.workdir(), tuple(TARGETS.value), sizes, tuple(LIST.value), seeds, STEPS.value
    )
    page = pathlib.Path(program.PAGE.value or plan.workdir / "study.md")
    shorter = Record(pathlib.Path(SHORTER.value)) if SHORTER.value else None
    with train.saying_that_it_stopped():
        run(plan, SHARE.value, page, shorter)


def run(plan: Plan, share: str, page: pathlib.Path, shorter: Record | None = None) -> None:
    """Trains the missing runs of this call's share; writes record and page of the finished ones.

    Raises:
      InputError: for a wrong share or plan, or a page whose JSON file is no record.
      CheckpointError: where a run, or the record, has another config than the plan, or the
        `shorter` one differs in more than its steps. All come before any training.
      Other errors as `train.run` does.
    """
    try:
        first, every = map(int, share.split("/"))
    except ValueError:
        first, every = 0, 0
    if not 0 <= first < every:
        raise InputError(f"--share must be K/N with K < N, as 0/2, not {share!r}")
    plan.check()
    if shorter is not None:
        shorter.read(plan)
    record = Record(page.with_suffix(".json"))
    record.gather(plan)
    runs = list(plan.runs())
    mine = runs[first::every]
    if any(one not in record for one in mine):
        plan.check_data()
    for count, one in enumerate(mine, start=1):
        if one in record:
            continue
        if not one.trained:
            print(f"\n{count} of {len(mine)}: {one.title}")
            config = plan.config(one)
            with train.stop_on_signals(config) as stop:
                train.run(config, one.folder, stop)
        measure(one)
        record.gather(plan)
        # A hundred compiled programs would take some GiB.
        jax.clear_caches()
        cpu.release()
    missing = [one for one in runs if one not in record]
    if missing:
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished; first missing: "
              f"{missing[0].folder}")  # fmt: skip
    with alone(record.file):
        study_page.write(page, plan, record, shorter)


def measure(run: Run) -> None:
    """Measures what a finished run's report has not, with the best weights on validation.

    That is the error on training structures and the rotation error on the first test part (columns
    of the paper's Table 4), and of the baseline the weights of eq. 11.
    """
    task, predictor = restored(run.folder)
    turned = task.examples(task.data.first_test).first(TURNED)
    (error,) = rotation_error(task, predictor, turned, run.seed).values()
    known = task.examples("train").first(TRAINED)
    (of_known,) = predicted("train", task, predictor, known).values()
    content: Json = {"rotation_error": error, "train_mae": of_known.mae}
    if run.variant == BASELINE:
        content["attention"] = attention(run, predictor, turned.first(ATTENDED))
    write_json(run.measured_file, content)


def attention(run: Run, predictor: Predictor, examples: Examples) -> Json:
    """The learned weights of eq. 11: see `study_record.Result.attention`."""
    graph = batching.one_graph(examples.structures, examples.neighbors)
    weights = attention_weights(predictor.model, predictor.params, graph)
    names = [f"attention_{n}" for n in range(1, len(weights["terms"]) + 1)]
    rows = [row for row in read_metrics(run.folder) if names[0] in row]
    return {
        **weights,
        "steps": [row["step"] for row in rows],
        "means": [[row[name] for name in names] for row in rows],
    }


if __name__ == "__main__":
    PROGRAM.run(main)
