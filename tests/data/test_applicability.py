"""Whoever leaves what a model was trained on is told how."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from crystals import random_crystal
from molecules import CUTOFF, KNOWN, random_molecules

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures

WATER = KNOWN[0]


def domain_of(structures: Structures) -> Domain:
    return Domain.of(structures, find_neighbors(structures, CUTOFF))


def warning(domain: Domain, structure: Structure) -> str:
    packed = Structures.pack([structure])
    (text,) = domain.warnings(packed, find_neighbors(packed, CUTOFF))
    return text


def test_ranges_are_those_of_brute_force():
    molecules = random_molecules(12, 0)
    found = domain_of(molecules)
    nearest: dict[int, list[float]] = {}
    for molecule in molecules:
        apart = np.linalg.norm(molecule.positions[:, None] - molecule.positions, axis=-1)
        np.fill_diagonal(apart, np.inf)
        for z, row in zip(molecule.atomic_numbers.tolist(), apart, strict=True):
            nearest.setdefault(z, []).append(row.min())
    assert found.atoms == (min(molecules.n_atoms), max(molecules.n_atoms))
    assert found.nearest.keys() == nearest.keys()
    for z, (low, high) in found.nearest.items():
        np.testing.assert_allclose((low, high), (min(nearest[z]), max(nearest[z])), rtol=1e-12)


def test_what_it_was_made_of_is_inside_and_survives_json():
    for structures in (KNOWN, Structures.pack([random_crystal(0), random_crystal(1)])):
        found = Domain.from_dict(json.loads(json.dumps(domain_of(structures).to_dict())))
        assert found == domain_of(structures)
        neighbors = find_neighbors(structures, CUTOFF)
        assert found.warnings(structures, neighbors) == [""] * len(structures)


def test_each_way_out_is_named():
    domain = domain_of(KNOWN)
    assert warning(domain, Structure(np.array([1]), np.zeros((1, 3)))).startswith(
        "1 atom (trained on 3 to 9); H with no other atom in reach (trained on "
    )
    boxed = dataclasses.replace(WATER, cell=9 * np.eye(3), periodic=(True,) * 3)
    assert warning(domain, boxed) == "periodic (trained on molecules)"
    crystals = domain_of(Structures.pack([random_crystal(0), random_crystal(1)]))
    assert "not periodic (trained on structures with cells)" in warning(crystals, WATER)
    gold = dataclasses.replace(WATER, atomic_numbers=np.array([79, 1, 1]))
    assert "Au, of which no training structure has any" in warning(domain, gold)
    near = dataclasses.replace(WATER, positions=WATER.positions * 0.6)
    assert "H 0.58 Å from the next atom (trained on 0.96 to 1.11" in warning(domain, near)
    far = dataclasses.replace(WATER, positions=WATER.positions * 1.5)
    assert "O 1.45 Å from the next atom (trained on 0.96 to 1.21" in warning(domain, far)
