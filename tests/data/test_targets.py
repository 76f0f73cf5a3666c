"""References are fitted on training data in float64, and nothing is lost on the way back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import random_molecules
from scipy.spatial.transform import Rotation

from hdgnn_jax.data.atom_energies import B3LYP, GFN2_XTB
from hdgnn_jax.data.baselines import Composition, undetermined
from hdgnn_jax.data.qm9 import QM9
from hdgnn_jax.data.targets import (
    ALL_TARGETS,
    CALCULATED,
    OF_IS2RE,
    OF_QM9,
    TARGETS,
    Reference,
    isotropic,
    isotropic_part,
    turned,
)
from hdgnn_jax.evaluation.symmetry import random_rotations
from hdgnn_jax.graphs.structure import Structure, Structures

ELEMENTS = (1, 6, 7, 8, 9)
EV = 27.211386245988
LAWS = settings(max_examples=25, deadline=None)
PAPER = {
    "alpha": (0.046, "bohr^3"), "gap": (32, "meV"), "homo": (18, "meV"), "lumo": (16, "meV"),
    "mu": (0.017, "D"), "Cv": (0.023, "cal/(mol K)"), "G": (11, "meV"), "H": (10, "meV"),
    "r2": (0.342, "bohr^2"), "U": (8.12, "meV"), "U0": (8.34, "meV"), "zpve": (1.21, "meV"),
}  # fmt: skip


def with_counts(counts: np.ndarray) -> Structures:
    """Molecules of so many atoms of each element, wherever these stand."""
    return Structures.pack(
        Structure(np.repeat(ELEMENTS, row.astype(int)), np.zeros((int(row.sum()), 3)))
        for row in counts
    )


def training_set(seed: int, n: int = 60) -> tuple[Structures, np.ndarray]:
    """Molecules and raw energies of the size of QM9's, Hartree."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (n, 5)).astype(float)
    table = [TARGETS["U0"].atom_energies[z] for z in ELEMENTS]
    return with_counts(counts), counts @ (np.array(table) - 0.15) + rng.normal(0, 0.4, n)


def test_units_and_published_errors_are_those_of_the_protocol():
    assert {t.name: (t.paper_mae, t.unit) for t in TARGETS.values()} == PAPER
    for target in TARGETS.values():
        assert target.factor == (1000 * EV if target.unit == "meV" else 1.0)


def test_a_name_is_one_target_with_one_unit_whatever_the_data_set():
    """So models of one property are in one unit, and their mean is of like numbers."""
    of_sets = [*OF_QM9.values(), *CALCULATED.values(), *OF_IS2RE.values()]
    names = [target.name for target in of_sets]
    assert len(set(names)) == len(names)
    assert dict(zip(names, of_sets, strict=True)) == ALL_TARGETS


def test_tabulated_references_leave_the_atomization_energy():
    """But for one shift of every atom, which is that of least squares."""
    methane, raw = with_counts(np.array([[4.0, 1, 0, 0, 0]])), np.array([-40.47893])
    molecules, energies = training_set(0)
    reference = Reference.fit(TARGETS["U0"], ELEMENTS, molecules, energies, kind="tabulated")
    left = reference.standardise(methane, raw) * reference.scale
    table = np.array([TARGETS["U0"].atom_energies[z] for z in ELEMENTS])
    counts = np.stack([(molecules.atomic_numbers == z) for z in ELEMENTS], 1)
    counts = np.add.reduceat(counts, molecules.offsets[:-1])
    shift = np.linalg.lstsq(molecules.n_atoms[:, None], energies - counts @ table, rcond=None)[0]
    expected = (-40.47893 + 37.846772 + 4 * 0.500273 - 5 * shift[0]) * 1000 * EV
    np.testing.assert_allclose(left, expected, rtol=1e-9)


EXTENSIVE = [t for t in ALL_TARGETS.values() if t.size == "extensive"]


