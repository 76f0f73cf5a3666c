"""Molecules for tests: seven real ones and any number of random ones."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighborhood, find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures

CUTOFF = 3.0

KNOWN = Structures.pack(
    Structure.from_symbols(symbols.split(), np.array(positions, float).reshape(-1, 3))
    for symbols, positions in (
        ("O H H", [0, 0, 0.119, 0, 0.763, -0.477, 0, -0.763, -0.477]),
        ("C H H H H", 0.63 * np.array([0, 0, 0, 1, 1, 1, 1, -1, -1, -1, 1, -1, -1, -1, 1])),
        ("N H H H", [0, 0, 0.12, 0, 0.94, -0.27, 0.81, -0.47, -0.27, -0.81, -0.47, -0.27]),
        # Along y: bonds at both poles.
        ("H C N", [0, -1.064, 0, 0, 0, 0, 0, 1.156, 0]),
        ("C O H H", [0, 0, 0, 1.21, 0, 0, -0.59, 0.94, 0, -0.59, -0.94, 0]),
        (
            "C F H H H",
            [0, 0, 0, 0, 1.38, 0, 1.03, -0.36, 0, -0.51, -0.36, 0.89, -0.51, -0.36, -0.89],
        ),
        (
            "C C O H H H H H H",
            [
                [1.17, -0.40, 0.0], [0.0, 0.56, 0.0], [-1.19, -0.21, 0.0],
                [-1.95, 0.38, 0.0], [2.12, 0.14, 0.0], [1.13, -1.04, 0.89],
                [1.13, -1.04, -0.89], [0.05, 1.20, 0.89], [0.05, 1.20, -0.89],
            ],
        ),
    )
)  # fmt: skip


def random_molecules(count: int, seed: int, atoms: tuple[int, int] = (4, 8)) -> Structures:
    """Molecules of H, C, N, O and F grown atom by atom, 1 to 1.6 Å from an earlier one."""
    rng = np.random.default_rng(seed)
    grown = []
    for _ in range(count):
        positions = np.zeros((1, 3))
        size = rng.integers(atoms[0], atoms[1] + 1)
        while len(positions) < size:
            step = rng.normal(size=3)
            step *= rng.uniform(1.0, 1.6) / np.linalg.norm(step)
            new = positions[rng.integers(len(positions))] + step
            if np.linalg.norm(positions - new, axis=-1).min() > 0.95:
                positions = np.vstack([positions, new])
        grown.append(Structure(rng.choice([1, 6, 7, 8, 9], size), positions))
    return Structures.pack(grown)


def graph_of(
    structures: Structures,
    *,
    cutoff: float = CUTOFF,
    max_neighbors: int | None = None,
    neighborhood: Neighborhood = "cutoff",
    budget: batching.Budget | None = None,
    targets: np.ndarray | None = None,
    order: np.ndarray | None = None,
    forces: np.ndarray | None = None,
) -> batching.MolecularGraph:
    """All of them, in the given order, as one padded graph; by default with little padding."""
    neighbors = find_neighbors(structures, cutoff, max_neighbors, neighborhood)
    if budget is None:
        budget = batching.Budget(
            len(neighbors.senders) + 2, len(structures.positions) + 2, len(structures) + 1
        )
    targets = np.zeros(len(structures)) if targets is None else targets
    order = np.arange(len(structures)) if order is None else order
    return batching.collate(structures, neighbors, targets, order, budget, forces)


def doubled(graph: batching.MolecularGraph) -> batching.MolecularGraph:
    """The graph in float64."""

    def double(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf

    return jax.tree.map(double, graph)


def permuted(structures: Structures, seed: int) -> Structures:
    """The atoms of each molecule in another order."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for n in structures.n_atoms]
    return Structures.pack(
        dataclasses.replace(
            s,
            atomic_numbers=s.atomic_numbers[order],
            positions=s.positions[order],
            tags=s.tags[order],
            fixed=s.fixed[order],
        )
        for s, order in zip(structures, orders, strict=True)
    )


def moved(structures: Structures, shift: np.ndarray) -> Structures:
    """Positions plus `shift`, of any shape that fits them."""
    return dataclasses.replace(structures, positions=structures.positions + shift)
