"""Readers of users' files: what was written, or the documented error; never another exception.

A flipped digit in a text without a checksum is another number, and no reader can tell. So text
files must give all that lies before the damage unchanged; what has a digest must be the same whole.
"""

from __future__ import annotations

import contextlib
import io
import pathlib

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from fuzz import damaged, law
from hypothesis import assume, given
from hypothesis import strategies as st

from hdgnn_jax.data import qm9
from hdgnn_jax.data.ase_files import read_labelled, read_structures
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, StructureError, Structures
from hdgnn_jax.inference import inputs
from hdgnn_jax.inference.rows import Row, as_extxyz

pytestmark = pytest.mark.slow

seeds = st.integers(0, 10**6)


def random_structure(rng: np.random.Generator) -> Structure:
    """Of any elements, anywhere, in any cell or none; with tags and fixed atoms or without."""
    n = int(rng.integers(1, 9))
    positions = rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-3, 4)
    positions[rng.random((n, 3)) < 0.1] = 0.0
    cell, periodic = None, (True, True, True)
    if rng.random() < 0.6:
        cell = np.diag(rng.uniform(2, 30, 3)) + rng.normal(size=(3, 3)) / 3
        periodic = [(True,) * 3, (True, True, False), (False, False, True)][rng.integers(3)]
    return Structure(
        rng.integers(1, len(SYMBOLS), n).astype(np.int32),
        positions,
        cell=cell,
        periodic=periodic,
        tags=rng.integers(0, 3, n) if rng.random() < 0.5 else None,
        fixed=rng.random(n) < 0.5 if rng.random() < 0.5 else None,
    )


def assert_same_structure(found: Structure, expected: Structure) -> None:
    found, expected = Structures.pack([found]), Structures.pack([expected])
    for name in ("atomic_numbers", "positions", "cells", "periodic", "tags", "fixed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


# ---- Files that ASE reads. Documented: `read_structures` raises nothing, and its last may be a
# StructureError; `read_labelled` raises StructureError.


@pytest.fixture(scope="module")
def calculated() -> tuple[bytes, list[int], list[ase.Atoms]]:
    """An extxyz file with energies, dipoles and forces; where each structure ends; and these."""
    rng = np.random.default_rng(1)
    frames, text, ends = [], "", []
    for k in range(4):
        s = random_structure(rng)
        s = Structure(s.atomic_numbers, np.round(s.positions, 8), cell=s.cell, periodic=s.periodic)
        atoms = ase.Atoms(s.atomic_numbers, s.positions, cell=s.cell,
                          pbc=s.periodic if s.cell is not None else False)  # fmt: skip
        forces = np.round(rng.normal(size=s.positions.shape), 8)
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal(), dipole=rng.normal(size=3), forces=forces
        )
        atoms.info["group"] = f"molecule {k // 2}"
        buffer = io.StringIO()
        ase.io.write(buffer, atoms, format="extxyz")
        text += buffer.getvalue()
        ends.append(len(text))
        frames.append(atoms)
    return text.encode(), ends, frames


def test_structures_written_are_read_back_to_the_bit(tmp_path, tried):
    """By our own writer; and by ASE's plain xyz, which has eight decimals."""

    @law(60)
    @given(seeds, st.integers(1, 5))
    def check(seed, count):
        tried["files written and read back"] += 1
        rng = np.random.default_rng(seed)
        structures = [random_structure(rng) for _ in range(count)]
        path = tmp_path / "some.extxyz"
        path.write_text(as_extxyz([Row("x", [s]) for s in structures]))
        for found, expected in zip(read_structures(path), structures, strict=True):
            assert_same_structure(found, expected)
        rows = list(inputs.read(str(path)))
        assert [row.reason for row in rows] == [None] * count

        bare = [Structure(s.atomic_numbers, np.round(s.positions, 8)) for s in structures]
        path = tmp_path / "plain.xyz"
        ase.io.write(path, [ase.Atoms(s.atomic_numbers, s.positions) for s in bare])
        for found, expected in zip(read_structures(path), bare, strict=True):
            np.testing.assert_array_equal(found.atomic_numbers, expected.atomic_numbers)
            np.testing.assert_array_equal(found.positions, expected.positions)

    check()


