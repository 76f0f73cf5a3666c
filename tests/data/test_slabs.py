"""The stand-in for OC20 is what it says: parts, bits, energies, geometry."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.optimize import FIRE

from hdgnn_jax.data import slabs
from hdgnn_jax.data.oc20_lmdb import Record
from hdgnn_jax.data.processes import map_in_processes
from hdgnn_jax.data.slabs import METALS, PARTS, make_system

N = 2


@pytest.fixture(scope="module")
def systems() -> dict[str, list[Record]]:
    return {part: [make_system(0, part, k) for k in range(N)] for part in PARTS}


@pytest.fixture(scope="module")
def records(systems) -> list[Record]:
    return [record for part in systems.values() for record in part]


def metals(numbers: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted((chemical_symbols[z] for z in numbers), key=METALS.index))


def atoms(record: Record, positions: np.ndarray | None) -> Atoms:
    return Atoms(record.atomic_numbers, positions, cell=record.cell, pbc=True, calculator=EMT())


def test_another_process_and_order_make_the_same_bits(systems):
    make = functools.partial(make_system, 0, "id")
    found = list(map_in_processes(make, (1, 0), processes=1))
    for record, expected in zip(found, (systems["id"][1], systems["id"][0]), strict=True):
        for name, ours, theirs in zip(Record._fields, record, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_seed_part_and_k_all_matter(systems):
    other = make_system(1, "train", 0)
    energies = [r.y_relaxed for part in systems.values() for r in part] + [other.y_relaxed]
    assert len(set(energies)) == len(energies)


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(KeyError, match="test"):
        make_system(0, "test", 0)


@pytest.mark.parametrize("part", PARTS)
def test_parts_hold_out_what_they_say(systems, part):
    for record in systems[part]:
        adsorbate = record.tags == 2
        held_out = (
            metals(record.atomic_numbers[adsorbate]) in slabs.ADSORBATES[True],
            metals(np.unique(record.atomic_numbers[~adsorbate])) in slabs.CATALYSTS[True],
        )
        assert held_out == PARTS[part]


def test_every_metal_is_in_training_and_held_out():
    for split in (slabs.ADSORBATES, slabs.CATALYSTS):
        assert 0.15 < len(split[True]) / len(split[True] + split[False]) < 0.25
        for combinations in split.values():
            assert set(METALS) == {metal for metals in combinations for metal in metals}


def test_plan_leaves_nothing_out():
    assert slabs.plan(4007) == {
        "train": 3207, "id": 200, "ood_ads": 200, "ood_cat": 200, "ood_both": 200
    }  # fmt: skip


def test_sids_are_unique(records):
    assert len({record.sid for record in records}) == len(records)


def test_arrays_are_as_in_oc20(records):
    for record in records:
        n = len(record.atomic_numbers)
        assert record.positions.shape == record.positions_relaxed.shape == (n, 3)
        assert [a.dtype for a in record[1:6]] == [
            np.int32, np.float64, np.float64, np.int8, np.bool_
        ]  # fmt: skip
        assert set(record.tags) == {0, 1, 2}
        np.testing.assert_array_equal(record.fixed, record.tags == 0)
        moved = np.abs(record.positions_relaxed - record.positions).max(axis=1)
        assert (moved[record.fixed] == 0).all()
        assert (moved[~record.fixed] > 0).all()
        bottom, surface = (record.positions[record.tags == tag, 2] for tag in (0, 1))
        assert bottom.max() < surface.min()
        assert record.positions[record.tags == 2, 2].min() > surface.max()


def test_atoms_are_apart_and_adsorbates_whole(records):
    for record in records:
        initial = atoms(record, record.positions).get_all_distances(mic=True)
        assert initial[np.triu_indices(len(initial), 1)].min() > 1.8
        relaxed = atoms(record, record.positions_relaxed).get_all_distances(mic=True)
        np.fill_diagonal(relaxed, np.inf)
        adsorbate = record.tags == 2
        assert relaxed[adsorbate][:, adsorbate].min(axis=1).max() < 3.8
        assert relaxed[adsorbate][:, ~adsorbate].min() < 3.8


def test_free_atoms_feel_no_force_when_relaxed(records):
    for record in records:
        forces = atoms(record, record.positions_relaxed).get_forces()[~record.fixed]
        assert np.linalg.norm(forces, axis=1).max() < slabs.FMAX


def test_energies_are_of_system_less_relaxed_slab(records):
    for record in records[::3]:
        clean = atoms(record, record.positions)[record.tags < 2]
        clean.calc = EMT()
        clean.set_constraint(FixAtoms(mask=record.fixed[record.tags < 2]))
        # From bulk positions, not those found by the code under test.
        clean.rattle(0.05, seed=0)
        FIRE(clean, logfile=None).run(fmax=0.01, steps=500)
        reference = clean.get_potential_energy()
        init, relaxed = (
            atoms(record, positions).get_potential_energy() - reference
            for positions in (record.positions, record.positions_relaxed)
        )
        assert record.y_init == pytest.approx(init, abs=0.02)
        assert record.y_relaxed == pytest.approx(relaxed, abs=0.02)
        assert record.y_relaxed < record.y_init


def test_adsorbate_alone_does_not_set_the_energy(monkeypatch):
    monkeypatch.setitem(slabs.ADSORBATES, False, [("Cu", "Pd")])
    energies = [make_system(0, "train", k).y_relaxed for k in range(6)]
    assert np.std(energies) > 0.2
