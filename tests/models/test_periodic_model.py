"""The model on crystals and slabs: invariant under how they are written, continuous in ranks."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import molecules
import numpy as np
import pytest
from crystals import ELEMENTS, other_cell, random_crystal, repeated, wrapped
from molecules import permuted
from small import SMALL, network, stirred

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.geometry import edge_geometry
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.hyperparameters import HyperParameters

CUTOFF = 5.0
CRYSTAL = {**SMALL, "elements": ELEMENTS, "cutoff": CUTOFF, "max_neighbors": 10, "tags": True}
SHELLS = {**CRYSTAL, "near_neighbors": 4, "far_degree": 1, "far_hidden": 4, "product_degree": 1}
BUDGET = batching.Budget(400, 40, 3)
ONE_LAYER = {**SHELLS, "layers": 1, "degree": 1, "tensor_product": "none"}
"""For what weights of edges do; `test_message.py` has them in each term."""
OPTIONS = (CRYSTAL, SHELLS, ONE_LAYER)


@functools.cache
def compiled(which: int):
    model = network(**OPTIONS[which])
    graph = graph_of(random_crystal(0), model)
    return model, stirred(model.init, graph), jax.jit(model.apply)


def graph_of(structure: Structure | Structures, model: HDGNN) -> batching.MolecularGraph:
    packed = structure if isinstance(structure, Structures) else Structures.pack([structure])
    limit = model.hyper.max_neighbors
    return molecules.graph_of(packed, cutoff=CUTOFF, max_neighbors=limit, budget=BUDGET)


def energy(structure: Structure | Structures, which: int) -> float:
    model, params, apply = compiled(which)
    return float(apply(params, graph_of(structure, model))[0, 0])


@pytest.mark.parametrize("which", [0, 1])
def test_energy_does_not_depend_on_how_the_crystal_is_written(which):
    crystal = random_crystal(2, 3)
    usual = energy(crystal, which)
    for other in (
        permuted(Structures.pack([crystal]), 1)[0],
        wrapped(crystal, 0),
        other_cell(crystal),
        dataclasses.replace(crystal, positions=crystal.positions + np.array([0.3, -0.2, 5])),
    ):
        assert energy(other, which) == pytest.approx(usual, rel=2e-5)
    assert energy(repeated(crystal, (2, 1, 2)), which) == pytest.approx(4 * usual, rel=2e-5)


def test_tags_and_cells_matter():
    crystal = random_crystal(2, 3)
    usual = energy(crystal, 0)
    for other in ({"tags": 2 - crystal.tags}, {"cell": crystal.cell * 1.05}, {"cell": None}):
        assert abs(energy(dataclasses.replace(crystal, **other), 0) - usual) > 1e-3 * abs(usual)


@pytest.mark.usefixtures("x64")
def test_energy_is_continuous_where_neighbours_change_ranks():
    """It changes no faster than its slope says; without an envelope it jumps."""
    crystal = random_crystal(5, 4)
    model = network(**ONE_LAYER)
    params = jax.tree.map(jnp.float64, stirred(model.init, graph_of(crystal, model)))
    direction = np.random.default_rng(0).normal(size=crystal.positions.shape)
    step, steps = 1e-3, 120

    def path(model: HDGNN) -> tuple[np.ndarray, np.ndarray, list]:
        @jax.jit
        @jax.value_and_grad
        def along(t, graph):
            moved = graph.nodes.positions.at[: len(direction)].add(t * direction)
            moved = graph._replace(nodes=graph.nodes._replace(positions=moved))
            return model.apply(params, moved)[0, 0]

        values, slopes, lists = [], [], []
        for k in range(steps):
            moved = crystal.positions + k * step * direction
            graph = graph_of(dataclasses.replace(crystal, positions=moved), model)
            graph = jax.tree.map(lambda a: np.float64(a) if a.dtype == np.float32 else a, graph)
            for known, new in zip((values, slopes), along(0.0, graph), strict=True):
                known.append(float(new))
            lists.append([graph.senders.tolist(), graph.edges.shift.round(2).tolist()])
        return np.array(values), np.array(slopes), lists

    values, slopes, lists = path(model)
    assert any(a != b for a, b in itertools.pairwise(lists)), "no ranks change"
    assert np.abs(np.diff(values)).max() < 1.1 * step * np.abs(slopes).max()
    values, slopes, _ = path(model.changed(envelope=False))
    assert np.abs(np.diff(values)).max() > 10 * step * np.abs(slopes).max()


def test_weights_of_two_shells_add_up():
    """To those of one; the inner has at most the four nearest, in rows of four."""
    crystals = Structures.pack([random_crystal(0), random_crystal(1, 2)])
    for envelope in (True, False):
        graph = jax.tree.map(jnp.asarray, graph_of(crystals, network(**CRYSTAL)))
        roll = jnp.zeros(graph.senders.shape)
        hyper = HyperParameters(**{**SHELLS, "envelope": envelope})

        @jax.jit
        def weights(graph, roll, hyper=hyper):
            """Frames are not compiled."""
            geometry = edge_geometry(graph, roll, hyper)
            shells = [shell._replace(learned=None, product=None, low=None, full=None, axis=None)
                      for shell in geometry.shells]  # fmt: skip
            return geometry.envelope, *shells

        whole, near, far = weights(graph, roll)
        total = far.envelope.at[near.edges].add(near.envelope)
        np.testing.assert_allclose(total, whole, atol=1e-6)
        real = np.asarray(near.envelope) > 0
        counts = np.bincount(np.asarray(near.receivers)[real])
        assert 0 < counts.max() <= 4
        np.testing.assert_array_equal(near.receivers[real], graph.receivers[near.edges[real]])
        assert (np.asarray(whole)[~np.asarray(batching.edge_mask(graph))] == 0).all()
        seen = np.bincount(np.asarray(graph.receivers)[np.asarray(whole) > 0])
        assert seen.max() <= 10


def test_padding_changes_no_energy_and_no_gradient():
    """With limits and shells, isolated atoms and one-atom cells among the crystals."""
    model, params, _ = compiled(OPTIONS.index(ONE_LAYER))
    alone = Structure(np.array([29]), np.zeros((1, 3)), cell=np.eye(3) * 30)
    atom = Structure(np.array([79]), np.zeros((1, 3)), cell=1.8 * (1 - np.eye(3)))
    packed = Structures.pack([random_crystal(0), alone, atom])

    @jax.jit
    def run(params, graph):
        def total(params, positions):
            graph_there = graph._replace(nodes=graph.nodes._replace(positions=positions))
            energies = model.apply(params, graph_there)[:, 0]
            return jnp.sum(jnp.where(batching.graph_mask(graph), energies**2, 0))

        return jax.value_and_grad(total, argnums=(0, 1))(params, graph.nodes.positions)

    found = []
    make = functools.partial(molecules.graph_of, packed, cutoff=CUTOFF, max_neighbors=10)
    edges = int(make().n_edge[:3].sum())
    for budget in (batching.Budget(edges, 7, 4), batching.Budget(200, 20, 9)):
        graph = jax.tree.map(jnp.asarray, make(budget=budget))
        value, (of_params, of_positions) = run(params, graph)
        assert (of_positions[6:] == 0).all()
        found.append((value, of_params, of_positions[:6]))
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(ours).max())


def test_neighbours_of_another_limit_are_refused():
    model, params, _ = compiled(0)
    for limit in (None, 4):
        packed = Structures.pack([random_crystal(0)])
        graph = molecules.graph_of(packed, cutoff=CUTOFF, max_neighbors=limit, budget=BUDGET)
        with pytest.raises(ValueError, match=f"max_neighbors = {limit}, the model has 10"):
            model.apply(params, graph)


def test_without_an_envelope_ties_are_cut():
    """Face-centred cubic: 12 neighbours, then 6, then 24. Of a limit of 15, 12 are left."""
    atom = Structure(np.array([29]), np.zeros((1, 3)), cell=1.8 * (1 - np.eye(3)))
    packed = Structures.pack([atom])
    for limit, left in ((15, 12), (18, 18), (12, 12), (41, 18)):
        budget = batching.Budget(64, 2, 2)
        graph = molecules.graph_of(packed, cutoff=CUTOFF, max_neighbors=limit, budget=budget)
        hyper = HyperParameters(
            degree=1, product_degree=1, n_gaussians=8, envelope=False, max_neighbors=limit
        )
        envelope = jax.jit(
            lambda graph, hyper=hyper: edge_geometry(graph, jnp.zeros(64), hyper).envelope
        )(jax.tree.map(jnp.asarray, graph))
        assert envelope.sum() == left
