"""Baselines are the means and fits they say they are."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import KNOWN, random_molecules

from hdgnn_jax.data.baselines import (
    AdsorbateMean,
    Composition,
    adsorbates,
    element_counts,
    from_dict,
)
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


@pytest.mark.parametrize(
    "baseline",
    [Composition.fit(KNOWN, np.arange(7.0), ELEMENTS), AdsorbateMean.fit(systems(1), np.ones(40))],
)
def test_a_baseline_survives_json_to_the_bit(baseline):
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(baseline)))) == baseline
