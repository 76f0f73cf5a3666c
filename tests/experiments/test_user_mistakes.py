"""What a user can do wrong, and the line that is said of it.

Elsewhere: systems of another size (`run/test_size.py`), charges and spins in a file
(`data/test_ase_files.py`), wrong fields of a config (`faults/test_config_fuzz.py`), a folder that
holds no run, or another (`test_predict.py`, `test_train.py`).
"""

from __future__ import annotations

import json

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from experiments import predict
from experiments.configs.ase import get_config
from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.errors import InputError
from hdgnn_jax.inference.inputs import rows_of
from hdgnn_jax.run.task import Task, examples

KCAL = ase.units.kcal / ase.units.mol
B3LYP = {"H": -13.61, "C": -1029.86, "O": -2042.61}
"""eV."""


def file_of(path, energy=1.0, length=1.0, lone=(), n=12, first=0, name="CH3CH2OH", zero=0, **info):
    """Shapes of ethanol with energies of all electrons, in another unit of `energy` eV and `length`
    Å, after isolated atoms."""
    rng, frames = np.random.default_rng(0), []
    for symbol in lone:
        atom = ase.Atoms(symbol, info=info)
        atom.calc = SinglePointCalculator(atom, energy=B3LYP[symbol] / energy)
        frames.append(atom)
    for k in range(first, first + n):
        atoms = molecule(name)
        atoms.rattle(0.03, seed=k)
        total = sum(B3LYP[s] for s in atoms.get_chemical_symbols()) + (zero - 3.5) * len(atoms)
        total += 0.1 * k
        forces = rng.normal(size=(len(atoms), 3))
        atoms.positions /= length
        atoms.calc = SinglePointCalculator(
            atoms, energy=total / energy, forces=forces / energy * length
        )
        frames.append(atoms)
    ase.io.write(path, frames)


DATA = {
    "nothing wrong": ({}, {}, []),
    "isolated atoms": ({"lone": "HCO"}, {}, []),
    "kcal/mol": (
        {"energy": KCAL},
        {},
        ["all electrons in kcal/mol, and are read in eV", "components of forces are 23 eV/Å"],
    ),
    "kcal/mol, said": ({"energy": KCAL}, {"energy_unit": "kcal/mol"}, []),
    "a unit of no name": (
        {"energy": KCAL / 3}, {}, ["below those of all electrons: is config.data", "forces are 70"]
    ),
    "Ha": ({"energy": ase.units.Ha}, {}, ["like those of all electrons in Ha, and are read in eV"]),
    "bohr": ({"length": ase.units.Bohr}, {}, ["Å: is config.data.length_unit right"]),
    "bohr, said": ({"length": ase.units.Bohr}, {"length_unit": "bohr"}, []),
    "Å taken for nm": ({}, {"length_unit": "nm"}, ["any two atoms are never nearer than 4 Å"]),
    "an element without its atom": ({"lone": "HC"}, {}, ["no energy of an isolated O is given"]),
    "atoms in another unit": (
        {}, {"atom_energies": "H=-.5,C=-37.8,O=-75"}, ["are the atoms' energies in config"]
    ),
    "the wrong sign": ({"energy": -1}, {}, ["above those of isolated atoms: is their sign right"]),
}  # fmt: skip
"""Mistake to what is in the file, the fields of `config.data`, and the warnings."""


@pytest.mark.parametrize("mistake", DATA)
def test_values_that_can_hardly_be_right_are_said(tmp_path, mistake):
    content, fields, expected = DATA[mistake]
    file_of(tmp_path / "mine.extxyz", **content)
    lines = ASEFile(str(tmp_path / "mine.extxyz"), **fields).summary("energy")
    said = [line for line in lines if line.startswith("warning: ")]
    assert len(said) == len(expected), said
    for line, words in zip(said, expected, strict=True):
        assert words in line


