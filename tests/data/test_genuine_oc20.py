"""Three systems of OC20 itself, CC BY 4.0 (Chanussot et al. 2021), through all that reads them."""

from __future__ import annotations

import pathlib

import ase.io
import jax
import numpy as np
import pytest
from oc20_records import assert_same, read_lmdb
from small import quick_key

from experiments import prepare
from hdgnn_jax import HDGNN, Budget, HyperParameters, Structures, collate, find_neighbors
from hdgnn_jax.data import is2re, is2re_build, oc20_lmdb
from hdgnn_jax.data.ase_files import read_labelled, read_structures
from hdgnn_jax.data.oc20_lmdb import Record


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found = np.load(pathlib.Path(__file__).parent / "oc20" / "genuine.npz")
    ends = np.cumsum(found["natoms"])
    return [
        Record(
            sid=int(found["sid"][k]),
            atomic_numbers=found["atomic_numbers"][atoms].astype(np.int32),
            positions=found["pos"][atoms].astype(float),
            cell=found["cell"][k].astype(float),
            tags=found["tags"][atoms],
            fixed=found["fixed"][atoms].astype(bool),
            positions_relaxed=found["pos_relaxed"][atoms].astype(float),
            y_init=float(found["y_init"][k]),
            y_relaxed=float(found["y_relaxed"][k]),
        )
        for k, atoms in enumerate(map(slice, ends - found["natoms"], ends))
    ]


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("oc20")
    (folder / "train").mkdir()
    oc20_lmdb.write_lmdb(folder / "train" / "data.0000.lmdb", records)
    return folder


def test_files_and_cache_have_them_to_the_bit(records, folder, tmp_path):
    for found, record in zip(read_lmdb(folder / "train"), records, strict=True):
        assert_same(found, record)
    is2re_build.build(folder, tmp_path / "cache")
    packed = is2re.read(tmp_path / "cache", "train", "slab")
    structures = packed.structures
    np.testing.assert_array_equal(packed.labels["relaxed_energy"], [r.y_relaxed for r in records])
    np.testing.assert_array_equal(structures.cells, [r.cell for r in records])
    for name in ("positions", "tags", "fixed", "atomic_numbers"):
        expected = np.concatenate([getattr(record, name) for record in records])
        np.testing.assert_array_equal(getattr(structures, name), expected)


def test_extxyz_has_all_that_the_records_have(records, folder, tmp_path):
    """Positions to the eight digits of ASE's writer."""
    path = tmp_path / "three.extxyz"
    prepare.extxyz(folder / "train", path, "stop")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for atoms, record in zip(ase.io.iread(path, index=":"), records, strict=True):
        np.testing.assert_allclose(atoms.positions, record.positions, rtol=0, atol=1e-8)
        relaxed = atoms.arrays["positions_relaxed"]
        np.testing.assert_allclose(relaxed, record.positions_relaxed, rtol=0, atol=1e-8)
        np.testing.assert_allclose(atoms.cell.array, record.cell, rtol=1e-12)
        np.testing.assert_array_equal(atoms.numbers, record.atomic_numbers)
        np.testing.assert_array_equal(atoms.get_tags(), record.tags)
        info = {name: getattr(record, name) for name in ("sid", "y_init", "y_relaxed")}
        assert {name: atoms.info[name] for name in info} == info
    for structure, record in zip(read_structures(path), records, strict=True):
        np.testing.assert_array_equal(structure.fixed, record.fixed)
    energies = read_labelled(path, "energy", "y_relaxed").labels["energy"]
    np.testing.assert_array_equal(energies, [record.y_relaxed for record in records])


def test_an_atom_moved_by_vectors_of_the_cell_is_where_it_was(records, folder, tmp_path):
    """One relaxed system has atoms on the other side of its cell."""
    path = tmp_path / "three.extxyz"
    prepare.extxyz(folder / "train", path, "stop")
    start = list(read_structures(path))
    turns = [
        np.round((r.positions_relaxed - r.positions) @ np.linalg.inv(r.cell)) for r in records
    ]
    assert [bool(turn.any()) for turn in turns].count(True) == 1
    moved = [
        structure.__class__(**{**vars(structure), "positions": structure.positions + turn @ r.cell})
        for structure, turn, r in zip(start, turns, records, strict=True)
    ]
    elements = tuple(sorted({z for r in records for z in r.atomic_numbers.tolist()}))
    model = HDGNN(
        HyperParameters(
            elements=elements, tags=True, cutoff=5.0, max_neighbors=20, degree=1, product_degree=1,
            layers=2, channels=8, hidden=8, invariant_channels=8, edge_channels=8, n_gaussians=16,
        )
    )  # fmt: skip
    found, apply = [], jax.jit(model.apply)
    for some in (start, moved):
        structures = Structures.pack(some)
        neighbors = find_neighbors(structures, 5.0, 20)
        budget = Budget(1 << 13, len(structures.positions) + 1, 4)
        graph = collate(structures, neighbors, np.zeros(3), np.arange(3), budget)
        if not found:
            variables = jax.jit(model.init)(quick_key(0), graph)
        found.append(np.asarray(apply(variables, graph))[:3])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
