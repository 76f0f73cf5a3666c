"""What is held out is whole blocks and groups, of about the share that is asked for."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from molecules import KNOWN

from hdgnn_jax.data.ase_dataset import ASEFile
from hdgnn_jax.data.partition import blocks, hold_out, refuse_shared, without_copies
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import StructureError


def test_a_trajectory_is_cut_in_few_blocks_and_molecules_are_not_cut():
    """Ten frames of one molecule, three shapes of the next, and two of others."""
    structures = KNOWN.take(np.array([0] * 10 + [1] * 3 + [2, 3]))
    assert blocks(structures, 5).tolist() == [0] * 5 + [1] * 5 + [2] * 3 + [3, 4]
    assert blocks(structures, 4.9).tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 3 + [4, 5]
    assert blocks(structures, 0.2).tolist() == list(range(15))


def test_trajectories_that_take_turns_are_cut_as_well():
    structures = KNOWN.take(np.tile([0, 1], 6))
    # Isomers are no trajectory.
    assert len(set(blocks(KNOWN.take(np.arange(len(KNOWN))), 100))) == len(KNOWN)
    assert blocks(structures, 3).tolist() == [0, 2, 0, 2, 0, 2, 1, 3, 1, 3, 1, 3]


def test_what_is_held_out_of_a_trajectory_has_few_neighbours_in_training():
    groups = blocks(KNOWN.take(np.zeros(500, int)), 0.1 * 500)
    rows = hold_out(groups, 0.1, ["validation", "test"])
    assert {name: len(of) for name, of in rows.items()} == {
        "validation": 50, "test": 50, "train": 400
    }  # fmt: skip
    assert sorted(np.concatenate(list(rows.values()))) == list(range(500))
    for name in ("validation", "test"):
        assert (np.diff(rows[name]) == 1).all()


@pytest.mark.parametrize("names", [["validation", "test"], ["test"], []])
def test_groups_stay_together_and_parts_are_near_their_share(names):
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 9, 60)))
    rows = hold_out(groups, 0.2, names)
    of_parts = [set(groups[of]) for of in rows.values()]
    assert sum(map(len, of_parts)) == len(set.union(*of_parts)) == 60
    for name in names:
        assert abs(len(rows[name]) - 0.2 * len(groups)) <= 4
    with pytest.raises(InputError, match="has 2 groups of structures: none is left to train on"):
        hold_out(np.array([0, 0, 1]), 0.4, ["validation", "test"])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([55, 2, 3], 55), ([3, 55, 2], 55), ([30, 5, 25], 30), ([40, 5, 10, 5], 40), ([20] * 3, 20),
     ([5000] + [10] * 19, 5000 + 15 * 10), ([500, 1, 1, 1, 500], 1001)],
)
def test_a_large_group_is_trained_on(sizes, expected):
    rows = hold_out(np.repeat(np.arange(len(sizes)), sizes), 0.1, ["validation", "test"])
    assert all(len(of) for of in rows.values())
    assert len(rows["train"]) >= expected


def test_copies_of_what_is_held_out_are_not_trained_on():
    structures = KNOWN.take(np.array([0, 1, 2, 0, 3, 4, 1, 0]))
    rows = {"test": np.array([0]), "validation": np.array([1, 2]), "train": np.arange(3, 8)}
    found = without_copies(rows, structures)
    assert {name: of.tolist() for name, of in found.items()} == {
        "test": [0], "validation": [1, 2], "train": [4, 5]
    }  # fmt: skip
    found = without_copies({"test": np.array([3]), "train": np.array([0, 7])}, structures)
    assert found["train"].tolist() == []


def test_a_structure_in_two_parts_is_named():
    parts = {"train": KNOWN.take(np.arange(4)), "test": KNOWN.take(np.arange(4, 7))}
    refuse_shared(parts)
    parts["test"] = KNOWN.take(np.array([5, 2]))
    message = r"structure 2 is in test and in train \(structure 2\): take it out of one of them"
    with pytest.raises(StructureError, match=message):
        refuse_shared(parts)


@pytest.fixture
def trajectories(tmp_path):
    """Files of 40 and of 5 frames of water, with energies in eV."""
    paths = [tmp_path / name for name in ("train.extxyz", "test.extxyz")]
    for n, path in zip((40, 5), paths, strict=True):
        frames = []
        for k in range(n):
            water = molecule("H2O")
            water.rattle(0.05, seed=1000 * n + k)
            water.info["energy"] = -10.0 - k
            frames.append(water)
        ase.io.write(path, frames)
    return [str(path) for path in paths]


def test_parts_are_held_out_in_blocks_or_from_files_of_their_own(trajectories):
    own, other = trajectories
    by = {split: ASEFile(own, split=split) for split in ("blocks", "random")}
    for split, data in by.items():
        ids = [data.part(part, "energy").structures.ids for part in ("validation", "test")]
        assert [len(of) for of in ids] == [4, 4]
        assert (np.diff(ids[0]) == 1).all() == (split == "blocks")
    assert by["blocks"].how_divided("energy") == (
        "validation (4) and test (4): train.extxyz, held out in blocks of neighbouring frames"
    )
    given = ASEFile(own, test_path=other)
    assert [len(given.part(p, "energy")) for p in ("train", "validation", "test")] == [36, 4, 5]
    assert given.part("test", "energy").labels["energy"].tolist() == [-10, -11, -12, -13, -14]
    assert given.how_divided("energy").endswith("; test (5): test.extxyz")
    assert len({data.digest() for data in (*by.values(), given)}) == 3
    shared = r"test.extxyz, structure 1 is in test and in validation \(test.extxyz, structure 1\)"
    with pytest.raises(StructureError, match=shared):
        ASEFile(own, other, other).part("train", "energy")
    with pytest.raises(StructureError, match=r"no file nowhere.xyz: set config.data.test_path"):
        ASEFile(own, test_path="nowhere.xyz").digest()
    with pytest.raises(InputError, match="one of blocks, random, not 'blokcs'"):
        ASEFile(own, split="blokcs")


def test_parts_that_large_groups_leave_small_are_named(trajectories, tmp_path):
    frames = ase.io.read(trajectories[0], index=":")
    for k, atoms in enumerate(frames):
        atoms.info["group"] = "all" if k < 38 else f"one {k}"
    ase.io.write(tmp_path / "groups.extxyz", frames)
    lines = ASEFile(str(tmp_path / "groups.extxyz"), held_out=0.2).summary("energy")
    said = [line for line in lines if "since groups are large" in line]
    assert [line.split(":")[1] for line in said] == [
        f" {part} has 1 of 40 structures, since groups are large" for part in ("validation", "test")
    ]


def test_copies_in_a_file_are_counted(trajectories, tmp_path):
    frames = ase.io.read(trajectories[0], index=":")
    path = tmp_path / "twice.extxyz"
    ase.io.write(path, [*frames, *frames])
    data = ASEFile(str(path))
    parts = [data.part(part, "energy") for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [48, 8, 8]
    said = data.how_divided("energy")
    assert said.endswith("; left out, since another part has the same structure: 16")
