"""The exported folder works where this package does not exist."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from experiments import export, export_run
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predictor import Predictor

ALONE = """
import runpy, sys
for name in ("ase", "experiments", "flax", "hdgnn_jax", "jraph", "scipy.spatial"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(finished, once):
    def make(root):
        export.run(finished, root / "new" / "model", None)
        return root / "new" / "model"

    return once("exported", make)


def test_molecules_of_all_sizes_in_one_call(in_use, folder, tmp_path):
    several = [molecule(name) for name in ("H2O", "C6H6", "CH3CH2OH", "HCN", "C2H6")]
    for atoms in several:
        atoms.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "several.xyz", several, format="extxyz")
    several = ase.io.read(tmp_path / "several.xyz", index=":")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(folder / "run.py"), "several.xyz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    doubt = "warning: forces of a model trained on energies alone\n"
    assert (done.returncode, done.stderr) == (0, doubt)
    lines = done.stdout.splitlines()
    structures = Structures.pack([structure_of(atoms) for atoms in several])
    _, predictor = in_use
    expected = predictor.derivatives(structures)
    head, forces = ([line.split() for line in lines if ("force" in line) == of]
                    for of in (False, True))  # fmt: skip
    assert head[1][:4] == ["structure", "2:", "U0", "[meV]"]
    values = [float(words[-1]) / 1000 for words in head]
    slope = predictor.fitted[0].reference.scale / 1000
    np.testing.assert_allclose(values, expected.value, rtol=0, atol=1e-5 * slope)
    assert [words[0] for words in forces] == [s for atoms in several for s in atoms.symbols]
    assert {" ".join(words[1:5]) for words in forces} == {"force of U0 [meV/Å]"}
    found = np.array([words[5:] for words in forces], float) / 1000
    size = np.abs(expected.forces).max()
    np.testing.assert_allclose(found, expected.forces, rtol=0, atol=1e-4 * size)


def test_the_description_is_complete(in_use, folder):
    model = json.loads((folder / "model.json").read_text())
    assert (list(model["targets"]), model["energy"], model["cutoff"]) == (["U0"], "U0", 3.0)
    assert model["elements"] == {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
    assert set(model["outputs"]) == {"U0", "forces", "virial"}
    reference, said = in_use[1].fitted[0].reference, model["targets"]["U0"]
    assert said["unit"] == "meV"
    composition = reference.composition
    assert tuple(said["per_element"].values()) == composition.per_element
    assert (said["constant"], said["averaged"]) == (composition.constant, composition.averaged)
    assert said["scale"] == reference.scale
    program = (folder / "model.stablehlo").read_bytes()
    assert model["sha256"] == hashlib.sha256(program).hexdigest()
    assert model["run"]["config"]["target"] == "U0"
    assert model["run"]["report"]["mae"] > 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.json", "model.stablehlo", "run.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("1\n\nH 0 0 0\n1\n\nAu 0 0 0\n", "structure 2: contains Au; this model knows H, C, N"),
        ("2\n\nH 0 0 0\nH 0 0 0\n", "structure 1: two atoms at one place"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", "a coordinate that is no number"),
        ("2\n\nH 0 0 0\n", "structure 1: an atom's line is missing"),
        ("2\n\nH 0 0 0\nH 0 0\n", "structure 1: .* or has too few columns"),
        ('1\nLattice="6 0 0 0 0 0 0 0 6"\nH 0 0 0\n', "structure 1: has a cell without volume"),
        ('1\nLattice="6 0 0 0 6 0 0 0 6" pbc="y n n"\nH 0 0 0\n', "y in pbc is neither T nor F"),
        ("words\n", "structure 1: invalid literal"),
        ("", "structure 1: there is none"),
    ],
)
def test_the_script_says_what_is_wrong(folder, tmp_path, text, message):
    if text is not None:
        (tmp_path / "in.xyz").write_text(text)
    main = runpy.run_path(str(folder / "run.py"))["main"]
    with pytest.raises(SystemExit, match=r"^error: .*" + message) as stopped:
        main(tmp_path / "in.xyz")
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("words", ["T F T", "True False true", "1 0 1"])
def test_the_script_reads_which_directions_are_periodic(tmp_path, words):
    text = f'1\nLattice="5 0 0 0 6 0 0 0 7" pbc="{words}"\nH 0 0 0\n'
    (tmp_path / "in.xyz").write_text(text)
    ((_, _, cell, _),) = export_run.read(tmp_path / "in.xyz")
    np.testing.assert_array_equal(cell, [[5, 0, 0], [0, 0, 7]])


def test_the_script_knows_its_own_program(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model.stablehlo").write_bytes(b"of another run")
    with pytest.raises(SystemExit, match="is not the file that"):
        runpy.run_path(str(other / "run.py"))["main"]("in.xyz")


def test_its_folder_is_no_run(folder):
    with pytest.raises(CheckpointError, match=r"is a program that `export` wrote"):
        Predictor.load(folder)


def test_nothing_is_overwritten_or_made_in_vain(finished, folder, tmp_path):
    before = (folder / "model.json").read_bytes()
    with pytest.raises(ValueError, match="is there already: name a new folder"):
        export.run(finished, folder, None)
    assert (folder / "model.json").read_bytes() == before
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export.run(tmp_path / "typo", tmp_path / "model", None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "weights").touch()
    with pytest.raises(CheckpointError, match="is a file, and this needs the folder of a run"):
        export.run(tmp_path / "weights", tmp_path / "model", None)
