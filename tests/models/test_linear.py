"""The linear model's features are the sums they say they are, and its energies their products."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
import scipy.special
from crystals import random_crystal
from molecules import CUTOFF, KNOWN, doubled, graph_of, moved, permuted, random_molecules

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.forces import with_derivatives
from hdgnn_jax.models.linear import Linear, Terms, energies_of

ELEMENTS = (1, 6, 7, 8, 9)
TERMS = Terms(ELEMENTS, CUTOFF)
BUDGET = batching.Budget(400, 80, 12)
FEATURES = jax.jit(TERMS.features)
ENERGIES = jax.jit(TERMS.energies)
WEIGHTS = np.random.default_rng(0).normal(size=TERMS.n_features)


def features(structures: Structures) -> np.ndarray:
    return np.asarray(FEATURES(graph_of(structures, budget=BUDGET)))[: len(structures)]


def fading(t: float) -> float:
    return 1 - 21 * t**5 + 35 * t**6 - 15 * t**7 if t < 1 else 0.0


def expected(structure: Structure, terms: Terms) -> np.ndarray:
    """[F] by loops over all pairs of atoms and, around each, all ordered pairs of bonds."""
    packed = Structures.pack([structure])
    found = find_neighbors(packed, terms.cutoff)
    x, place = structure.positions, [terms.elements.index(z) for z in structure.atomic_numbers]
    images = np.zeros((len(found.senders), 3)) if found.images is None else (
        found.images @ packed.cells[0]
    )  # fmt: skip
    pairs, triples = (np.zeros(shape) for shape in terms.shapes)
    bonds: list[list[tuple[int, np.ndarray]]] = [[] for _ in x]
    for i, j, image in zip(found.receivers, found.senders, images, strict=True):
        r = x[j] + image - x[i]
        bonds[i].append((place[j], r))
        d = np.linalg.norm(r)
        one, other = sorted((place[i], place[j]))
        kinds = [(a, b) for a in range(len(terms.elements)) for b in range(a, len(terms.elements))]
        row = kinds.index((one, other)) if len(terms.elements) <= 12 else place[i]
        centres = 0.6 + 0.2 * np.arange(pairs.shape[1])
        pairs[row] += np.exp(-(((d - centres) / 0.2) ** 2) / 2) * fading(d / terms.cutoff) / 2
    if not terms.n_channels:
        return pairs.ravel()
    channels = [(z, c) for z in range(len(terms.elements)) for c in (1.05, 1.25, 1.5)]
    columns = {ab: k for k, ab in enumerate(zip(*np.triu_indices(len(channels)), strict=True))}
    reach = min(2.2, terms.cutoff)
    for i, around in enumerate(bonds):
        for z, r in around:
            for w, s in around:
                d, e = np.linalg.norm(r), np.linalg.norm(s)
                both = fading(d / reach) * fading(e / reach)
                cosine = r @ s / (d * e)
                for n in range(3):
                    for m in range(3):
                        a, b = channels.index((z, (1.05, 1.25, 1.5)[n])), 3 * w + m
                        if a > b:
                            continue
                        radial = both * math.exp(
                            -(((d - channels[a][1]) / 0.15) ** 2) / 2
                            - ((e - channels[b][1]) / 0.15) ** 2 / 2
                        )
                        for l in range(5):
                            legendre = scipy.special.eval_legendre(l, cosine)
                            triples[place[i], l, columns[a, b]] += radial * legendre
    return np.concatenate([pairs.ravel(), triples.ravel()])


CRYSTAL = dataclasses.replace(
    random_crystal(0), atomic_numbers=np.array([1, 6, 7, 8][: len(random_crystal(0).positions)])
)


@pytest.mark.parametrize(
    ("structures", "terms"),
    [
        (KNOWN, TERMS),
        (Structures.pack([CRYSTAL]), TERMS),
        # Without triples, and without pairs.
        (KNOWN, Terms((1, 6, 7, 8, 9, 16, 17), CUTOFF)),
        (KNOWN, Terms(tuple(range(1, 14)), CUTOFF)),
        # A cutoff shorter than a bond's reach.
        (KNOWN, Terms(ELEMENTS, 1.8)),
    ],
)
@pytest.mark.usefixtures("x64")
def test_features_are_those_of_loops_over_pairs_and_triples(structures, terms):
    graph = doubled(graph_of(structures, cutoff=terms.cutoff))
    # The graph rounds positions to float32.
    counts = np.asarray(graph.n_node)[: len(structures)]
    at = np.cumsum(counts) - counts
    rounded = [
        dataclasses.replace(s, positions=np.asarray(graph.nodes.positions)[k : k + n])
        for s, k, n in zip(structures, at, counts, strict=True)
    ]
    found = np.asarray(jax.jit(terms.features)(graph))
    for k, structure in enumerate(rounded):
        np.testing.assert_allclose(found[k], expected(structure, terms), rtol=1e-6, atol=1e-6)
    assert not found[len(structures) :].any()
    assert found.shape[1] == terms.n_features


def test_energies_are_features_times_weights():
    structures = random_molecules(10, 0)
    graph = graph_of(structures, budget=BUDGET)
    both = np.stack([WEIGHTS, -2 * WEIGHTS[::-1]], 1)
    found = np.asarray(ENERGIES(graph, both))
    products = np.asarray(FEATURES(graph)).astype(float) @ both
    np.testing.assert_allclose(found, products, rtol=0, atol=2e-4)
    assert np.abs(found[:10]).min() > 1e-3
    models = [Linear(ELEMENTS, CUTOFF, tuple(w), k == 1) for k, w in enumerate(both.T)]
    own = jax.jit(functools.partial(energies_of, models))(graph)[:10]
    np.testing.assert_allclose(own[:, 0], found[:10, 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(own[:, 1], found[:10, 1] / structures.n_atoms, rtol=0, atol=1e-4)


def test_neither_order_nor_place_nor_turn_nor_company_matters():
    structures = random_molecules(10, 1)
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(10, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1)[:, None]
    at_rest = features(structures)
    for other in (
        permuted(structures, 0), moved(structures, rng.normal(size=3)),
        structures.turned(quaternions),
    ):  # fmt: skip
        np.testing.assert_allclose(features(other), at_rest, rtol=0, atol=2e-5)
    alone = np.asarray(jax.jit(TERMS.features)(graph_of(structures.take(np.array([3])))))
    np.testing.assert_allclose(alone[0], at_rest[3], rtol=0, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_forces_and_virial_are_slopes_and_padding_has_none():
    several = [*random_molecules(3, 2), CRYSTAL, Structure(np.array([8]), np.zeros((1, 3)))]
    structures = Structures.pack(several)
    graph = doubled(graph_of(structures))
    energies = jax.jit(lambda g: TERMS.energies(g, WEIGHTS[:, None]))
    found = jax.jit(lambda g: with_derivatives(energies, g))(graph)
    assert all(np.isfinite(leaf).all() for leaf in found)
    real = len(structures.positions)
    assert not np.asarray(found.forces)[real:].any()
    rng = np.random.default_rng(1)
    along, strain = rng.normal(size=(real, 3)), rng.normal(size=(3, 3))
    strain = (strain + strain.T) / 2

    def total(t: float) -> float:
        stretch = np.eye(3) + t * strain
        shift = np.pad(t * along, ((0, len(graph.nodes.positions) - real), (0, 0)))
        positions = np.asarray(graph.nodes.positions) @ stretch + shift
        edges = graph.edges.replace(shift=graph.edges.shift @ stretch)
        moved = graph._replace(nodes=graph.nodes._replace(positions=positions), edges=edges)
        return float(energies(moved)[: len(structures)].sum())

    step = 1e-4
    near, far = (total(k * step) - total(-k * step) for k in (1, 2))
    slope = (8 * near - far) / (12 * step)
    forces, virial = np.asarray(found.forces)[:real], np.asarray(found.virial)[: len(structures)]
    assert slope == pytest.approx(np.sum(virial * strain) - np.sum(forces * along), rel=1e-7)
