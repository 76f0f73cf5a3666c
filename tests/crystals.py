"""Periodic structures for tests, and the other ways to write the same one."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from hdgnn_jax.graphs.structure import Structure

ELEMENTS = (29, 47, 79)


def random_crystal(seed: int, n: int = 4, periodic=(True, True, True)) -> Structure:
    """n atoms at random, at least 1.8 Å apart, in a skewed cell of about 4 Å."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * rng.uniform(3.6, 4.6, 3) + rng.uniform(-0.6, 0.6, (3, 3))
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ cell
    positions = np.zeros((0, 3))
    for new in rng.uniform(size=(10_000, 3)) @ cell:
        gaps = np.linalg.norm(new - positions[:, None] + steps, axis=-1)
        if (gaps > 1.8).all():
            positions = np.vstack([positions, new])
        if len(positions) == n:
            break
    return Structure(
        rng.choice(ELEMENTS, len(positions)),
        positions,
        cell=cell,
        periodic=periodic,
        tags=rng.integers(0, 3, len(positions)),
        fixed=rng.random(len(positions)) < 0.5,
    )


def wrapped(crystal: Structure, seed: int) -> Structure:
    """Each atom moved by whole lattice vectors, as far as it is periodic."""
    steps = np.random.default_rng(seed).integers(-3, 4, crystal.positions.shape)
    steps *= np.array(crystal.periodic)
    return dataclasses.replace(crystal, positions=crystal.positions + steps @ crystal.cell)


def other_cell(crystal: Structure) -> Structure:
    """The same lattice by other vectors; all three directions periodic."""
    change = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
    return dataclasses.replace(crystal, cell=change @ crystal.cell)


def repeated(crystal: Structure, counts: tuple[int, int, int]) -> Structure:
    """counts cells as one."""
    steps = np.array(list(itertools.product(*map(range, counts)))) @ crystal.cell
    return dataclasses.replace(
        crystal,
        atomic_numbers=np.tile(crystal.atomic_numbers, len(steps)),
        positions=(crystal.positions + steps[:, None]).reshape(-1, 3),
        cell=crystal.cell * np.array(counts)[:, None],
        tags=np.tile(crystal.tags, len(steps)),
        fixed=np.tile(crystal.fixed, len(steps)),
    )
