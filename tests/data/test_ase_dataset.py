"""A file of a user's: units and names, isolated atoms, and what about it can hardly be right."""

from __future__ import annotations

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import bulk, molecule

from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.baselines import undetermined
from hdgnn_jax.data.labelled import merged
from hdgnn_jax.data.targets import CALCULATED, Reference
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import StructureError

ATOMS = {"H": -13.6, "O": -2040.0}
BINDING = -3.5
"""eV an atom."""


@pytest.fixture
def waters(tmp_path):
    """`waters(extra)`: a file of ten shapes of water and what comes before them."""

    def write(*extra: ase.Atoms) -> str:
        frames = list(extra)
        for k in range(10):
            water = molecule("H2O")
            water.rattle(0.05, seed=k)
            water.info["energy"] = 2 * ATOMS["H"] + ATOMS["O"] + 3 * BINDING
            frames.append(water)
        ase.io.write(tmp_path / "water.extxyz", frames)
        return str(tmp_path / "water.extxyz")

    return write


def atom(symbol: str, energy: float, **info: object) -> ase.Atoms:
    """One atom in a large box."""
    alone = ase.Atoms(symbol, cell=[20, 20, 20], pbc=True)
    alone.info |= {"energy": energy, **info}
    return alone


@pytest.mark.parametrize(("length", "size"), [("bohr", ase.units.Bohr), ("Å", 1.0)])
@pytest.mark.parametrize(("unit", "ev"), [("kcal/mol", ase.units.kcal / ase.units.mol),
                                          ("kJ/mol", ase.units.kJ / ase.units.mol),
                                          ("Ha", ase.units.Ha), ("Ry", ase.units.Ry)])  # fmt: skip
def test_other_units_and_names_are_read(tmp_path, unit, ev, length, size):
    """Held against ASE's units, of CODATA 2014."""
    water, frames = molecule("H2O"), []
    water.set_cell([30, 30, 30])
    water.pbc = True
    for k in range(10):
        moved = water.copy()
        moved.rattle(0.05, seed=k)
        moved.info["REF_energy"] = -10.0 - k
        moved.arrays["REF_forces"] = moved.positions * k
        frames.append(moved)
    ase.io.write(tmp_path / "own.extxyz", frames)
    path = str(tmp_path / "own.extxyz")
    names = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    named = ASEFile(path, energy_unit=unit, length_unit=length, **names)
    part = named.part("train", "energy")
    k = -part.labels["energy"] / ev - 10
    np.testing.assert_allclose(k, part.structures.ids - 1, atol=1e-5)
    per_atom = np.repeat(part.structures.ids - 1, 3)[:, None]
    expected = part.structures.positions * per_atom * ev / size**2
    np.testing.assert_allclose(part.structures.cells[0], np.eye(3) * 30 * size, rtol=1e-8)
    first = frames[part.structures.ids[0] - 1].positions * size
    np.testing.assert_allclose(part.structures[0].positions, first, atol=1e-7)
    np.testing.assert_allclose(part.forces, expected, rtol=1e-6, atol=1e-5)
    assert named.digest() != ASEFile(path).digest()
    there = "has no energy; beside positions it has REF_energy, REF_forces: set "
    with pytest.raises(StructureError, match=there + "config.data.energy_key"):
        ASEFile(path).part("train", "energy")
    with pytest.raises(StructureError, match="has no MY_forces"):
        ASEFile(path, energy_key="REF_energy", forces_key="MY_forces").part("train", "energy")


def test_energies_and_dipoles_may_have_names_of_their_own(waters, tmp_path):
    """Both in one run; an isolated atom needs no dipole moment."""
    frames = ase.io.read(waters(atom("O", -2000.0)), ":")
    for k, frame in enumerate(frames):
        frame.info["REF_energy"] = frame.get_potential_energy()
        if len(frame) > 1:
            frame.info["REF_dipole"] = np.array([0.1, 0.0, k])
        frame.calc = None
    ase.io.write(tmp_path / "own.extxyz", frames)
    keys = {"energy_key": "REF_energy", "dipole_key": "REF_dipole"}
    data = ASEFile(str(tmp_path / "own.extxyz"), length_unit="bohr", **keys)
    both = [target.name for target in data.chosen(["energy", "dipole"])]
    energies, dipoles = (data.part("train", name) for name in both)
    np.testing.assert_array_equal(energies.structures.ids, dipoles.structures.ids)
    k = dipoles.structures.ids - 1
    expected = np.stack([0.1 + 0 * k, 0 * k, k], 1) * ase.units.Bohr
    np.testing.assert_allclose(dipoles.labels["dipole"], expected, rtol=1e-6)
    assert "REF_dipole up to" in data.summary("dipole")[0]
    assert data.digest() != ASEFile(data.path, length_unit="bohr", energy_key="REF_energy").digest()


