"""Labels and forces go with the structures that they are of."""

from __future__ import annotations

import numpy as np
import pytest
from molecules import random_molecules

from hdgnn_jax.data.labelled import LabelledStructures, merged
from hdgnn_jax.errors import InputError


def test_taking_structures_takes_what_is_known_of_them():
    structures = random_molecules(5, seed=0, atoms=(1, 6))
    values = {"energy": np.arange(5.0), "dipole": np.arange(15.0).reshape(5, 3)}
    # Of each atom, the number of its structure.
    forces = np.repeat(np.arange(5.0), structures.n_atoms)[:, None] * np.ones(3)
    virials = np.arange(45.0).reshape(5, 3, 3)
    whole = LabelledStructures(structures, values, forces, virials, np.array([0, 0, 1, 2, 2]))
    rows = np.array([3, 0, 3])
    few = whole.take(rows)
    assert len(whole) == 5
    assert len(few) == 3
    assert few.structures.ids.tolist() == rows.tolist()
    for name, of_all in values.items():
        np.testing.assert_array_equal(few.labels[name], of_all[rows])
    owner = np.repeat(rows, structures.n_atoms[rows])
    np.testing.assert_array_equal(few.forces, owner[:, None] * np.ones(3))
    np.testing.assert_array_equal(few.virials, virials[rows])
    assert few.groups.tolist() == [2, 0, 2]
    bare = LabelledStructures(structures, values).take(rows)
    assert (bare.forces, bare.virials, bare.groups) == (None, None, None)


def test_labels_of_several_targets_are_joined_by_id():
    """What is not known is NaN; a target of other structures is refused."""
    molecules = random_molecules(6, 0)
    few = molecules.take(np.array([4, 1]))
    one = LabelledStructures(molecules, {"U0": np.arange(6.0)})
    two = LabelledStructures(few, {"polarizability": np.arange(18.0).reshape(2, 3, 3)})
    both = merged({"polarizability": two, "U0": one})
    assert both.structures is molecules
    np.testing.assert_array_equal(both.labels["U0"], np.arange(6.0))
    tensors = both.labels["polarizability"]
    np.testing.assert_array_equal(tensors[[4, 1]], two.labels["polarizability"])
    assert np.isnan(tensors[[0, 2, 3, 5]]).all()
    others = LabelledStructures(molecules.take(np.arange(3)), {"gap": np.zeros(3)})
    with pytest.raises(InputError, match="U0 is known where gap is not"):
        merged({"U0": LabelledStructures(few, {"U0": np.zeros(2)}), "gap": others})