@pytest.mark.parametrize("suffix", ["extxyz", "xyz"])
def test_of_a_damaged_xyz_all_before_the_damage_is_unchanged(tmp_path, calculated, tried, suffix):
    content, ends, frames = calculated
    path = tmp_path / f"damaged.{suffix}"

    @law(150)
    @given(damaged(content))
    def check(case):
        tried["damaged xyz files"] += 1
        spoiled, first = case
        path.write_bytes(spoiled)
        found = list(read_structures(path))
        assert not any(isinstance(s, StructureError) for s in found[:-1])
        good = [s for s in found if not isinstance(s, StructureError)]
        for s, end, atoms in zip(good, ends, frames, strict=False):
            if end <= first:
                np.testing.assert_array_equal(s.positions, atoms.positions)
                np.testing.assert_array_equal(s.atomic_numbers, atoms.numbers)
        # ASE looks through the whole file first: an error may come before what is still whole.
        assert len(good) < len(found) or len(good) >= sum(end <= first for end in ends)
        with contextlib.suppress(StructureError):
            packed = Structures.pack(good)
            packed.refuse(packed.reasons_against(range(1, len(SYMBOLS))))
        if len(good) < len(found):
            said = str(found[-1])
            assert said.startswith(f"{path.name}, structure {len(found)} cannot be read (")
            assert "\n" not in said
        reasons = [row.reason for row in inputs.read(str(path))]
        assert [r is None for r in reasons] == [isinstance(s, Structure) for s in found]

    check()


def labelled_or_refused(path: pathlib.Path, name: str) -> LabelledStructures | str:
    try:
        return read_labelled(path, name)
    except StructureError as error:
        return str(error)


@pytest.mark.parametrize("name", ["energy", "dipole"])
def test_damaged_energies_forces_and_dipoles_are_numbers_or_refused(
    tmp_path, calculated, tried, name
):
    content, _, _ = calculated
    path = tmp_path / "damaged.extxyz"

    @law(120)
    @given(damaged(content, most=2))
    def check(case):
        tried["damaged xyz files"] += 1
        path.write_bytes(case[0])
        found = labelled_or_refused(path, name)
        if isinstance(found, str):
            assert "\n" not in found
            assert "damaged.extxyz, structure " in found or "ASE finds no structure in " in found
            return
        n, (values,) = len(found.structures), found.labels.values()
        assert found.labels.keys() == {name}
        assert values.shape == ((n, 3) if name == "dipole" else (n,))
        assert found.groups is None or found.groups.shape == (n,)
        unknown = np.isnan(values).reshape(n, -1).all(1)
        assert np.isfinite(values[~unknown]).all()
        said = [f"{unknown.sum()} structures have no dipole" in note for note in found.notes]
        assert any(said) == unknown.any()
        assert name == "dipole" or not unknown.any()
        if found.forces is not None:
            assert found.forces.shape == found.structures.positions.shape
            assert np.isfinite(found.forces).all()

    check()


