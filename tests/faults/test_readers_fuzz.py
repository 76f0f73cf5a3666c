"""Readers of users' files: what was written, or the documented error; never another exception.

A flipped digit in a text without a checksum is another number, and no reader can tell. So text
files must give all that lies before the damage unchanged; what has a digest must be the same whole.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from fuzz import damaged, law
from hypothesis import assume, given
from hypothesis import strategies as st

from hdgnn_jax.data import is2re, is2re_build, oc20_lmdb, qm9, torch_pickle
from hdgnn_jax.data.ase_files import read_labelled, read_structures
from hdgnn_jax.data.cache import digest_file, write_with_digest
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.oc20_lmdb import BadRecord, Is2reError, Lmdb, Record
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, StructureError, Structures
from hdgnn_jax.inference import inputs
from hdgnn_jax.inference.rows import Row, as_extxyz
from hdgnn_jax.training.metrics import MetricWriter, _line, read_metrics

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
            Structures.pack(good).check(range(1, len(SYMBOLS)))
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
            assert "damaged.extxyz, structure " in found or "there is no structure" in found
            return
        n, (values,) = len(found.structures), found.labels.values()
        assert found.labels.keys() == {name}
        assert values.shape == ((n, 3) if name == "dipole" else (n,))
        assert found.groups is None or found.groups.shape == (n,)
        assert np.isfinite(values).all()
        if found.forces is not None:
            assert found.forces.shape == found.structures.positions.shape
            assert np.isfinite(found.forces).all()

    check()


@pytest.mark.parametrize(
    ("old", "new", "name", "message"),
    [
        ("energy=", "energy=many ignored=", "energy", "structure 1 has no energy that is a"),
        ("energy=", 'energy="1 2 3" ignored=', "energy", "structure 1 has no energy that is a"),
        ("energy=", "energy=T ignored=", "energy", "structure 1 has no energy that is a number"),
        ("energy=", "energy=nan ignored=", "energy", "structure 1 has no energy that is a number"),
        ("forces:R:3", "forces:R:2:rest:R:1", "energy", "structure 1 has forces that are not"),
        ("forces:R:3", "other:R:3", "energy", "structure 1 has no forces that are numbers"),
        ("dipole=", 'dipole="1 2" ignored=', "dipole", "structure 1 has no dipole that is three"),
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


# ---- OC20. Documented: PickleError (a ValueError) of a pickle; Is2reError of a file, and its
# BadRecord of a record.

OC20 = pathlib.Path(__file__).parents[1] / "data" / "oc20"


def records(count: int, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        n = int(rng.integers(1, 9))
        positions = rng.uniform(0, 7, (n, 3)).astype(np.float32).astype(np.float64)
        found.append(
            Record(
                sid=7 * k,
                atomic_numbers=rng.integers(1, 119, n).astype(np.int32),
                positions=positions,
                cell=np.diag([7.0, 8.0, 20.0]) + np.round(rng.normal(size=(3, 3)), 2) / 8,
                tags=rng.integers(0, 3, n).astype(np.int8),
                fixed=rng.random(n) < 0.5,
                positions_relaxed=positions + 0.125,
                y_init=rng.normal(),
                y_relaxed=rng.normal() if k % 3 else None,
            )
        )
    return found


def assert_same_record(found: Record, expected: Record) -> None:
    for name, a, b in zip(Record._fields, found, expected, strict=True):
        np.testing.assert_array_equal(a, b, name)


def assert_valid(record: Record) -> None:
    n = len(record.atomic_numbers)
    assert record.positions.shape == (n, 3)
    assert record.cell.shape == (3, 3)
    assert np.isfinite(record.positions).all()
    assert np.isfinite(record.cell).all()
    assert ((record.atomic_numbers >= 1) & (record.atomic_numbers <= 118)).all()
    assert ((record.tags >= 0) & (record.tags <= 2)).all()
    for energy in (record.y_init, record.y_relaxed):
        assert energy is None or math.isfinite(energy)


SPIED = {"watching": False, "seen": []}


def spy(event: str, arguments: tuple) -> None:
    """Hooks cannot be removed: this one looks only while it is told to."""
    if SPIED["watching"] and event.partition(".")[0] in (
        "exec", "compile", "import", "open", "os", "subprocess", "pickle", "socket", "ctypes",
    ):  # fmt: skip
        SPIED["seen"].append(event)


def test_a_damaged_pickle_is_refused_or_a_valid_record_and_calls_nothing(tried):
    """Seven kinds of damage, in records of torch and in ours; nothing is imported, opened or run,
    and no memory beyond a few times the pickle's."""
    sources = [path.read_bytes() for path in sorted(OC20.glob("*_slab.pickle"))]
    sources.append(torch_pickle.dumps(oc20_lmdb._fields(records(2)[1])))
    sys.addaudithook(spy)

    @law(400)
    @given(st.sampled_from(sources).flatmap(damaged))
    def check(case):
        tried["damaged pickles"] += 1
        SPIED["watching"] = True
        try:
            fields = torch_pickle.loads(case[0])
        except torch_pickle.PickleError:
            return
        finally:
            SPIED["watching"] = False
        assert all(isinstance(v, np.ndarray | int | float | str) for v in fields.values())
        assert sum(np.asarray(v).nbytes for v in fields.values()) < 10 * len(case[0])
        with contextlib.suppress(ValueError):
            assert_valid(oc20_lmdb._checked(fields))

    tracemalloc.start()
    check()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert SPIED["seen"] == []
    assert peak < 1e8


