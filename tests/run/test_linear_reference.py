"""A run on what the linear model leaves predicts the whole, however it is asked."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from hdgnn_jax.data.baselines import Composition, geometry
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import OF_QM9
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.run.chosen import has_reference
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.results import restored, results
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training.loop import Memory
from hdgnn_jax.training.record import Course, Record


@pytest.fixture(scope="module")
def of_linear(config):
    new = copy.deepcopy(config)
    new["data"]["reference"] = "linear"
    new["training"]["auxiliary"] = True
    return new


def fitted(config) -> tuple[Examples, Task, Examples]:
    """The training molecules, the task, and the molecules as the network learns them."""
    data = dataset(config)
    molecules = examples(config, data, "train")
    return molecules, *Task.prepare(config, data, molecules)


def test_the_network_learns_what_the_linear_model_leaves(of_linear):
    molecules, task, learned = fitted(of_linear)
    (one,) = task.fitted
    fit, reference = one.linear, one.reference
    assert reference.linear == fit.linear
    energies = geometry([fit], molecules.structures, molecules.neighbors)[:, 0]
    left = molecules.labels["U0"] - energies / reference.factor
    # Energies of atoms, of a thousand Hartree, were in neither.
    np.testing.assert_allclose(learned.labels["U0"], left, rtol=0, atol=1e-5)
    standardised = reference.standardise(molecules.structures, learned.labels["U0"])
    assert np.mean(standardised**2) == pytest.approx(1)
    again = task.to_learn(molecules)
    np.testing.assert_allclose(again.labels["U0"], learned.labels["U0"], rtol=0, atol=1e-5)
    record = Record(
        task.config, task.model.hyper.to_dict(), task.fitted, {}, task.domain, Budget(160, 48, 9),
        task.data.digest(), Course(), Memory(),
    )  # fmt: skip
    content = json.loads(json.dumps(record.to_dict()))
    assert Task.from_record(Record.from_dict(content)) == task
    assert FittedTarget.from_dict(content["targets"][0]) == one


def test_all_ways_to_predict_have_the_linear_model_in_them(several):
    summary = json.loads((several / "report" / "U0" / "summary.json").read_text())
    assert summary["mae_linear"] < summary["mae_mean_predictor"]
    task, inside = restored(several)
    (result,) = results(task, inside, ["validation"])["U0"]
    assert result.mae == summary["splits"]["validation"]["mae"]
    predictor = Predictor.load(several)
    structures = task.examples("validation").structures.take(np.arange(40))
    found, spread = predictor(structures)["U0"], np.ptp(result.truth)
    np.testing.assert_allclose(found, result.prediction[:40], rtol=0, atol=1e-6 * spread)
    energies = predictor.derivatives(structures).value * 1000
    np.testing.assert_allclose(energies, found, rtol=0, atol=1e-6 * spread)
    rolls = predictor.of_rolls(structures, 1)["U0"][0]
    np.testing.assert_allclose(rolls, found, rtol=0, atol=1e-6 * spread)
    *others, one = predictor.fitted
    without = dataclasses.replace(one, reference=dataclasses.replace(one.reference, linear=None))
    bare = dataclasses.replace(predictor, fitted=(*others, without))
    assert np.abs(bare(structures)["U0"] - found).max() > 1


def test_the_auxiliary_target_is_what_the_composition_leaves(of_linear):
    molecules, task, learned = fitted(of_linear)
    both = task.training_targets(molecules, learned)
    structures, values = molecules.structures, molecules.labels["U0"]
    usual = task.fitted[0].reference.standardise(structures, learned.labels["U0"])
    np.testing.assert_array_equal(both[:, 0], usual)
    fit = Composition.fit(structures, values, of_linear["model"]["elements"])
    left = values - fit.predict(structures)
    np.testing.assert_allclose(both[:, 1], left / left.std(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("target", "rank"), [("mu", 0), ("r2", 0), ("gap", 0), ("alpha", 0), ("polarizability", 2)]
)
def test_some_targets_have_no_linear_reference(of_linear, target, rank):
    """Nor an auxiliary output: the same config serves all targets."""
    assert not has_reference(of_linear, OF_QM9[target])
    assert has_reference(of_linear, OF_QM9["U0"])
    if rank == 0:
        asked = {**of_linear, "target": f"{target},U0"}
        data = dataset(asked)
        task, _ = Task.prepare(asked, data, examples(asked, data, "train").first(50))
        (own, energy), heads = task.fitted, task.model.hyper.heads
        assert own.linear is None
        assert energy.linear is not None
        assert heads == (own.head, "invariant", "invariant")