@pytest.mark.parametrize(
    ("old", "new", "name", "message"),
    [
        ("energy=", "energy=many ignored=", "energy", "structure 1 has a value of energy that is"),
        ("energy=", 'energy="1 2 3" ignored=', "energy", "structure 1 has a value of energy that"),
        ("energy=", "energy=T ignored=", "energy", "structure 1 has a value of energy that is"),
        ("energy=", "energy=nan ignored=", "energy", "structure 1 has a value of energy that is"),
        ("forces:R:3", "forces:R:2:rest:R:1", "energy", "structure 1 has forces that are not"),
        ("forces:R:3", "other:R:3", "energy", "structure 1 has no forces that are numbers"),
        ("dipole=", 'dipole="1 2" ignored=', "dipole", "structure 1 has a value of dipole that"),
        ("dipole=", "dipole=x ignored=", "dipole", r"structure 1 cannot be read \(.*'x'\)"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path, calculated, tried, old, new, name, message):
    path = tmp_path / "spoiled.extxyz"
    path.write_text(calculated[0].decode().replace(old, new, 1))
    with pytest.raises(StructureError, match=rf"spoiled.extxyz, {message}"):
        read_labelled(path, name)
    tried["damaged xyz files"] += 1


# ---- SMILES. Documented: StructureError.


def test_saturated_chains_have_the_hydrogens_they_should(tried):
    @law(15)
    @given(st.text("CNO", min_size=1, max_size=7), st.integers(0, 3))
    def check(chain, branch):
        tried["SMILES"] += 1
        # A branch after the first carbon, where there is one.
        smiles = chain.replace("C", f"C({'C' * branch})" if branch else "C", 1)
        (found,), _ = conformers(smiles)
        count = {s: smiles.count(s) for s in "CNO"}
        expected = {6: count["C"], 7: count["N"], 8: count["O"], 1: 2 + 2 * count["C"] + count["N"]}
        numbers = found.atomic_numbers.tolist()
        assert {z: numbers.count(z) for z in expected} == expected
        assert np.isfinite(found.positions).all()

    check()


def test_any_text_is_a_molecule_or_refused(tmp_path, tried):
    anything = st.one_of(
        st.text(max_size=8),
        st.text("CNOFcno()[]=#123+-@/\\%.*H:>", max_size=9),
        st.sampled_from(
            ["C\0C", "\ud800", "*", "[*]", "C>>C", "[99999C]", "[H][H]", "C%99", "[Og]"]
        ),
    )

    @law(120)
    @given(anything)
    def check(text):
        tried["SMILES"] += 1
        try:
            found, how = conformers(text)
        except StructureError as error:
            said = str(error)
        else:
            said = ""
        assert "\n" not in said
        if said:
            return
        assert how.startswith("RDKit ETKDGv3")
        assert all(np.isfinite(s.positions).all() for s in found)
        Structures.pack(found)

    check()


def test_a_damaged_list_of_smiles_has_a_row_for_each_line(tmp_path, tried):
    """Documented: ValueError, naming the file, where it is no text in UTF-8."""
    content = "CCO ethanol\n\nO water\nC méthane\n".encode()
    path = tmp_path / "list.smi"

    @law(60)
    @given(damaged(content))
    def check(case):
        tried["damaged lists of SMILES"] += 1
        path.write_bytes(case[0])
        try:
            lines = [line for line in case[0].decode().splitlines() if line.strip()]
        except UnicodeDecodeError:
            with pytest.raises(ValueError, match=r"list.smi is no text in UTF-8"):
                list(inputs.read(str(path)))
            return
        rows = list(inputs.read(str(path)))
        assert len(rows) == len(lines)
        assert all(row.structures or row.reason for row in rows)

    check()


def test_what_is_no_input_of_predict_is_refused(tmp_path, tried, monkeypatch):
    """Documented: ValueError; for names no file can have, the system's own OSError."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qm9, "load", None)  # Nothing is read before the text is found good.
    words = st.one_of(
        st.text(max_size=12), st.text("0123456789-²٣ ", max_size=12).map("qm9:{}".format)
    )

    @law(100)
    @given(words)
    def check(name):
        tried["inputs of predict"] += 1
        first, _, last = name.removeprefix("qm9:").partition("-")
        numbers = [first, last or first]
        good = name.startswith("qm9:") and all(n.isdecimal() for n in numbers)
        assume(not (good and all(int(n) <= 133_885 for n in numbers)))
        assume(not name.startswith("smiles:"))
        with pytest.raises((ValueError, OSError)) as error:
            list(inputs.read(name))
        assert str(error.value)

    check()
    for name in ("qm9:1-99999999999", "qm9:" + "9" * 5000, "qm9:²"):
        with pytest.raises(ValueError, match=r"must be qm9:INDEX or qm9:FIRST-LAST, of numbers to"):
            list(inputs.read(name))
        tried["inputs of predict"] += 1
