"""Trains HDGNN on QM9.

    python -m experiments.train --config=experiments/configs/qm9.py:quick --workdir=runs/quick

Any field of the config can be set: --config.target=gap --config.model.channels=32. The same command
goes on with a run that was interrupted. What a run leaves in its folder: checkpoints/,
metrics.jsonl and TensorBoard curves, report/.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import program
from experiments.problem import Molecules, Problem, part
from hdgnn_jax.data import splits
from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import loop, step
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints
from hdgnn_jax.training.metrics import MetricWriter, read_metrics
from hdgnn_jax.training.optimizer import make_optimizer
from hdgnn_jax.training.report import print_table, reproduction_card, write_report

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: FILE.py or FILE.py:VARIANT")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, new or to be continued")


def main(argv: Sequence[str]) -> None:
    """The program."""
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}")
    run(json.loads(CONFIG.value.to_json()), pathlib.Path(WORKDIR.value))


def run(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Trains, validates, tests and reports; goes on where an earlier call stopped.

    Args:
      config: nested, JSON-able; see experiments/configs.
      workdir: folder of the run.

    Raises:
      ValueError, QM9Error, StructureError, CheckpointError, DivergedError: each with one line that
        says what to do.
    """
    began = time.monotonic()
    settings = config["training"]
    mesh = step.make_mesh()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        past = checkpoints.record() if checkpoints.steps() else None
        if past is not None:
            refuse_other_config(past["config"], config, workdir)

        # Data
        train, validation = part(config, "train"), part(config, "validation")
        problem = Problem.from_training_set(config, train)
        loader = Loader(
            train.structures,
            train.neighbors,
            problem.reference.standardise(train.counts, train.raw),
            settings["batch_size"],
            config["seed"],
            settings["steps"],
            mesh.size,
            settings["n_budgets"],
        )
        some = first(validation, settings["validation_size"])

        # Model
        params = problem.init_params(config["seed"], train)
        n_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        optimizer = make_optimizer(steps=settings["steps"], **config["optimizer"])
        state = step.init_state(params, optimizer, mesh)
        del params
        key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
        train_step = step.make_train_step(
            problem.model.apply, optimizer, mesh, key, settings["ema"]
        )
        predict_step = step.make_predict_step(problem.model.apply, mesh)

        # Where an interrupted run stopped
        before, resumed = 0.0, []
        if past is not None:
            restored = checkpoints.restore(state)
            state, before = restored.state, restored.record["seconds"]
            resumed = [*restored.record["resumed"], restored.step]
        start = int(state.step)

        def validate(params: step.Params) -> float:
            prediction = problem.predict(predict_step, params, some, loader.budgets[-1], mesh)
            return problem.result("validation", some, prediction).mae

        def record() -> dict[str, Any]:
            return {
                **problem.record(),
                "split_digest": splits.split(config["data"]["split"]).digest,
                "key": np.asarray(jax.random.key_data(key)).tolist(),
                "budget": [loader.budgets[-1].n_edge, loader.budgets[-1].n_node,
                           loader.budgets[-1].n_graph],
                "resumed": resumed,
                "seconds": before + time.monotonic() - began,
            }  # fmt: skip

        # Training
        steps = settings["steps"]
        print(
            f"HDGNN, {n_parameters:,} parameters, for {problem.target.name} on "
            f"{len(train.structures):,} molecules of QM9: {steps:,} steps of "
            f"{settings['batch_size']} on {mesh.size} device(s), {len(loader.budgets)} shapes, "
            f"padding efficiency {loader.padding_efficiency:.1%}"
            + (f"; goes on from step {start:,}" if start else "")
        )
        with (
            MetricWriter(workdir, start if past is not None else None) as writer,
            progress_bar("molecules") as progress,
        ):
            task = progress.add_task(
                "compiling", total=steps, completed=start, per=settings["batch_size"]
            )

            def show(done: int, loss: float, mae: float | None) -> None:
                text = f"loss {loss:.4f}"
                if mae is not None:
                    text += f", validation {mae:.4g} {problem.target.unit}"
                progress.update(task, completed=done, description=text)

            state = loop.train(
                state,
                prefetch(loader.batch, start, steps, step.sharded(mesh)),
                train_step,
                steps=steps,
                log_every=settings["log_every"],
                validate_at=validations(settings),
                validate=validate,
                save=lambda state, at, mae: checkpoints.save(at, state, record(), mae),
                writer=writer,
                show=show,
            )
        compilations = train_step._cache_size()

        # Report, from the weights that were best on validation
        best = checkpoints.restore(state, "best")
        results = []
        for name, molecules in (("validation", validation), ("test", part(config, "test"))):
            prediction = problem.predict(
                predict_step, best.state.ema, molecules, loader.budgets[-1], mesh, name
            )
            results.append(problem.result(name, molecules, prediction))
    seconds = before + time.monotonic() - began
    write_report(
        workdir / "report",
        target=problem.target.name,
        unit=problem.target.unit,
        results=results,
        history=read_metrics(workdir),
        paper=problem.target.paper_mae,
        run={
            "seconds": seconds,
            "compilations": compilations,
            "padding_efficiency": loader.padding_efficiency,
            "parameters": n_parameters,
        },
        card=reproduction_card(
            config,
            seed=config["seed"],
            split_digest=splits.split(config["data"]["split"]).digest,
            parameters=n_parameters,
            seconds=seconds,
            resumed=resumed,
        ),
    )
    print_table(
        results, target=problem.target.name, unit=problem.target.unit, paper=problem.target.paper_mae
    )
    print(f"{seconds:.0f} s, {compilations} compilations; report in {workdir / 'report'}")


def validations(settings: Mapping[str, Any]) -> set[int]:
    """Steps after which to validate: an early one, then at equal distances, and the last."""
    every, steps = settings["validate_every"], settings["steps"]
    return {settings["first_validation"], *range(every, steps, every), steps}


def first(molecules: Molecules, n: int) -> Molecules:
    """The first n molecules."""
    rows = np.arange(min(n, len(molecules.structures)))
    return Molecules(
        molecules.structures.take(rows),
        molecules.neighbors.take(rows),
        molecules.counts[rows],
        molecules.raw[rows],
    )


def refuse_other_config(
    saved: Mapping[str, Any], asked: Mapping[str, Any], workdir: pathlib.Path
) -> None:
    """Stops before a run is continued with other settings than it began with.

    Raises:
      CheckpointError: naming the fields that differ.
    """
    old, new = flatten(saved), flatten(asked)
    differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if differing:
        shown = ", ".join(f"{k} = {old.get(k)} there, {new.get(k)} here" for k in differing[:4])
        raise CheckpointError(
            f"{workdir} holds a run with another config ({shown}): choose another --workdir"
        )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as {dotted name: value}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    program.run(main)
