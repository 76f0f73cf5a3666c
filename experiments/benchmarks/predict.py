"""Compares predictions of many molecules in batches with predictions one by one.

Single molecules are predicted in two ways: in the shape of the batches, at the cost of a whole
batch each time, and in the small shape that `Predictor` chooses for a single structure.
"""

from __future__ import annotations

import time

import numpy as np

from experiments.benchmarks import workloads
from experiments.benchmarks.report import Report
from hdgnn_jax.graphs.batching import choose_budgets
from hdgnn_jax.inference import batches
from hdgnn_jax.inference.predicted_rows import Options, fill, prepare
from hdgnn_jax.inference.rows import Row
from hdgnn_jax.training import step


def run(report: Report) -> dict[str, float]:
    """Times the `quick` model with fresh weights, on one device; compilation is not counted."""
    config = workloads.config_of("quick")
    molecules = workloads.training_molecules(config, 40 if report.quick else 4000)
    task, mesh = workloads.task_of(config, molecules), workloads.mesh()
    nodes, edges = molecules.structures.n_atoms, molecules.neighbors.n_edges
    size = 8 if report.quick else config["training"]["batch_size"]
    whole = len(nodes) // size * size
    (budget,) = choose_budgets(
        nodes[:whole].reshape(-1, size).sum(1), edges[:whole].reshape(-1, size).sum(1), size, 1
    )
    predictor = task.predictor(task.init_state(mesh).params, budget, mesh)
    structures = [molecules.structures[k] for k in range(len(molecules.structures))]

    def rate(groups: list[list[int]]) -> float:
        """Molecules per second as the program predicts them, with checks and warnings."""
        rows = [[Row("", [structures[k]]) for k in group] for group in groups]
        began = time.perf_counter()
        for of_group in rows:
            (graphs,) = prepare(of_group, [("", predictor)])
            fill(of_group, [(predictor, graphs)], Options(), batches.nobody)
        return sum(map(len, groups)) / (time.perf_counter() - began)

    everything = [list(range(len(structures)))]
    single = [[k] for k in range(10 if report.quick else 400)]
    apply = step.make_predict_step(predictor.model.apply, mesh)

    def rate_in_budget() -> float:
        """Molecules per second, each alone in a batch of the fixed shape, without checks.

        The program's checks and warnings would make it slower still.
        """
        began = time.perf_counter()
        for at in np.array(single):
            alone = batches.Batches(molecules.take(at), budget, step.sharded(mesh))
            batches.predict(apply, predictor.params, alone)
        return len(single) / (time.perf_counter() - began)

    def once() -> tuple[float, float, float]:
        return rate(everything), rate(single), rate_in_budget()

    once()
    rounds = [once() for _ in range(1 if report.quick else 3)]
    batched, alone, in_budget = np.median(rounds, axis=0).tolist()

    results = {
        "predict_batched_per_second": batched,
        "predict_alone_per_second": alone,
        "predict_batched_over_alone": float(np.median([a / b for a, b, _ in rounds])),
        "predict_in_budget_per_second": in_budget,
        "predict_batched_over_in_budget": float(np.median([a / c for a, _, c in rounds])),
    }
    report.table("Prediction, molecules per second", ["", ""], list(results.items()))
    return results
