"""Baselines are the means and fits they say they are."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from crystals import random_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import CUTOFF, KNOWN, random_molecules

from hdgnn_jax.data import baselines
from hdgnn_jax.data.baselines import (
    AdsorbateMean,
    Composition,
    LinearFit,
    adsorbates,
    element_counts,
    from_dict,
    geometry,
)
from hdgnn_jax.graphs.neighbors import Neighbors, find_neighbors, neighbors_of
from hdgnn_jax.graphs.structure import Structure, Structures

ELEMENTS = (1, 6, 7, 8, 9)
seeds = st.integers(0, 10**6)


def systems(seed: int, n: int = 40) -> Structures:
    """Slabs of copper with one to three metal atoms on them, in any order."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        adsorbate = rng.choice([29, 47], rng.integers(1, 4))
        tags = np.array([0, 1, *[2] * len(adsorbate)])
        numbers, order = np.array([29, 29, *adsorbate]), rng.permutation(len(tags))
        made.append(Structure(numbers[order], np.zeros((len(tags), 3)), tags=tags[order]))
    return Structures.pack(made)


def energies(fit: LinearFit, structures: Structures, edges: Neighbors) -> np.ndarray:
    return geometry([fit], structures, edges)[:, 0]


def predicted_by(fit: LinearFit, structures: Structures, edges: Neighbors) -> np.ndarray:
    return fit.composition.predict(structures) + energies(fit, structures, edges)


