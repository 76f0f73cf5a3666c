"""The self-test passes what is right and finds what is wrong."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from crystals import ELEMENTS, random_crystal
from molecules import KNOWN
from small import BARE, EXACT, fitted, predictor_of

from hdgnn_jax.data.targets import CALCULATED
from hdgnn_jax.evaluation import selftest
from hdgnn_jax.evaluation.symmetry import random_rotations
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.models import forces
from hdgnn_jax.models.linear import Linear, Terms

SMALLER = {
    "degree": 1, "product_degree": 1, "layers": 1, "pathway": "none", "tensor_product": "depthwise",
}  # fmt: skip


@functools.cache
def predictor(**options) -> Predictor:
    """With its compiled programs, which the tests share."""
    return predictor_of(fitted(CALCULATED["energy"], BARE), **{**SMALLER, **options})


def as_a(kind: type[Predictor], model: Predictor) -> Predictor:
    """The model with what `kind` does otherwise; nothing is compiled again."""
    made = kind(*(getattr(model, f.name) for f in dataclasses.fields(model)))
    made.__dict__["programs"] = model.programs
    return made


def test_finite_differences_agree_with_a_linear_reference():
    exact = predictor(**EXACT)
    terms = Terms(exact.model.hyper.elements, exact.model.hyper.cutoff)
    weights = np.random.default_rng(0).normal(size=terms.n_features, scale=1e3)
    linear = Linear(terms.elements, terms.cutoff, tuple(weights.tolist()))
    (one,) = exact.fitted
    with_linear = dataclasses.replace(one.reference, linear=linear)
    added = dataclasses.replace(exact, fitted=fitted(one.target, with_linear))
    assert selftest.finite_differences(added, KNOWN[6]) < 1e-6
    water = KNOWN.take(np.array([0]))
    forces = [np.asarray(p.derivatives(water).forces) for p in (exact, added)]
    assert np.abs(forces[0] - forces[1]).max() > 0.1


def test_finite_differences_agree_for_cells_and_disagree_where_forces_are_wrong(monkeypatch):
    """The test above has a molecule."""
    exact = predictor(**EXACT)
    crystal = predictor(elements=ELEMENTS, max_neighbors=10)
    assert selftest.finite_differences(crystal, random_crystal(0)) < 1e-6

    def wrong(predict, graph, column):
        found = forces.with_derivatives(predict, graph, column)
        return found._replace(forces=found.forces * 1.001)

    monkeypatch.setattr(selftest, "with_derivatives", wrong)
    assert selftest.finite_differences(exact, KNOWN[6]) > 1e-4


def test_a_strict_model_turns_its_forces_and_ours_does_not():
    turns = random_rotations(4, 0)
    change, size = selftest.turned_forces(predictor(**EXACT), KNOWN[6], turns)
    assert change < 1e-4 * size
    ours = predictor(pathway="edge_networks")
    change, size = selftest.turned_forces(ours, KNOWN[6], turns)
    assert change > 1e-3 * size


def test_energy_stays_where_steps_are_small_and_not_where_forces_are_wrong():
    model = predictor(**EXACT)
    water = dataclasses.replace(KNOWN[0], tags=None)
    path = selftest.constant_energy(model, water, steps=40, femtoseconds=0.25)
    assert path.times[-1] == 10
    kinetic = path.total - path.potential
    assert np.ptp(path.total) < 0.02 * np.ptp(kinetic)

    class Wrong(Predictor):
        def derivatives(self, structures, advance=lambda n: None):
            found = super().derivatives(structures, advance)
            return found._replace(forces=found.forces * 1.5)

    wrong = selftest.constant_energy(as_a(Wrong, model), water, steps=40, femtoseconds=0.25)
    assert np.ptp(wrong.total) > 5 * np.ptp(path.total)


@pytest.mark.parametrize("sign", [1, -1])
def test_drift_is_the_slope_of_the_total_energy(monkeypatch, sign):
    """Of a free atom that gains energy: the numbers are what a line through it says."""
    model = predictor(**EXACT)
    lone = dataclasses.replace(KNOWN[0], atomic_numbers=np.array([1]), positions=np.zeros((1, 3)),
                               tags=None, fixed=None)  # fmt: skip
    count = iter(range(10**6))

    class Rising(Predictor):
        def derivatives(self, structures, advance=lambda n: None):
            found = super().derivatives(structures, advance)
            return found._replace(value=found.value + sign * 0.001 * next(count))

    path = selftest.constant_energy(as_a(Rising, model), lone, steps=20, femtoseconds=0.5)
    # 1 meV in each step of 0.5 fs.
    np.testing.assert_allclose(path.drift, sign * 2.0, rtol=1e-2)
    np.testing.assert_allclose(path.ripple, 0, atol=1e-4)