@pytest.mark.parametrize("mistake", ["nothing wrong", "kcal/mol", "Ha", "bohr"])
def test_files_of_other_parts_are_doubted_as_well(tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    content, fields, expected = DATA[mistake]
    file_of("mine.extxyz", n=9)
    file_of("other.extxyz", first=20, **content)
    lines = ASEFile("mine.extxyz", "other.extxyz", **fields).summary("energy")
    said = [line for line in lines if line.startswith("warning: ")]
    assert len(said) == len(expected), said
    for line, words in zip(said, expected, strict=True):
        assert line.startswith("warning: other.extxyz: ")
        assert words in line


@pytest.mark.parametrize(
    ("content", "doubted"),
    [({}, False), ({"zero": 2.0}, True), ({"name": "CH3OH"}, False), ({"name": "O2"}, False)],
)
def test_another_method_of_a_part_is_said(tmp_path, content, doubted):
    """But not energies of other molecules, which cannot be compared."""
    file_of(tmp_path / "mine.extxyz", n=20)
    file_of(tmp_path / "other.extxyz", first=20, **content)
    config = json.loads(get_config("quick").to_json())
    paths = {"path": tmp_path / "mine.extxyz", "validation_path": tmp_path / "other.extxyz"}
    config["data"].update({name: str(path) for name, path in paths.items()})
    data = dataset(config)
    train = examples(config, data, "train")
    said = [line for line in Task.prepare(config, data, train)[0].warnings(train)
            if "are both of one method?" in line]  # fmt: skip
    assert len(said) == doubted
    if doubted:
        assert said[0].startswith("energy of validation is +2")


def test_a_file_without_forces_is_named(tmp_path):
    file_of(tmp_path / "mine.extxyz", n=9)
    frames = ase.io.read(tmp_path / "mine.extxyz", index=":")
    for k, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
        atoms.rattle(0.01, seed=k)
    ase.io.write(tmp_path / "test.extxyz", frames)
    data = ASEFile(str(tmp_path / "mine.extxyz"), test_path=str(tmp_path / "test.extxyz"))
    assert "test.extxyz has no forces: test compares none" in data.summary("energy")


def test_one_force_that_is_not_sound_is_named(tmp_path):
    file_of(tmp_path / "mine.extxyz")
    frames = ase.io.read(tmp_path / "mine.extxyz", index=":")
    frames[7].calc.results["forces"][2] = 1e4
    for atoms in frames:
        atoms.calc.results["forces"][3:] = 0
    ase.io.write(tmp_path / "mine.extxyz", frames)
    (said,) = (line for line in ASEFile(str(tmp_path / "mine.extxyz")).summary("energy")
               if line.startswith("warning: "))
    words = "warning: structure 8 has a force of 1.73e+04 eV/Å, where the median is 1."
    assert said.startswith(words)


@pytest.mark.parametrize(("unit", "doubted"), [(1.0, False), (1 / ase.units.GPa, True)])
def test_stress_in_gpa_is_doubted(tmp_path, unit, doubted):
    frames = []
    for k in range(4):
        atoms = bulk("Al", cubic=True)
        atoms.rattle(0.02, seed=k)
        stress = np.array([3, 2, 1, 0, 0, 0]) * ase.units.GPa * unit
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * k, stress=stress)
        frames.append(atoms)
    ase.io.write(tmp_path / "mine.extxyz", frames)
    lines = ASEFile(str(tmp_path / "mine.extxyz")).summary("energy")
    assert any("the stress times the volume is 21 eV an atom" in line for line in lines) == doubted