def test_records_with_damaged_pickles_are_named_and_the_others_read(tmp_path, tried):
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "some.lmdb"
    good = records(3)
    pickled = [torch_pickle.dumps(oc20_lmdb._fields(record)) for record in good]

    @law(60)
    @given(damaged(pickled[1]))
    def check(case):
        tried["damaged LMDB files"] += 1
        path.unlink(missing_ok=True)
        with (
            lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=1 << 20) as env,
            env.begin(write=True) as content,
        ):
            for k, value in enumerate((pickled[0], case[0], pickled[2])):
                content.put(b"%d" % k, value)
            content.put(b"length", pickle.dumps(3))
        with Lmdb(path) as content:
            first, second, third = content.records()
        assert_same_record(first, good[0])
        assert_same_record(third, good[2])
        if isinstance(second, BadRecord):
            assert str(second).startswith(f"{path}, record 1: ")
        else:
            assert_valid(second)

    check()


DAMAGED_PAGES = """
import pathlib, random, signal, sys
from hdgnn_jax.data import oc20_lmdb

path, cases = pathlib.Path(sys.argv[1]), int(sys.argv[2])
content = path.read_bytes()
signal.alarm(60)
counts = {"read": 0, "named": 0, "refused": 0}
for case in range(cases):
    rng = random.Random(f"pages {case}")
    spoiled = bytearray(content)
    for _ in range(rng.choice([1, 2, 4])):
        # Headers of LMDB's pages, where its structure is, more often than what they hold.
        at = rng.randrange(0, len(spoiled), 4096) + rng.randrange(rng.choice([48, 4096]))
        kind = rng.choice(["flip", "byte", "zeros", "cut"])
        if kind == "flip" and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and at < len(spoiled):
            spoiled[at] = rng.randrange(256)
        elif kind == "zeros":
            spoiled[at : at + 16] = bytes(len(spoiled[at : at + 16]))
        elif kind == "cut" and rng.random() < 0.2:
            del spoiled[max(at, 4096) :]
    damaged = path.with_name("damaged.lmdb")
    damaged.unlink(missing_ok=True)
    damaged.write_bytes(spoiled)
    try:
        skipped = []
        for record in oc20_lmdb.read_lmdb(damaged, skipped):
            assert len(record.positions) == len(record.atomic_numbers)
        counts["named" if skipped else "read"] += 1
    except oc20_lmdb.Is2reError as error:
        assert str(damaged) in str(error), error
        counts["refused"] += 1
print(*counts.values())
"""


def test_an_lmdb_file_with_damaged_pages_is_refused_or_read(tmp_path, tried):
    """In a process of its own, for LMDB maps the file and checks little of what its pages say.

    Its own limit: about one in a thousand such damages, of a page's list of sizes, makes LMDB read
    past the end of the map, and the process ends with SIGBUS. None of these cases is of that kind.
    """
    cases = 200
    path = tmp_path / "some.lmdb"
    oc20_lmdb.write_lmdb(path, records(12))
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", DAMAGED_PAGES, str(path), str(cases)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split()]
    assert sum(counts) == cases
    assert min(counts) > 0
    tried["damaged LMDB files"] += cases


