"""QM9's tensors are turned into the frame of the positions, or left out."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from molecules import random_molecules
from scipy.spatial.transform import Rotation

from hdgnn_jax.data import polarizability
from hdgnn_jax.graphs.covalent import COVALENT_RADII
from hdgnn_jax.graphs.structure import Structure, Structures

ORACLE = json.loads((pathlib.Path(__file__).parent / "polarizability.json").read_text())
"""QM9's molecules with tensors in its frame (`standard`) and in that of the positions (`b3lyp`).

The latter by coupled-perturbed B3LYP/6-31G(2df,p), PySCF with Gaussian's exponents."""


def test_one_of_four_candidates_is_what_quantum_chemistry_says():
    molecules = Structures.pack(
        Structure(np.array(row["atomic_numbers"]), np.array(row["positions"])) for row in ORACLE
    )
    rotations = polarizability.frames(molecules).rotations
    np.testing.assert_allclose(np.linalg.det(rotations), 1, rtol=1e-9)
    for row, candidates in zip(ORACLE, rotations, strict=True):
        turned = np.swapaxes(candidates, 1, 2) @ np.array(row["standard"]) @ candidates
        misses = np.abs(turned - np.array(row["b3lyp"])).max((1, 2))
        assert misses.min() < 0.6
        # As it is given, the tensor is far off.
        assert np.abs(np.array(row["standard"]) - np.array(row["b3lyp"])).max() > 2


def test_frames_turn_with_the_molecule():
    molecules = random_molecules(20, 0, atoms=(6, 9))
    quaternions = Rotation.random(20, rng=1).as_quat(scalar_first=True)
    matrices = Rotation.from_quat(quaternions, scalar_first=True).as_matrix()
    here, there = (polarizability.frames(m) for m in (molecules, molecules.turned(quaternions)))
    np.testing.assert_allclose(
        there.rotations, here.rotations @ np.swapaxes(matrices, 1, 2)[:, None], atol=1e-6
    )
    np.testing.assert_allclose(there.gap, here.gap, atol=1e-9)


def made_up(seed: int, n: int) -> tuple[Structures, np.ndarray]:
    """Random molecules and tensors of which each bond has a share that its elements decide."""
    rng = np.random.default_rng(seed)
    molecules = random_molecules(n, seed, atoms=(6, 9))
    share = rng.uniform(0, 8, (10, 10))
    share += share.T
    tensors = []
    for molecule in molecules:
        z, x = molecule.atomic_numbers, molecule.positions
        tensor = 4.0 * len(z) * np.eye(3) + np.tril(rng.normal(scale=0.1, size=(3, 3)))
        tensor = (tensor + tensor.T) / 2
        for i, j in zip(*np.triu_indices(len(z), 1), strict=True):
            v = x[j] - x[i]
            if v @ v < (1.25 * (COVALENT_RADII[z[i]] + COVALENT_RADII[z[j]])) ** 2:
                tensor += share[z[i], z[j]] * np.outer(v, v) / (v @ v)
        tensors.append(tensor)
    return molecules, np.array(tensors)


def test_half_turns_are_found_where_they_can_be():
    """Drawn at random, so that the rule of signs is no help."""
    molecules, truth = made_up(0, 800)
    frames = polarizability.frames(molecules)
    rng = np.random.default_rng(0)
    rotation = frames.rotations[np.arange(800), rng.integers(0, 4, 800)]
    standard = np.round(rotation @ truth @ np.swapaxes(rotation, 1, 2), 3)
    found, certainty = polarizability.in_frame_of_positions(molecules, standard)
    kept = np.isfinite(found).all((1, 2))
    assert kept.mean() > 0.4
    # Sure of 95 % and more: few errors, and none is large where it is surer.
    wrong = np.abs(found - truth).max((1, 2)) > 0.3
    assert wrong[kept].mean() < 0.05
    assert wrong[kept & (certainty > 0.999)].mean() < 0.01
    assert (frames.gap[kept] >= polarizability.SMALLEST_GAP).all()


def test_what_has_no_frame_is_left_out():
    """Linear molecules, and tensors without anything off the diagonal."""
    molecules, truth = made_up(1, 400)
    line = Structure(np.array([1, 6, 7]), np.array([[0, 0, -1.06], [0, 0, 0], [0, 0, 1.15]]))
    both = Structures.pack([line, *(molecules[k] for k in range(400))])
    frames = polarizability.frames(molecules)
    rotation = frames.rotations[:, 0]
    standard = rotation @ truth @ np.swapaxes(rotation, 1, 2)
    standard[0] = np.diag([1.0, 2.0, 3.0])
    tensors = np.concatenate([np.diag([2.0, 2.0, 5.0])[None], standard])
    found, _ = polarizability.in_frame_of_positions(both, tensors)
    assert np.isnan(found[:2]).all()
