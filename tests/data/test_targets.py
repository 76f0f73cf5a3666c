"""References are fitted on training data in float64, and nothing is lost on the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import KNOWN, random_molecules

from hdgnn_jax.data.targets import TARGETS, Reference, element_counts, find_target

ELEMENTS = (1, 6, 7, 8, 9)
EV = 27.211386245988
LAWS = settings(max_examples=25, deadline=None)
PAPER = {
    "alpha": (0.046, "bohr^3"), "gap": (32, "meV"), "homo": (18, "meV"), "lumo": (16, "meV"),
    "mu": (0.017, "D"), "Cv": (0.023, "cal/(mol K)"), "G": (11, "meV"), "H": (10, "meV"),
    "r2": (0.342, "bohr^2"), "U": (8.12, "meV"), "U0": (8.34, "meV"), "zpve": (1.21, "meV"),
}  # fmt: skip


def training_set(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Counts and raw energies of the size of QM9's, Hartree."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (n, 5)).astype(float)
    table = [TARGETS["U0"].atom_energies[z] for z in ELEMENTS]
    return counts, counts @ np.array(table) + rng.normal(-2.5, 0.4, n)


def test_units_and_published_errors_are_those_of_the_protocol():
    assert {t.name: (t.paper_mae, t.unit) for t in TARGETS.values()} == PAPER
    for target in TARGETS.values():
        assert target.factor == (1000 * EV if target.unit == "meV" else 1.0)


def test_element_counts_count_elements():
    counts = element_counts(KNOWN, ELEMENTS)
    for k in range(len(KNOWN)):
        assert counts[k].tolist() == [(KNOWN[k].atomic_numbers == z).sum() for z in ELEMENTS]


def test_tabulated_references_leave_the_atomization_energy():
    counts, raw = np.array([[4.0, 1, 0, 0, 0]]), np.array([-40.47893])
    reference = Reference.fit(TARGETS["U0"], ELEMENTS, *training_set(0))
    left = reference.standardise(counts, raw) * reference.scale + reference.mean
    np.testing.assert_allclose(left, (-40.47893 + 37.846772 + 4 * 0.500273) * 1000 * EV, rtol=1e-9)


@LAWS
@given(seed=st.integers(0, 10**6), name=st.sampled_from(list(TARGETS)), centre=st.booleans())
def test_restore_inverts_standardise(seed, name, centre):
    counts, raw = training_set(seed)
    reference = Reference.fit(TARGETS[name], ELEMENTS, counts, raw, centre=centre)
    standardised = reference.standardise(counts, raw)
    back = reference.restore(counts, standardised)
    np.testing.assert_allclose(back, raw * TARGETS[name].factor, rtol=1e-13)
    assert back.dtype == standardised.dtype == np.float64
    np.testing.assert_allclose(standardised.std(), 1, rtol=1e-9)
    if centre:
        np.testing.assert_allclose(standardised.mean(), 0, atol=1e-6)
    else:
        assert np.sign(standardised).tolist() == np.sign(raw).tolist()


@LAWS
@given(seed=st.integers(0, 10**6))
def test_float32_after_the_reference_loses_a_thousandth_of_what_it_loses_before(seed):
    counts, raw = training_set(seed)
    truth = raw * TARGETS["U0"].factor
    reference = Reference.fit(TARGETS["U0"], ELEMENTS, counts, raw)
    after = reference.restore(counts, reference.standardise(counts, raw).astype(np.float32))
    before = truth.astype(np.float32).astype(float)
    assert np.abs(after - truth).max() < 1e-3 * np.abs(before - truth).max()


@LAWS
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["U0", "gap", "alpha"]))
def test_the_baselines_are_the_mean_and_the_least_squares_fit(seed, name):
    counts, raw = training_set(seed)
    values = raw * TARGETS[name].factor
    reference = Reference.fit(TARGETS[name], ELEMENTS, counts, raw)
    residual = values - reference.composition_predictor(counts)
    # The normal equations: what is left has no component along the counts or the constant.
    design = np.concatenate([counts, np.ones((len(counts), 1))], 1)
    np.testing.assert_allclose(design.T @ residual / np.abs(values).sum(), 0, atol=1e-10)
    np.testing.assert_array_equal(reference.mean_predictor(counts), np.full(60, values.mean()))


def test_the_composition_fit_is_that_of_numpy():
    counts, raw = training_set(1)
    reference = Reference.fit(TARGETS["Cv"], ELEMENTS, counts, raw)
    design = np.concatenate([counts, np.ones((len(counts), 1))], 1)
    *expected, constant = np.linalg.lstsq(design, raw, rcond=None)[0]
    np.testing.assert_allclose(reference.composition, expected, rtol=1e-10)
    np.testing.assert_allclose([reference.constant, reference.mean], constant, rtol=1e-8)
    assert reference.per_element == reference.composition


@pytest.mark.parametrize("name", TARGETS)
def test_a_reference_survives_json_to_the_bit(name):
    counts, raw = training_set(2)
    reference = Reference.fit(TARGETS[name], ELEMENTS, counts, raw)
    assert Reference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference


def test_an_element_that_no_training_molecule_has_gets_a_finite_reference():
    structures = random_molecules(20, 0)
    counts = element_counts(structures, (*ELEMENTS, 17))
    reference = Reference.fit(TARGETS["alpha"], (*ELEMENTS, 17), counts, counts.sum(1))
    assert np.isfinite(reference.per_element).all()


def test_what_does_not_exist_is_refused():
    counts, raw = training_set(3)
    with pytest.raises(ValueError, match=r"unknown target 'u0'; QM9 has mu, alpha"):
        find_target("u0")
    with pytest.raises(ValueError, match="mu has no tabulated atomic references"):
        Reference.fit(TARGETS["mu"], ELEMENTS, counts, raw, kind="tabulated")
    with pytest.raises(ValueError, match="one of none, fitted, tabulated, not 'fited'"):
        Reference.fit(TARGETS["mu"], ELEMENTS, counts, raw, kind="fited")