# ---- Caches. Documented: QM9Error and Is2reError, which name the file and the remedy.


def test_a_damaged_cache_of_qm9_is_the_same_or_refused(tmp_path, tried):
    folder = tmp_path / "qm9"
    rng = np.random.default_rng(0)
    arrays = {
        "offsets": np.array([0, 2, 5]), "atomic_numbers": np.array([1, 1, 8, 1, 1], np.int32),
        "positions": rng.normal(size=(5, 3)), "ids": np.array([1, 2]),
        **{name: rng.normal(size=2) for name in TARGETS},
    }  # fmt: skip
    packed = folder / qm9.PACKED
    write_with_digest(packed, lambda path: np.savez(path, **arrays))
    originals = {path: path.read_bytes() for path in (packed, digest_file(packed))}

    @law(150)
    @given(st.data())
    def check(data):
        tried["damaged caches"] += 1
        for path, content in originals.items():
            path.write_bytes(content)
        path = data.draw(st.sampled_from([*originals]))
        spoiled, _ = data.draw(damaged(originals[path]))
        if data.draw(st.integers(0, 9)):
            path.write_bytes(spoiled)
        else:
            path.unlink()
        try:
            found = qm9.read(folder)
        except qm9.QM9Error as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(found.structures.positions, arrays["positions"])
            np.testing.assert_array_equal(found.structures.ids, arrays["ids"])
            assert found.labels.keys() == TARGETS.keys()
            assert all((found.labels[name] == arrays[name]).all() for name in TARGETS)
            return
        assert said.startswith(str(packed))
        assert "delete it and run again: it is made anew" in said

    check()