@pytest.mark.parametrize(
    ("fields", "target", "line"),
    [
        ({"path": "nowhere.xyz"}, "energy", "there is no file nowhere.xyz: set config.data.path"),
        ({"path": "."}, "energy", ". is a folder: set config.data.path"),
        ({"path": "empty.xyz"}, "energy", "empty.xyz, structure 1 cannot be read (Empty file"),
        ({"path": "some.xyz"}, "energy", "11 of 12 structures have it: leave the others out"),
        ({"path": "NOTES.md"}, "energy", "ASE finds no structure in NOTES.md"),
        ({"path": "atoms.xyz"}, "energy", "has 0 groups of structures: none is left to train on"),
        ({"energy_key": "REF"}, "energy", "structure 1 has no REF; beside positions it has"),
        ({"forces_key": "REF"}, "energy", "structure 1 has no REF"),
        ({"energy_key": "REF"}, "dipole", "data.energy_key is for energy, but config.target is"),
        ({"atom_energies": "H=-1"}, "dipole", "data.atom_energies is for energy, but config."),
        ({}, "dipole", "has no dipole; beside positions it has energy, for"),
        ({"dipole_key": "MU"}, "energy", "data.dipole_key is for dipole, but config.target is e"),
        ({"dipole_key": "MU"}, "dipole", "has no MU; beside positions it "),
        ({}, "u0", "unknown target 'u0'; a file of ASE has energy, dipole"),
        ({"energy_unit": "hartree"}, "energy", "must be one of eV, meV, Ha, Ry, kcal/mol, kJ/mol"),
        ({"held_out": 0.7}, "energy", "data.held_out must lie between 0 and 0.5, not 0.7"),
        ({"train_size": 99}, "energy", "data.train_size must lie between 1 and 10, not 99"),
    ],
)
def test_data_that_cannot_be_trained_on_are_one_line(tmp_path, monkeypatch, fields, target, line):
    monkeypatch.chdir(tmp_path)
    file_of("mine.extxyz")
    file_of("atoms.xyz", lone="HCO", n=0)
    file_of("some.xyz", n=11)
    with (tmp_path / "some.xyz").open("a") as more:
        more.write(WATER.format("Properties=species:S:1:pos:R:3"))
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "NOTES.md").write_text("# Notes\n")

    def read() -> None:
        data = ASEFile(**{"path": "mine.extxyz", **fields})
        data.part("train", data.chosen([target])[0].name)

    with pytest.raises(InputError) as error:
        read()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


WATER = "3\n{}\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere.xyz", "there is no file nowhere.xyz"),
        ("folder", "folder is a folder: name the files in it"),
        ("empty.xyz", "cannot be read (Empty file"),
        ("empty.smi", "holds no structure"),
        ("words.xyz", "cannot be read ("),
        ("words.doc", "cannot be read (ASE knows no format doc"),
        ("qm9:999999", "must be qm9:INDEX or qm9:FIRST-LAST"),
        ("qm9:x", "must be qm9:INDEX or qm9:FIRST-LAST"),
        ("qm9:0001338850000", "must be qm9:INDEX or qm9:FIRST-LAST"),
        ("qm9:1-0001338850000", "must be qm9:INDEX or qm9:FIRST-LAST"),
        ("smiles:C1CC", "'C1CC' is no SMILES that RDKit can read"),
        ("smiles:", "'' is no SMILES that RDKit can read"),
    ],
)
def test_inputs_that_cannot_be_predicted_are_a_row_with_the_reason(
    tmp_path, monkeypatch, name, line
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "good.xyz").write_text(WATER.format(""))
    for empty in ("empty.xyz", "empty.smi"):
        (tmp_path / empty).write_text("")
    for words in ("words.xyz", "words.doc"):
        (tmp_path / words).write_text("Dear colleague,\n")
    first, bad, last = rows_of(["good.xyz", name, "good.xyz"])
    assert (first.reason, last.reason) == (None, None)
    assert line in bad.reason
    assert "\n" not in bad.reason


@pytest.mark.parametrize(
    ("name", "doubt", "geometry"),
    [
        ("smiles:O.O", "", "2 molecules side by side"),
        ("smiles:[OH-]", "charge -1, which the model does not see", "RDKit"),
        ("smiles:[CH3]", "1 unpaired electron, which the model does not see", "RDKit"),
        ("ion.extxyz", "charge 1, which the model does not see", ""),
    ],
)
def test_what_a_model_does_not_see_is_a_warning(tmp_path, monkeypatch, name, doubt, geometry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ion.extxyz").write_text(WATER.format("charge=1"))
    (row,) = rows_of([name])
    assert row.structures[0].doubt == doubt
    assert geometry in row.geometry


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"unit": "D"}, "--unit=D must be one of eV, meV, Ha, Ry, kcal/mol, kJ/mol"),
        ({"unit": "hartree"}, "--unit=hartree must be one of eV, meV, Ha, Ry, kcal/mol, kJ/mol"),
        ({"forces": True}, "--forces needs --output=FILE.json or FILE.extxyz"),
        ({"conformers": 3}, "--conformers is for SMILES: other positions are taken"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(finished, options, line):
    with pytest.raises(InputError, match=line):
        predict.run([finished], ["qm9:1"], None, predict.Options(**options))


def test_the_same_run_twice_is_said(finished, capsys):
    predict.run([finished, finished / "."], ["smiles:O"], None, predict.Options())
    assert f"warning: --workdir names {finished} twice" in capsys.readouterr().err
