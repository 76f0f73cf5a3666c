"""Forces and virial are what finite differences say, in float64, wherever atoms stand."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crystals import ELEMENTS, random_crystal
from molecules import KNOWN, doubled, graph_of
from scipy.spatial.transform import Rotation
from small import BUDGET, SMALL, network, stirred

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.forces import with_derivatives
from hdgnn_jax.training import losses

pytestmark = pytest.mark.usefixtures("x64")
STEP = 1e-4
"""Å. The fourth-order difference of four points errs by STEP^4 and by rounding over STEP."""


@functools.cache
def machinery(periodic: bool):
    options = {"evaluation_frame": 2}
    if periodic:
        options = {"elements": ELEMENTS, "max_neighbors": 10, "layers": 1}
    model = network(**{**SMALL, **options})
    graph = doubled(graph_with(random_crystal(0))) if periodic else doubled(graph_of(KNOWN))
    params = jax.tree.map(jnp.float64, stirred(model.init, graph))
    predict = functools.partial(model.apply, params)
    return jax.jit(predict), jax.jit(functools.partial(with_derivatives, predict))


def graph_with(crystal: Structure) -> batching.MolecularGraph:
    budget = batching.Budget(100, 8, 2)
    return graph_of(Structures.pack([crystal]), max_neighbors=10, budget=budget)


def difference(along) -> np.ndarray:
    """d along(t) / dt at 0."""
    near, far = (along(k * STEP) - along(-k * STEP) for k in (1, 2))
    return (8 * near - far) / (12 * STEP)


def moved(graph, shift: np.ndarray):
    return graph._replace(nodes=graph.nodes._replace(positions=graph.nodes.positions + shift))


def generic(seed: int) -> batching.MolecularGraph:
    """The known molecules turned and shaken, so that nothing is special."""
    rng = np.random.default_rng(seed)
    turned = KNOWN.turned(Rotation.random(len(KNOWN), rng=seed).as_quat(scalar_first=True))
    shaken = turned.positions + rng.normal(scale=0.05, size=turned.positions.shape)
    return doubled(graph_of(dataclasses.replace(turned, positions=shaken), budget=BUDGET))


def test_gradients_of_a_loss_on_forces_are_finite_differences():
    """By all parameters at once: what training on forces goes by."""
    graph = generic(3)
    rng = np.random.default_rng(0)
    truth, target = rng.normal(size=graph.nodes.positions.shape), graph.globals.target[:, None]
    graph = graph._replace(
        nodes=graph.nodes._replace(forces=truth), globals=graph.globals._replace(target=target)
    )
    model = network(**{**SMALL, "layers": 1, "degree": 1, "product_degree": 1})
    params = jax.tree.map(jnp.float64, stirred(model.init, graph))

    def loss(params):
        found = with_derivatives(lambda moved: model.apply(params, moved), graph)
        return losses.l1(found, graph, losses.count(graph), losses.Weights(np.ones(1), 0.7))

    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)

    compiled = jax.jit(loss)

    def along(t: float) -> np.ndarray:
        return np.asarray(compiled(jax.tree.map(lambda p, d: p + t * d, params, direction)))

    gradient = jax.jit(jax.grad(loss))(params)
    expected = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    np.testing.assert_allclose(difference(along), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_forces_are_finite_differences_at_generic_geometries(seed):
    predict, derivatives = machinery(False)
    graph = generic(seed)
    forces = np.asarray(derivatives(graph).forces)
    n = len(KNOWN.positions)
    assert (forces[n:] == 0).all()
    rng = np.random.default_rng(seed)
    for _ in range(6):
        direction = np.zeros_like(forces)
        direction[:n] = rng.normal(size=(n, 3))
        slope = difference(
            lambda t, d=direction: np.asarray(predict(moved(graph, t * d)))[: len(KNOWN), 0]
        )
        along = np.add.reduceat((forces * direction)[:n].sum(1), KNOWN.offsets[:-1])
        np.testing.assert_allclose(-slope, along, rtol=1e-6, atol=1e-6 * np.abs(along).max())


def test_forces_are_finite_at_poles_on_lines_and_without_neighbours():
    _, derivatives = machinery(False)
    assert np.isfinite(derivatives(doubled(graph_of(KNOWN, budget=BUDGET))).forces).all()
    line = np.arange(3)[:, None] * [0, 1.2, 0]
    alone = np.array([[0, 0, 0], [0, 1.0, 0], [50, 0, 0]])
    packed = Structures.pack(Structure(np.array([6, 1, 8]), x) for x in (line, -line, alone))
    found = derivatives(doubled(graph_of(packed, budget=BUDGET)))
    for leaf in found:
        assert np.isfinite(leaf).all()
    assert (np.asarray(found.forces)[8] == 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_forces_and_virial_of_crystals_are_finite_differences(seed):
    predict, derivatives = machinery(True)
    crystal = random_crystal(seed + 7, 4)
    graph = doubled(graph_with(crystal))
    found = derivatives(graph)
    rng = np.random.default_rng(seed)
    direction = np.zeros(graph.nodes.positions.shape)
    direction[:4] = rng.normal(size=(4, 3))
    slope = difference(lambda t: float(predict(moved(graph, t * direction))[0, 0]))
    np.testing.assert_allclose(-slope, np.sum(found.forces * direction), rtol=1e-6)

    strain = rng.normal(size=(3, 3))
    strain += strain.T

    def along(t: float) -> float:
        stretch = np.eye(3) + t * strain
        return float(predict(graph._replace(
            nodes=graph.nodes._replace(positions=graph.nodes.positions @ stretch),
            edges=graph.edges.replace(shift=graph.edges.shift @ stretch),
        ))[0, 0])  # fmt: skip

    np.testing.assert_allclose(difference(along), np.sum(found.virial[0] * strain), rtol=1e-6)
    np.testing.assert_array_equal(found.virial, np.swapaxes(found.virial, 1, 2))


def test_forces_of_a_molecule_add_up_to_nothing():
    _, derivatives = machinery(False)
    forces = np.asarray(derivatives(generic(2)).forces)[: len(KNOWN.positions)]
    totals = np.add.reduceat(forces, KNOWN.offsets[:-1])
    np.testing.assert_allclose(totals, 0, atol=1e-12 * np.abs(forces).max())


def test_energies_are_smooth_where_symmetry_makes_a_degree_vanish():
    """At the carbon of methane l = 1 is 0. Curvatures over 0.02 and 0.0005 Å agree; they would
    differ by 5 to 11 % if the norm blew up what is left of l = 1 nearby."""
    methane = KNOWN.take(np.array([1]))
    graph = doubled(graph_of(methane))
    strict = {"degree": 1, "layers": 3, "channels": 16, "pathway": "none",
              "tensor_product": "depthwise", "product_degree": 1, "sphere_order": 5}  # fmt: skip
    model = network(**{**SMALL, **strict})
    params = jax.tree.map(jnp.float64, stirred(model.init, graph))
    forces = jax.jit(lambda graph: with_derivatives(functools.partial(model.apply, params), graph))
    hydrogen = np.zeros(graph.nodes.positions.shape)
    hydrogen[1, 0] = 1

    def curvature(step: float) -> float:
        ahead, behind = (forces(moved(graph, k * step * hydrogen)).forces[1, 0] for k in (1, -1))
        return float(behind - ahead) / (2 * step)

    np.testing.assert_allclose(curvature(0.02), curvature(0.0005), rtol=5e-3)
