"""What is written of a structure is read back as it was."""

from __future__ import annotations

import ase.io
import numpy as np

from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.graphs.structure import Structure
from hdgnn_jax.inference.rows import Quantity, Row, as_extxyz, print_rows, quantity


def test_slabs_keep_tags_and_fixed_atoms_and_units_are_not_taken_for_ases(tmp_path):
    """What ASE would read as an energy in eV has another name."""
    slab = Structure(
        np.array([29, 29, 8]), np.eye(3) * 3, "slab", np.eye(3) * 9,
        tags=np.array([0, 1, 2]), fixed=np.array([True, False, False]),
    )  # fmt: skip
    row = Row("slab", [slab])
    row.quantities = [Quantity("energy", "meV", np.float64(1234.5))]
    row.forces = np.arange(9.0).reshape(3, 3)
    (tmp_path / "out.extxyz").write_text(as_extxyz([row]))
    atoms = ase.io.read(tmp_path / "out.extxyz")
    assert atoms.info["predicted_energy"] == 1234.5
    assert "energy" not in atoms.calc.results
    np.testing.assert_array_equal(atoms.calc.results["forces"], row.forces)
    row.energy = 1.2345
    (tmp_path / "out.extxyz").write_text(as_extxyz([row]))
    atoms = ase.io.read(tmp_path / "out.extxyz")
    assert atoms.get_potential_energy() == 1.2345
    np.testing.assert_array_equal(atoms.get_forces(apply_constraint=False), row.forces)
    back = structure_of(atoms)
    assert back.tags.tolist() == [0, 1, 2]
    assert back.fixed.tolist() == [True, False, False]


def test_few_structures_with_many_quantities_are_columns(capsys):
    """So that twelve properties of a molecule fit a screen."""
    rows = [Row("water"), Row("a" * 30)]
    for row in rows:
        row.quantities = [quantity(f"q{k}", np.float64(k), "meV", None, None) for k in range(12)]
    rows[1].warning = "38 atoms"
    print_rows(rows)
    out = capsys.readouterr().out.splitlines()
    assert "structure" in out[1]
    assert "water" in out[1]
    assert sum("[meV]" in line for line in out) == 12
    assert out[-1] == "a" * 30 + ": 38 atoms"


def test_what_is_wider_than_the_terminal_becomes_several_tables(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [Row(f"molecule {k}") for k in range(14)]
    for k, row in enumerate(rows):
        row.quantities = [
            quantity(f"q{i}", np.float64(-1e6 * i - k), "meV", None, None) for i in range(12)
        ]
    print_rows(rows)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert "…" not in out
    # The whole number, whatever its decimals.
    assert all(f"-{10**6 * i + k}" in out for i in range(1, 12) for k in range(14))
    assert out.count("molecule 3") > 2