def test_a_dipole_may_be_missing(waters, tmp_path):
    """The structure stays in its part, is trained on for the energy, and is counted."""
    path = waters()
    frames = ase.io.read(path, ":")
    for k in range(0, 10, 3):
        frames[k].info["REF_dipole"] = np.array([0.1, 0.0, k])
    ase.io.write(path, frames)
    data = ASEFile(path, dipole_key="REF_dipole", split="random", held_out=0.2)
    parts = {}
    for name in ("train", "validation", "test"):
        energies = data.part(name, "energy")
        given = [k in (1, 4, 7, 10) for k in energies.structures.ids]
        if not any(given):
            with pytest.raises(InputError, match=f"no structure of the part {name} has a dipole"):
                data.part(name, "dipole")
            continue
        parts[name] = merged({t: data.part(name, t) for t in ("energy", "dipole")})
        np.testing.assert_array_equal(parts[name].structures.ids, energies.structures.ids)
        known = np.isfinite(parts[name].labels["dipole"]).all(1)
        np.testing.assert_array_equal(known, given)
        z = parts[name].labels["dipole"][known, 2]
        np.testing.assert_allclose(z, energies.structures.ids[known] - 1)
    assert "train" in parts
    assert "6 structures have no dipole, the first is structure 2" in data.summary("dipole")
    for frame in frames:
        frame.info.pop("REF_dipole", None)
    ase.io.write(tmp_path / "none.extxyz", frames)
    with pytest.raises(StructureError, match="structure 1 has no dipole; beside"):
        ASEFile(str(tmp_path / "none.extxyz")).part("train", "dipole")
    # Nor does an isolated atom, which needs none, make it a file of dipoles.
    ase.io.write(tmp_path / "none.extxyz", [atom("O", -2000.0), *frames])
    with pytest.raises(StructureError, match="structure 2 has no MU; beside"):
        ASEFile(str(tmp_path / "none.extxyz"), dipole_key="MU").part("train", "dipole")


def test_a_unit_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="one of eV, meV, Ha, Ry, kcal/mol, kJ/mol, not 'kcal'"):
        ASEFile("file.xyz", energy_unit="kcal")
    with pytest.raises(InputError, match=r"data.length_unit must be one of Å, bohr, nm, pm, not"):
        ASEFile("file.xyz", length_unit="A")


def test_isolated_atoms_are_the_reference_and_no_examples(waters):
    """Their differences stay; what all atoms share is fitted. Fitted alone, they are not known."""
    data = ASEFile(waters(*(atom(s, energy, spin=2) for s, energy in ATOMS.items())))
    parts = [data.part(name, "energy") for name in ("train", "validation", "test")]
    assert sorted(np.concatenate([part.structures.ids for part in parts])) == list(range(3, 13))
    given, train = data.atoms("energy"), parts[0].structures
    assert given == {1: ATOMS["H"], 8: ATOMS["O"]}
    assert undetermined(train, (1, 8)) == [1, 8]
    assert undetermined(train, (1, 8), given) == []
    reference = Reference.fit(
        CALCULATED["energy"], (1, 6, 8), train, parts[0].labels["energy"], given=given
    )
    h, _, o = np.array(reference.composition.per_element) / 1000
    np.testing.assert_allclose([h, o], [ATOMS["H"] + BINDING, ATOMS["O"] + BINDING], rtol=1e-12)
    assert data._examples("energy") is data._examples("energy")
    lines = data.summary("energy")
    assert lines[0].startswith("water.extxyz: 10 structures of 3 atoms, energy -692.567 to -692.")
    assert "isolated atoms, which are no examples: 2" in lines
    assert not [line for line in lines if "warning" in line]


def test_a_table_in_the_config_does_the_same(waters):
    path = waters()
    table = ASEFile(path, energy_unit="Ha", atom_energies="H=-0.5, O=-75").atoms("energy")
    assert table == pytest.approx({1: -0.5 * ase.units.Ha, 8: -75 * ase.units.Ha}, rel=1e-6)
    one = ASEFile(path, atom_energies=f"O={ATOMS['O']}")
    (said,) = (line for line in one.summary("energy") if "warning" in line)
    assert "no energy of an isolated H is given: it is fitted" in said
    train = one.part("train", "energy")
    fitted = Reference.fit(CALCULATED["energy"], (1, 8), train.structures, train.labels["energy"],
                           given=one.atoms("energy"))  # fmt: skip
    of_o, of_h = np.array(fitted.composition.per_element)[::-1] / 1000
    # As near to the table's hydrogen, and to this oxygen but for a shift, as the sum allows.
    assert 2 * of_h + of_o == pytest.approx(train.labels["energy"][0], rel=1e-12)
    assert abs(of_o - ATOMS["O"]) < 10


@pytest.mark.parametrize("text", ["H", "H=", "H=x", "H=nan", "Xx=-1", "H=-1 H=-2", "H:-1"])
def test_a_table_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"data.atom_energies must name each element once"):
        ASEFile("file.xyz", atom_energies=text)


def test_atoms_that_contradict_each_other_are_refused(waters):
    path = waters(atom("H", -13.6), atom("H", -12.9))
    with pytest.raises(InputError, match=r"structure 2 gives an isolated H -12.9 eV, water.extxyz"):
        ASEFile(path).atoms("energy")
    with pytest.raises(InputError, match=r"structure 1 gives .* -13.6 eV, data.atom_energies -1 e"):
        ASEFile(path, atom_energies="H=-1").atoms("energy")
    with pytest.raises(StructureError, match=r"structure 1 is an atom with a charge"):
        ASEFile(waters(atom("H", -0.1, charge=1))).part("train", "energy")


def test_an_atom_of_a_crystal_is_an_example(waters):
    copper = bulk("Cu")
    copper.info["energy"] = -3.7
    data = ASEFile(waters(copper, atom("O", ATOMS["O"])))
    parts = [data.part(name, "energy") for name in ("train", "validation", "test")]
    assert sorted(np.concatenate([part.structures.ids for part in parts])) == [1, *range(3, 13)]
    assert data.atoms("energy") == {8: ATOMS["O"]}