def test_element_counts_count_elements():
    counts = element_counts(KNOWN, ELEMENTS)
    for k in range(len(KNOWN)):
        assert counts[k].tolist() == [(KNOWN[k].atomic_numbers == z).sum() for z in ELEMENTS]


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_composition_is_the_least_squares_fit(seed):
    molecules = random_molecules(40, seed)
    values = np.random.default_rng(seed).normal(size=40) + 1000 * molecules.n_atoms
    found = Composition.fit(molecules, values, ELEMENTS)
    residual = values - found.predict(molecules)
    # The normal equations: what is left has no component along the counts or the constant.
    design = np.concatenate([element_counts(molecules, ELEMENTS), np.ones((40, 1))], 1)
    np.testing.assert_allclose(design.T @ residual / np.abs(values).sum(), 0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_without_a_constant_it_is_the_least_squares_fit_through_zero(seed):
    molecules = random_molecules(40, seed)
    values = np.random.default_rng(seed).normal(size=40) + 1000 * molecules.n_atoms
    found = Composition.fit(molecules, values, ELEMENTS, "extensive")
    residual = values - found.predict(molecules)
    design = element_counts(molecules, ELEMENTS)
    np.testing.assert_allclose(design.T @ residual / np.abs(values).sum(), 0, atol=1e-10)
    assert found.constant == 0


@pytest.mark.parametrize("size", ["extensive", "intensive"])
def test_the_linear_fit_of_two_far_apart(size):
    """The sum of both of an extensive property; of an intensive one, of two alike, that of one."""
    molecules = random_molecules(30, 3)
    edges = find_neighbors(molecules, CUTOFF)
    values = np.random.default_rng(0).normal(size=30) + 10.0 * molecules.n_atoms
    (fit,), _ = LinearFit.fit(molecules, edges, values[:, None], ELEMENTS, CUTOFF, size)
    two = Structures.pack(
        Structure(np.tile(a.atomic_numbers, 2), np.concatenate([a.positions, a.positions + 50]))
        for a in molecules
    )
    found = predicted_by(fit, two, find_neighbors(two, CUTOFF))
    expected = predicted_by(fit, molecules, edges) * (2 if size == "extensive" else 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_without_elements_it_is_the_mean():
    molecules, values = random_molecules(9, 0), np.arange(9.0)
    assert Composition.fit(molecules, values).predict(molecules).tolist() == [4.0] * 9


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_adsorbates_have_the_mean_of_their_kind(seed):
    training = systems(seed)
    values = np.random.default_rng(seed).normal(size=len(training))
    names = [tuple(sorted(s.atomic_numbers[s.tags == 2])) for s in training]
    assert [tuple(map(int, name.split())) for name in adsorbates(training)] == names
    for name, value in zip(
        names, AdsorbateMean.fit(training, values).predict(training), strict=True
    ):
        alike = [v for v, other in zip(values, names, strict=True) if other == name]
        assert value == pytest.approx(np.mean(alike))


def test_an_adsorbate_that_training_never_saw_gets_the_mean_over_all():
    baseline = AdsorbateMean.fit(systems(0), np.arange(40.0))
    gold = Structures.pack([Structure(np.array([79]), np.zeros((1, 3)), tags=np.array([2]))])
    assert baseline.predict(gold).tolist() == [19.5]


def linear_fit(size: str = "neither") -> tuple[Structures, np.ndarray, LinearFit, np.ndarray]:
    """Energies of atoms, and a smooth function of all distances."""
    n = 300
    molecules = random_molecules(n, 5)
    edges = find_neighbors(molecules, CUTOFF)
    owner = np.repeat(np.arange(n), edges.n_edges)
    at = molecules.offsets[owner]
    x = molecules.positions
    d = np.linalg.norm(x[at + edges.senders] - x[at + edges.receivers], axis=1)
    pairs = np.bincount(owner, (d - 1.4) ** 2 * (CUTOFF - d) ** 2, n)
    values = element_counts(molecules, ELEMENTS) @ (-3e4 * np.arange(1, 6)) + 100 * pairs
    (fit,), known = LinearFit.fit(molecules, edges, values[:, None], ELEMENTS, CUTOFF, size)
    return molecules, values, fit, known[:, 0]


@pytest.fixture(scope="module")
def fitted():
    return linear_fit()


def test_the_linear_fit_learns_from_distances(fitted):
    molecules, values, fit, known = fitted
    edges = find_neighbors(molecules, CUTOFF)
    predicted = predicted_by(fit, molecules, edges)
    composition = Composition.fit(molecules, values, ELEMENTS).predict(molecules)
    assert np.abs(predicted - values).mean() < 0.5 * np.abs(composition - values).mean()
    scale = np.abs(known).mean()
    np.testing.assert_allclose(known, energies(fit, molecules, edges), rtol=0, atol=1e-4 * scale)
    expected = fit.composition.predict(molecules) + known
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("size", ["neither", "intensive"])
def test_its_forces_are_slopes(size):
    molecules, _, fit, _ = linear_fit(size)
    some = molecules.take(np.arange(5))
    along = np.random.default_rng(0).normal(size=some.positions.shape)
    forces = fit.slopes(some, find_neighbors(some, CUTOFF)).forces

    def total(t: float) -> float:
        there = dataclasses.replace(some, positions=some.positions + t * along)
        return energies(fit, there, find_neighbors(there, CUTOFF)).sum()

    slope = (total(2e-3) - total(-2e-3)) / 4e-3
    assert slope == pytest.approx(-np.sum(forces * along), rel=1e-2)


def test_it_is_fitted_to_as_many_as_can_be_gone_through(fitted, monkeypatch):
    molecules, values, _, _ = fitted
    edges = find_neighbors(molecules, CUTOFF)
    monkeypatch.setattr(baselines, "FITTED_EDGES", edges.n_edges[:100].sum())
    (fit,), known = LinearFit.fit(molecules, edges, values[:, None], ELEMENTS, CUTOFF)
    assert known.shape == (300, 1)
    known = known[:, 0]
    scale = np.abs(known).mean()
    np.testing.assert_allclose(known, energies(fit, molecules, edges), rtol=0, atol=1e-4 * scale)
    rows = np.arange(99)
    few = molecules.take(rows), edges.take(rows), values[rows, None]
    assert LinearFit.fit(*few, ELEMENTS, CUTOFF)[0] == [fit]


def test_crystals_and_limited_neighbours_have_a_linear_fit():
    crystals = Structures.pack([random_crystal(seed) for seed in range(4)])
    elements = sorted(set(crystals.atomic_numbers.tolist()))
    for limit in (None, 4):
        edges = neighbors_of(crystals, CUTOFF, limit)
        (fit,), known = LinearFit.fit(crystals, edges, np.arange(4.0)[:, None], elements, CUTOFF)
        assert np.isfinite(predicted_by(fit, crystals, edges)).all()
        assert known.shape == (4, 1)


@pytest.mark.parametrize(
    "baseline",
    [
        Composition.fit(KNOWN, np.arange(7.0), ELEMENTS),
        AdsorbateMean.fit(systems(1), np.ones(40)),
        LinearFit.fit(
            KNOWN, find_neighbors(KNOWN, CUTOFF), np.arange(7.0)[:, None], ELEMENTS, CUTOFF
        )[0][0],
    ],
)
def test_a_baseline_survives_json_to_the_bit(baseline):
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(baseline)))) == baseline
