"""The data set for other programs has all that the package holds, to the bit."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds
from qm9_source import SYMBOLS, molecules, write_source

from hdgnn_jax.data.qm9_tfds import MAX_ATOMS, write_tfds
from hdgnn_jax.data.qm9pack import COLUMNS
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.structure import ATOMIC_NUMBERS

# The names of the TFDS catalogue's qm9, without the two we cannot have, with the one we add.
FEATURES = {
    "A", "B", "C", "Cv", "G", "G_atomization", "H", "H_atomization", "InChI", "Mulliken_charges",
    "SMILES", "U", "U0", "U0_atomization", "U_atomization", "alpha", "charges", "frequencies",
    "gap", "homo", "index", "lumo", "mu", "num_atoms", "positions", "r2", "tag", "zpve",
    "polarizability",
}  # fmt: skip


def test_the_data_set_has_the_names_and_raw_numbers_of_the_catalogue(tmp_path):
    rows = molecules()
    whole = tmp_path / "cache" / "qm9" / "qm9"
    write_tfds(write_source(tmp_path / "source", rows), whole)
    (folder,) = whole.iterdir()
    examples = tfds.builder_from_directory(folder).as_data_source(split="train")
    assert len(examples) == len(SYMBOLS)
    for example, row in zip(examples, rows, strict=True):
        assert example.keys() == FEATURES
        n = len(row["symbols"])
        assert (example["index"], example["num_atoms"]) == (row["index"], n)
        expected = {
            "positions": row["positions"],
            "Mulliken_charges": row["charges"],
            "charges": [ATOMIC_NUMBERS[symbol] for symbol in row["symbols"]],
        }
        for name, values in expected.items():
            assert len(example[name]) == MAX_ATOMS
            np.testing.assert_array_equal(example[name][:n], values)
            assert not example[name][n:].any()
        xx, xy, yy, xz, yz, zz = row["tensor"]
        np.testing.assert_array_equal(
            example["polarizability"], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        )
        np.testing.assert_array_equal(example["frequencies"], row["frequencies"])
        for name in COLUMNS:
            assert example[name] == row[name]
        for name in ("U0", "U", "H", "G"):
            atoms = TARGETS[name].atom_energies
            left = row[name] - sum(atoms[z] for z in expected["charges"])
            np.testing.assert_allclose(example[f"{name}_atomization"], left, rtol=1e-15)