@pytest.mark.parametrize("target", EXTENSIVE, ids=lambda target: target.name)
def test_of_two_systems_an_extensive_reference_is_the_sum(target):
    molecules, raw = training_set(4)
    values = isotropic(raw, target.rank)
    both = Structures.pack(
        Structure(
            np.concatenate([a.atomic_numbers, b.atomic_numbers]),
            np.concatenate([a.positions, b.positions + 100]),
        )
        for a, b in zip(molecules, [*molecules][::-1], strict=True)
    )
    kinds = ["none", "fitted"] + ["tabulated"] * (target.atom_energies is not None)
    for kind in kinds:
        reference = Reference.fit(target, ELEMENTS, molecules, values, kind=kind)
        alone = reference.restore(molecules, np.zeros_like(values))
        together = reference.restore(both, np.zeros_like(values))
        np.testing.assert_allclose(together, alone + alone[::-1], rtol=1e-13)


@pytest.mark.parametrize("kind", ["none", "fitted"])
def test_two_of_a_kind_have_the_intensive_reference_of_one(kind):
    molecules, raw = training_set(4)
    twice = Structures.pack(
        Structure(np.tile(a.atomic_numbers, 2), np.tile(a.positions, (2, 1))) for a in molecules
    )
    reference = Reference.fit(TARGETS["gap"], ELEMENTS, molecules, raw, kind=kind)
    one, two = (reference.restore(of, np.zeros(len(raw))) for of in (molecules, twice))
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_what_compositions_leave_open_stays_near_isolated_atoms():
    """With twice as much hydrogen as carbon, always, the sum is known and not its parts."""
    n = np.arange(1.0, 9)
    molecules = with_counts(np.stack([2 * n, n, 0 * n, 0 * n, 0 * n], 1))
    table = B3LYP["U0"]
    raw = n * (2 * table[1] + table[6] - 0.3)
    for target, elements in ((TARGETS["U0"], ELEMENTS), (TARGETS["U0"], (1, 6))):
        assert undetermined(molecules, elements) == [1, 6]
        reference = Reference.fit(target, elements, molecules, raw).composition
        found = np.array(reference.per_element[:2]) / target.factor
        np.testing.assert_allclose(found, [table[1] - 0.12, table[6] - 0.06], rtol=1e-9)
    assert undetermined(*(training_set(0)[0], ELEMENTS)) == []


@pytest.mark.parametrize(("table", "unit"), [(GFN2_XTB, 1.0), (B3LYP["U0"], EV)])
def test_energies_of_files_stay_near_the_table_they_are_nearest_to(table, unit):
    """Of valence electrons in eV, or of all electrons."""
    molecules = with_counts(np.tile([4.0, 1, 0, 0, 0], (5, 1)))
    atoms = np.array([table[z] for z in ELEMENTS]) * unit
    raw = np.full(5, 4 * atoms[0] + atoms[1] - 17.0)
    composition = Reference.fit(CALCULATED["energy"], ELEMENTS, molecules, raw).composition
    found = np.array(composition.per_element) / 1000
    np.testing.assert_allclose(found[:2], atoms[:2] - [4.0, 1.0], rtol=1e-9)
    np.testing.assert_allclose(found[2:], atoms[2:], rtol=1e-9)


@LAWS
@given(seed=st.integers(0, 10**6), name=st.sampled_from(list(TARGETS)), centre=st.booleans())
def test_restore_inverts_standardise(seed, name, centre):
    molecules, raw = training_set(seed)
    reference = Reference.fit(TARGETS[name], ELEMENTS, molecules, raw, centre=centre)
    standardised = reference.standardise(molecules, raw)
    back = reference.restore(molecules, standardised)
    np.testing.assert_allclose(back, raw * TARGETS[name].factor, rtol=1e-13)
    assert back.dtype == standardised.dtype == np.float64
    np.testing.assert_allclose(np.mean(standardised**2), 1, rtol=1e-9)
    if centre and TARGETS[name].size != "extensive":
        np.testing.assert_allclose(standardised.mean(), 0, atol=1e-6)
    elif not centre:
        assert np.sign(standardised).tolist() == np.sign(raw).tolist()


