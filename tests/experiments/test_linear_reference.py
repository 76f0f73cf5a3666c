"""A run on what the linear model leaves predicts the whole, however it is asked."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from experiments import train
from experiments.problem import Predictor as OfProblem
from experiments.problem import Problem, best_results, linear_reference, part
from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.targets import Reference
from hdgnn_jax.predict import Predictor
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def of_linear(config):
    new = copy.deepcopy(config)
    new["data"]["reference"] = "linear"
    new["training"]["auxiliary"] = True
    return new


@pytest.fixture(scope="module")
def workdir(of_linear, once):
    def make(folder):
        train.run(of_linear, folder / "linear")
        return folder / "linear"

    return once("linear", make)


def test_the_network_learns_what_the_linear_model_leaves(of_linear):
    molecules = part(of_linear, "train")
    problem, learned = Problem.fitted(of_linear, molecules)
    fit = problem.baselines["linear"]
    assert problem.reference.linear == fit.linear
    left = molecules.raw - fit.energies(molecules.structures, molecules.neighbors) / (
        problem.reference.factor
    )
    # Energies of atoms, of a thousand Hartree, were in neither.
    np.testing.assert_allclose(learned.raw, left, rtol=0, atol=1e-5)
    standardised = problem.reference.standardise(molecules.structures, learned.raw)
    assert np.mean(standardised**2) == pytest.approx(1)
    again = problem.to_learn(molecules)
    np.testing.assert_allclose(again.raw, learned.raw, rtol=0, atol=1e-5)
    record = json.loads(json.dumps(problem.record()))
    assert Problem.from_record(record).reference == problem.reference
    assert Reference.from_dict(record["reference"]) == problem.reference


def test_all_ways_to_predict_have_the_linear_model_in_them(workdir):
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert summary["mae_linear"] < summary["mae_mean_predictor"]
    mesh = step.make_mesh()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        inside = OfProblem.from_record(checkpoints.record("best"), mesh)
        (result,) = best_results(checkpoints, inside, ["validation"])
    assert result.mae == summary["splits"]["validation"]["mae"]
    predictor = Predictor.load(workdir)
    structures = part(inside.problem.config, "validation").structures.take(np.arange(40))
    found, spread = predictor(structures), np.ptp(result.truth)
    np.testing.assert_allclose(found, result.prediction[:40], rtol=0, atol=1e-6 * spread)
    energies = predictor.derivatives(structures).value * 1000
    np.testing.assert_allclose(energies, found, rtol=0, atol=1e-6 * spread)
    rolls = predictor.of_rolls(structures, 1)[0]
    np.testing.assert_allclose(rolls, found, rtol=0, atol=1e-6 * spread)
    bare = dataclasses.replace(
        predictor, reference=dataclasses.replace(predictor.reference, linear=None)
    )
    assert np.abs(bare(structures) - found).max() > 1


def test_the_report_says_where_a_linear_model_is_better(workdir):
    report = (workdir / "report" / "report.md").read_text()
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    worse = summary["mae"] >= summary["mae_linear"]
    assert ("A linear model is better on the test split" in report) == worse


def test_the_auxiliary_target_is_what_the_composition_leaves(of_linear):
    molecules = part(of_linear, "train")
    problem, learned = Problem.fitted(of_linear, molecules)
    both = problem.training_targets(molecules, learned)
    usual = problem.reference.standardise(molecules.structures, learned.raw)
    np.testing.assert_array_equal(both[:, 0], usual)
    fit = Composition.fit(molecules.structures, molecules.raw, of_linear["model"]["elements"])
    left = molecules.raw - fit.predict(molecules.structures)
    np.testing.assert_allclose(both[:, 1], left / left.std(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("target", "rank"), [("mu", 0), ("r2", 0), ("polarizability", 2)])
def test_what_is_no_sum_over_atoms_has_no_linear_reference(of_linear, target, rank):
    """Nor an auxiliary output: the same config serves all targets."""
    assert not linear_reference({**of_linear, "target": target})
    assert linear_reference({**of_linear, "target": "gap"})
    if rank == 0:
        asked = {**of_linear, "target": target}
        problem = Problem.from_training_set(asked, part(asked, "train").first(50))
        assert problem.reference.linear is None
        assert not problem.model.auxiliary
