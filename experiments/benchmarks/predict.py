"""Predictions of many molecules in batches, against the same one by one."""

from __future__ import annotations

import time

import numpy as np

from experiments.benchmarks import workloads
from experiments.benchmarks.report import Report
from experiments.predict import Options, Row, fill
from experiments.problem import Problem
from hdgnn_jax.graphs.batching import choose_budgets
from hdgnn_jax.predict import Predictor


def run(report: Report) -> dict[str, float]:
    """The `quick` model with fresh weights, on one device; compilation is not counted."""
    config = workloads.config_of("quick")
    molecules = workloads.training_molecules(config, 40 if report.quick else 4000)
    problem, mesh = Problem.from_training_set(config, molecules), workloads.mesh()
    nodes, edges = molecules.structures.n_atoms, molecules.neighbors.n_edges
    size = 8 if report.quick else config["training"]["batch_size"]
    whole = len(nodes) // size * size
    (budget,) = choose_budgets(
        nodes[:whole].reshape(-1, size).sum(1), edges[:whole].reshape(-1, size).sum(1), size, 1
    )
    predictor = Predictor(
        problem.model, problem.init_state(mesh).params, problem.reference, problem.target.name,
        problem.target.unit, budget, mesh, problem.domain,
    )  # fmt: skip
    structures = [molecules.structures[k] for k in range(len(molecules.structures))]

    def rate(groups: list[list[int]]) -> float:
        """Molecules per second, checks and warnings included, as the program predicts them."""
        rows = [[Row("", [structures[k]]) for k in group] for group in groups]
        began = time.perf_counter()
        for of_group in rows:
            fill(of_group, [predictor], [], Options(), lambda n: None)
        return sum(map(len, groups)) / (time.perf_counter() - began)

    everything = [list(range(len(structures)))]
    single = [[k] for k in range(10 if report.quick else 400)]
    rate(single), rate(everything)
    rounds = [(rate(everything), rate(single)) for _ in range(1 if report.quick else 3)]
    batched, alone = np.median(rounds, axis=0).tolist()
    ratio = float(np.median([a / b for a, b in rounds]))

    results = {
        "predict_batched_per_second": batched,
        "predict_alone_per_second": alone,
        "predict_batched_over_alone": ratio,
    }
    report.table("Prediction, molecules per second", ["", ""], list(results.items()))
    return results
