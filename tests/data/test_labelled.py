"""Labels and forces go with the structures that they are of."""

from __future__ import annotations

import numpy as np
from molecules import random_molecules

from hdgnn_jax.data.labelled import LabelledStructures


def test_taking_structures_takes_what_is_known_of_them():
    structures = random_molecules(5, seed=0, atoms=(1, 6))
    values = {"energy": np.arange(5.0), "dipole": np.arange(15.0).reshape(5, 3)}
    # Of each atom, the number of its structure.
    forces = np.repeat(np.arange(5.0), structures.n_atoms)[:, None] * np.ones(3)
    whole = LabelledStructures(structures, values, forces, np.array([0, 0, 1, 2, 2]))
    rows = np.array([3, 0, 3])
    few = whole.take(rows)
    assert len(whole) == 5
    assert len(few) == 3
    assert few.structures.ids.tolist() == rows.tolist()
    for name, of_all in values.items():
        np.testing.assert_array_equal(few.labels[name], of_all[rows])
    owner = np.repeat(rows, structures.n_atoms[rows])
    np.testing.assert_array_equal(few.forces, owner[:, None] * np.ones(3))
    assert few.groups.tolist() == [2, 0, 2]
    bare = LabelledStructures(structures, values).take(rows)
    assert (bare.forces, bare.groups) == (None, None)
