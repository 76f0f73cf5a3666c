"""A structure that no model can use is refused, by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from molecules import random_molecules
from scipy.spatial.transform import Rotation

from hdgnn_jax.graphs.structure import (
    ATOMIC_NUMBERS,
    MASSES,
    SYMBOLS,
    Structure,
    StructureError,
    Structures,
    concatenated_ranges,
)

ELEMENTS = (1, 6, 7, 8, 9)


def test_table_of_elements():
    """Known numbers and weights; weights ascend but where nature's do not, and skip none."""
    assert len(SYMBOLS) == len(MASSES) == 119
    assert len(ATOMIC_NUMBERS) == 118
    known = {"H": (1, 1.008), "C": (6, 12.011), "F": (9, 18.998), "Fe": (26, 55.845),
             "I": (53, 126.90), "Au": (79, 196.97), "U": (92, 238.03)}  # fmt: skip
    for symbol, (z, mass) in known.items():
        assert ATOMIC_NUMBERS[symbol] == z
        assert SYMBOLS[z] == symbol
        assert float(MASSES[z]) == pytest.approx(mass, abs=0.006)
    ratio = np.float64(MASSES[1:]) / np.arange(1, 119)
    assert ((ratio[1:] > 1.9) & (ratio[1:] < 2.7)).all()
    falls = [SYMBOLS[z] for z in range(1, 93) if float(MASSES[z]) < float(MASSES[z - 1])]
    assert falls == ["K", "Ni", "I", "Pa"]


def test_packing_and_taking_keep_every_molecule():
    packed = random_molecules(6, seed=0, atoms=(1, 7))
    order = np.array([4, 0, 5, 4])
    taken = packed.take(order)
    assert len(taken) == 4
    assert taken.n_atoms.tolist() == packed.n_atoms[order].tolist()
    for place, k in enumerate(order):
        assert taken.name(place) == taken[place].name == f"structure {k}"
        np.testing.assert_array_equal(taken[place].atomic_numbers, packed[k].atomic_numbers)
        np.testing.assert_array_equal(taken[place].positions, packed[k].positions)
    assert (packed.positions.dtype, packed.atomic_numbers.dtype) == (np.float64, np.int32)


def test_ranges_end_to_end():
    starts, counts = np.array([5, 0, 9]), np.array([2, 0, 3])
    assert concatenated_ranges(starts, counts).tolist() == [5, 6, 9, 10, 11]


def test_each_molecule_turns_by_its_own_rotation():
    molecules = random_molecules(5, 0)
    turns = Rotation.random(5, rng=0)
    turned = molecules.turned(turns.as_quat(scalar_first=True))
    for k in range(5):
        expected = molecules[k].positions @ turns[k].as_matrix().T
        np.testing.assert_allclose(turned[k].positions, expected, atol=1e-12)


@pytest.mark.parametrize("symbol", ["Q", "X", "c", "", "HE"])
def test_unknown_symbol_is_refused(symbol):
    message = f"file 3 has '{symbol}', which is not a chemical element"
    with pytest.raises(StructureError, match=message):
        Structure.from_symbols(["H", symbol], np.eye(2, 3), "file 3")


def check(structures, tags=False):
    structures.refuse(structures.reasons_against(ELEMENTS, tags))


def test_tags_are_checked_for_models_that_look_at_them():
    good = list(random_molecules(2, seed=2))
    bad = dataclasses.replace(good[0], tags=np.array([0, 2, 4, -1, *good[0].tags[4:]]))
    structures = Structures.pack([*good, bad], "slab")
    check(structures)
    with pytest.raises(StructureError, match="slab 2 has the tag 4; there are 0"):
        check(structures, tags=True)


def test_good_structures_pass():
    check(random_molecules(5, seed=1))