OF_RANK = {1: "dipole_vector", 2: "polarizability"}


@LAWS
@given(seed=st.integers(0, 10**6), rank=st.sampled_from([1, 2]))
def test_of_vectors_and_tensors_the_isotropic_part_has_a_reference(seed, rank):
    molecules, scalars = training_set(seed)
    noise = np.random.default_rng(seed).normal(size=(len(scalars), *[3] * rank))
    raw = isotropic(scalars, rank) + noise
    target = dataclasses.replace(TARGETS["alpha"], head=OF_RANK[rank])
    reference = Reference.fit(target, ELEMENTS, molecules, raw, centre=rank == 2)
    standardised = reference.standardise(molecules, raw)
    np.testing.assert_allclose(reference.restore(molecules, standardised), raw, rtol=1e-12)
    np.testing.assert_allclose(np.mean(standardised**2), 1, rtol=1e-9)
    if rank == 2:
        of_scalars = Reference.fit(TARGETS["alpha"], ELEMENTS, molecules, isotropic_part(raw, 2))
        assert reference.composition == of_scalars.composition
    # References know no direction.
    rotations = random_rotations(len(raw), seed)
    there = reference.standardise(molecules, turned(raw, rotations, rank))
    np.testing.assert_allclose(there, turned(standardised, rotations, rank), atol=1e-9)
    matrices = Rotation.from_quat(rotations, scalar_first=True).as_matrix()
    subscripts = {1: "nij,nj->ni", 2: "nij,njk,nlk->nil"}[rank]
    expected = np.einsum(subscripts, *[matrices, raw, matrices][: rank + 1])
    np.testing.assert_allclose(turned(raw, rotations, rank), expected, atol=1e-9)


@LAWS
@given(seed=st.integers(0, 10**6))
def test_float32_after_the_reference_loses_a_thousandth_of_what_it_loses_before(seed):
    molecules, raw = training_set(seed)
    truth = raw * TARGETS["U0"].factor
    reference = Reference.fit(TARGETS["U0"], ELEMENTS, molecules, raw)
    after = reference.restore(molecules, reference.standardise(molecules, raw).astype(np.float32))
    before = truth.astype(np.float32).astype(float)
    assert np.abs(after - truth).max() < 1e-3 * np.abs(before - truth).max()


def test_fitted_references_are_those_of_the_composition():
    molecules, raw = training_set(1)
    reference = Reference.fit(TARGETS["Cv"], ELEMENTS, molecules, raw)
    composition = Composition.fit(molecules, raw, ELEMENTS, "extensive")
    assert reference.composition == composition
    assert composition.constant == 0


@pytest.mark.parametrize("name", TARGETS)
def test_a_reference_survives_json_to_the_bit(name):
    molecules, raw = training_set(2)
    reference = Reference.fit(TARGETS[name], ELEMENTS, molecules, raw)
    assert Reference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference


def test_an_element_that_no_training_molecule_has_gets_a_finite_reference():
    structures = random_molecules(20, 0)
    reference = Reference.fit(TARGETS["alpha"], (*ELEMENTS, 17), structures, structures.n_atoms)
    assert np.isfinite(reference.composition.per_element).all()


def test_what_does_not_exist_is_refused():
    molecules, raw = training_set(3)
    with pytest.raises(ValueError, match=r"unknown target 'u0'; QM9 has mu, alpha"):
        QM9("standard").target("u0")
    with pytest.raises(ValueError, match="mu has no energies of isolated atoms"):
        Reference.fit(TARGETS["mu"], ELEMENTS, molecules, raw, kind="tabulated")
    with pytest.raises(ValueError, match="one of none, fitted, tabulated, linear, not 'fited'"):
        Reference.fit(TARGETS["mu"], ELEMENTS, molecules, raw, kind="fited")