def test_damaged_polarizabilities_are_refused_and_missing_ones_made_again(
    tmp_path, tried, monkeypatch
):
    structures = Structures.pack([Structure(np.array([1]), np.zeros((1, 3)))] * 3)
    tensors = np.random.default_rng(0).normal(size=(3, 3, 3))
    monkeypatch.setattr(qm9, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(qm9, "read_csv", lambda path: None)
    monkeypatch.setattr(qm9, "parse_tensors", lambda table: None)
    monkeypatch.setattr(qm9.polarizability, "in_frame_of_positions", lambda *_: (tensors, None))
    np.testing.assert_array_equal(qm9.load_polarizability(structures, tmp_path), tensors)
    path = tmp_path / "qm9" / qm9.TENSORS
    files = {file: file.read_bytes() for file in (path, digest_file(path))}
    for file in files:
        file.unlink()
        np.testing.assert_array_equal(qm9.load_polarizability(structures, tmp_path), tensors)
        assert {name: name.read_bytes() for name in files} == files

    @law(80)
    @given(st.sampled_from([*files]).flatmap(lambda f: st.tuples(st.just(f), damaged(files[f]))))
    def check(case):
        tried["damaged caches"] += 1
        file, (spoiled, _) = case
        for name, content in files.items():
            name.write_bytes(content)
        file.write_bytes(spoiled)
        try:
            found = qm9.load_polarizability(structures, tmp_path)
        except qm9.QM9Error as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(found, tensors)
            return
        assert f"{path} is damaged" in said
        assert "delete it and run again: it is made anew" in said

    check()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of ten records in three files."""
    monkeypatch.setattr(is2re_build, "SHARD", 4)
    (tmp_path / "source" / "train").mkdir(parents=True)
    oc20_lmdb.write_lmdb(tmp_path / "source" / "train" / "data.lmdb", records(10))
    is2re_build.build(tmp_path / "source", tmp_path / "cache")
    return tmp_path / "cache"


def test_a_damaged_cache_of_is2re_is_the_same_or_refused(folder, tried):
    expected = is2re.read(folder, "train")
    files = [folder / "manifest.json", *sorted(folder.glob("*.npz"))]
    originals = {file: file.read_bytes() for file in files}

    @law(400)
    @given(st.data())
    def check(data):
        tried["damaged caches"] += 1
        # The manifest has no digest of its own: half of the cases are its.
        file = files[0] if data.draw(st.booleans()) else data.draw(st.sampled_from(files[1:]))
        content, _ = data.draw(damaged(originals[file], most=2))
        if data.draw(st.integers(0, 9)):
            file.write_bytes(content)
        else:
            file.unlink()
        try:
            found = is2re.read(folder, "train")
        except Is2reError as error:
            said = str(error)
        else:
            for name, value in vars(expected.structures).items():
                np.testing.assert_array_equal(getattr(found.structures, name), value, name)
            assert found.labels.keys() == expected.labels.keys()
            for name, value in expected.labels.items():
                np.testing.assert_array_equal(found.labels[name], value, name)
            return
        finally:
            file.write_bytes(originals[file])
        assert str(folder) in said
        assert "build" in said or "has no part 'train', but " in said

    check()


def test_a_shard_whose_name_is_damaged_is_missed(folder, tried):
    """One bit of a name's ending, and its records would silently be left out."""
    manifest = folder / "manifest.json"
    whole = manifest.read_text()
    for old, new in ((".npz", ".np{"), ("00001-of-00003.npz", "00001-of-00003.npx"),
                     ('"files"', '"filez"'), ('"records": 10', '"records": 11'),
                     ('"records": 10', '"records": "10"'), ('"parts"', '"part{"')):  # fmt: skip
        manifest.write_text(whole.replace(old, new, 1))
        with pytest.raises(Is2reError, match=r"manifest.json (is damaged|cannot be read): .*build"):
            is2re.read(folder, "train")
        tried["damaged caches"] += 1
    for text in ("[]", "null", '{"parts": []}', '{"parts": {"train": 1}}', "[" * 100_000):
        manifest.write_text(text)
        with pytest.raises(Is2reError, match=r"manifest.json cannot be read: .*build"):
            is2re.read(folder, "train")
        tried["damaged caches"] += 1


# ---- The curve of a run. Documented: FileNotFoundError, and ValueError naming the line.


def test_damaged_metrics_lose_no_row_in_silence(tmp_path, tried):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 9):
            writer.write(step, {"train_loss": 1 / step, "lr": math.nan if step == 4 else 1e-3})
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    rows = read_metrics(tmp_path)

    @law(400)
    @given(damaged(content))
    def check(case):
        tried["damaged curves"] += 1
        spoiled, first = case
        path.write_bytes(spoiled)
        try:
            found = read_metrics(tmp_path)
        except ValueError as error:
            said = str(error)
        else:
            whole = content[:first].count(b"\n")
            assert len(found) == spoiled.count(b"\n")
            assert repr(found[:whole]) == repr(rows[:whole])
            for row in found:
                assert type(row.pop("step")) is int
                assert all(type(value) is float for value in row.values())
            return
        assert said.startswith(f"{path}, line ")
        assert "is not a row of metrics" in said
        assert "\n" not in said

    check()


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": null}', b'{"step": "1"}', b'{"step": 1.5}', b'{"step": true}',
        b'{"step": 1, "x": "2"}', b'{"step": 1, "x": []}',
        b'{"step": 1, "x": 1' + b"0" * 400 + b"}",
        b"\xff", b'{"step": 1}\x0b{"step": 2}', b"[" * 100_000, b'"step"', b"1",
    ],
)  # fmt: skip
def test_a_line_of_other_things_is_named(tmp_path, tried, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not a row of metrics"):
        read_metrics(tmp_path)
    tried["damaged curves"] += 1


def test_what_was_written_is_read_back(tmp_path, tried):
    numbers = st.floats(allow_nan=True, allow_infinity=True)

    @law(40)
    @given(st.lists(st.dictionaries(st.sampled_from("abcd"), numbers, max_size=3), max_size=5))
    def check(values):
        tried["files written and read back"] += 1
        lines = [{"step": k, **of_step} for k, of_step in enumerate(values)]
        (tmp_path / "metrics.jsonl").write_text("".join(map(_line, lines)))
        expected = [
            {k: v if k == "step" or math.isfinite(v) else math.nan for k, v in row.items()}
            for row in lines
        ]
        assert repr(read_metrics(tmp_path)) == repr(expected)

    check()