@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([], np.zeros((0, 3)), "has no atoms"),
        ([6, 1], [[0, 0, 0], [0, np.nan, 1]], "has a coordinate that is not a finite number"),
        ([6], [[-np.inf, 0, 0]], "has a coordinate that is not a finite number"),
        ([6, 17], np.eye(2, 3), "contains Cl; this model knows H, C, N, O, F"),
        ([0], np.zeros((1, 3)), "contains atomic number 0"),
        ([-1], np.zeros((1, 3)), "contains atomic number -1"),
        ([119], np.zeros((1, 3)), "contains atomic number 119"),
    ],
)
def test_first_unusable_molecule_is_named(numbers, positions, message):
    bad = Structure(np.array(numbers, np.int32), np.array(positions, float))
    good = list(random_molecules(2, seed=2))
    with pytest.raises(StructureError, match=f"record 2 {message}"):
        check(Structures.pack([*good, bad, *good, bad], "record"))


def test_each_unusable_molecule_has_the_reason_that_is_its_own():
    """The first of its reasons, in the order in which a model looks; a good one has none."""
    good = list(random_molecules(3, seed=2))
    nowhere = Structure(np.array([1, 6]), np.array([[0, 0, 0], [0, np.nan, 1]]))
    tagged = dataclasses.replace(good[0], tags=np.full(len(good[0].positions), 4))
    good = [dataclasses.replace(g, tags=np.full(len(g.positions), 2)) for g in good]
    untagged = dataclasses.replace(good[0], tags=None)
    several = [
        good[0],
        Structure(np.zeros(0, int), np.zeros((0, 3))),
        nowhere,
        good[1],
        dataclasses.replace(nowhere, atomic_numbers=np.array([17, 17])),
        Structure(np.array([1, 35, 17]), np.eye(3)),
        tagged,
        good[2],
        untagged,
    ]
    packed = Structures.pack(several, "record")
    reasons = {
        1: "has no atoms",
        2: "has a coordinate that is not a finite number",
        4: "has a coordinate that is not a finite number",
        5: "contains Cl and Br; this model knows H, C, N, O, F",
    }
    assert packed.reasons_against(ELEMENTS) == reasons
    of_tags = packed.reasons_against(ELEMENTS, tags=True)
    assert of_tags.pop(6).startswith("has the tag 4; there are 0")
    untagged = packed.untagged()
    assert untagged.keys() == {1, 2, 4, 5, 8}
    assert untagged[8].startswith("has no atom of the surface (tag 1) or the adsorbate (tag 2)")
    assert of_tags == reasons
    for place, reason in reasons.items():
        with pytest.raises(StructureError) as error:
            check(packed.take(np.array([0, place])))
        assert str(error.value) == f"record {place} {reason}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((2, 3))}, r"3 atoms and positions of shape \(2, 3\); .* \(3, 3\)"),
        ({"positions": np.zeros(9)}, r"3 atoms and positions of shape \(9,\)"),
        ({"tags": np.zeros(2, int)}, r"3 atoms and tags of shape \(2,\); it must be \(3,\)"),
        ({"fixed": np.zeros((3, 1), bool)}, r"3 atoms and fixed of shape \(3, 1\)"),
        ({"cell": np.eye(2)}, r"3 atoms and a cell of shape \(2, 2\); it must be \(3, 3\)"),
        ({"cell": np.zeros((3, 3))}, "cell without volume in its periodic directions"),
        ({"cell": np.full((3, 3), np.nan)}, "cell without volume in its periodic directions"),
    ],
)
def test_what_cannot_be_stored_beside_others_is_named(change, message):
    good = Structure(np.array([8, 1, 1]), np.eye(3), "water")
    good.check_shapes()
    bad = dataclasses.replace(good, **change)
    with pytest.raises(StructureError, match=f"water has {message}|water has a {message}"):
        bad.check_shapes()
    with pytest.raises(StructureError, match=r"^water has "):
        Structures.pack([good, bad])


def test_atoms_of_structures_stand_one_structure_after_another():
    packed = random_molecules(6, seed=0, atoms=(1, 7))
    order = np.array([4, 0, 4])
    expected = [k for s in order for k in range(packed.offsets[s], packed.offsets[s + 1])]
    assert packed.atoms_of(order).tolist() == expected
