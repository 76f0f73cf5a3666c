"""A network that sees bonds: what reaches an atom, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import molecules
import numpy as np
import pytest
from molecules import CUTOFF, KNOWN
from scipy.sparse.csgraph import shortest_path
from small import SMALL, drawn, network

from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.inference.weights import shapes

LAYERS = 2
BUDGET = batching.Budget(64, 40, 6)


def graph_of(structures: Structures, neighborhood: str = "bonds") -> batching.MolecularGraph:
    graph = molecules.graph_of(structures, neighborhood=neighborhood, budget=BUDGET)
    return jax.tree.map(jnp.asarray, graph)


@pytest.fixture(scope="module")
def of_bonds():
    """The network, and its compiled evaluation with slopes: graph -> [G] and [N, 3]."""
    few = {"degree": 1, "product_degree": 1, "layers": LAYERS, "neighbors": 2.0}
    model = network(**{**SMALL, **few, "neighborhood": "bonds"})
    params = {"params": drawn(shapes(model))}

    def evaluate(graph):
        def total(x):
            moved = graph._replace(nodes=graph.nodes._replace(positions=x))
            values = model.apply(params, moved)[:, 0]
            return jnp.sum(jnp.where(batching.graph_mask(graph), values, 0)), values

        slopes, values = jax.grad(total, has_aux=True)(graph.nodes.positions)
        return values, slopes

    return model, params, jax.jit(evaluate)


def test_two_layers_see_two_bonds_far(of_bonds):
    """Each atom of a molecule is moved; the states of those within two bonds change, no others.

    Atoms three bonds away are as near as 2.5 Å: within the cutoff, they would be seen at once.
    """
    model, params, _ = of_bonds
    (structure,), _ = conformers("CCOC(C)C#N")
    n = len(structure.positions)
    joined = np.zeros((n, n))
    joined[tuple(structure.bonds.T)] = 1
    apart = shortest_path(joined, directed=False, unweighted=True)
    graph = graph_of(Structures.pack([structure]))
    rolls = jnp.zeros(graph.senders.shape)

    @jax.jit
    def states(x):
        moved = graph._replace(nodes=graph.nodes._replace(positions=x))
        x, f = model.apply(params, moved, rolls, method="states")
        return jnp.concatenate([x.reshape(len(x), -1), f], 1)

    here = np.asarray(states(graph.nodes.positions))
    for atom in range(n):
        there = np.asarray(states(graph.nodes.positions.at[atom].add(0.05)))
        changed = (there != here).any(1)[:n]
        np.testing.assert_array_equal(changed, apart[atom] <= LAYERS)
    assert (apart > LAYERS).any()
    distance = np.linalg.norm(structure.positions[:, None] - structure.positions, axis=-1)
    assert distance[apart > LAYERS].min() < CUTOFF


def test_molecules_that_are_not_bonded_add_up_however_near(of_bonds):
    _, _, evaluate = of_bonds
    water, nitrile = KNOWN[0], KNOWN[3]
    pair = Structure(
        np.concatenate([water.atomic_numbers, nitrile.atomic_numbers]),
        np.concatenate([water.positions, nitrile.positions + np.array([2.5, 0, 0])]),
    )
    values, _ = evaluate(graph_of(Structures.pack([water, nitrile, pair])))
    assert float(values[2]) == pytest.approx(float(values[0] + values[1]), rel=1e-5)


def test_atoms_without_a_bond_are_atoms_alone(of_bonds):
    """A dissociated H2 is two atoms; nothing is undefined there, gradients neither."""
    _, _, evaluate = of_bonds
    atom = Structure(np.array([1]), np.zeros((1, 3)))
    h2, broken = (Structure(np.array([1, 1]), d * np.eye(2, 3)) for d in (0.53, 1.5))
    values, slopes = evaluate(graph_of(Structures.pack([atom, broken, h2])))
    assert float(values[1]) == pytest.approx(float(2 * values[0]), rel=1e-5)
    assert abs(values[2] - values[1]) > 1e-3
    assert (slopes[:3] == 0).all()
    assert np.isfinite(slopes).all()
    assert np.abs(slopes[3:5]).max() > 0


@pytest.mark.parametrize(("found", "own"), [("cutoff", "bonds"), ("bonds", "cutoff")])
def test_neighbours_found_otherwise_are_refused(of_bonds, found, own):
    model, params, _ = of_bonds
    message = f"found with neighborhood = {found}, the model has {own}: find them with the model's"
    with pytest.raises(InputError, match=message):
        model.changed(neighborhood=own).apply(params, graph_of(KNOWN.take(np.arange(3)), found))


def test_a_network_of_surfaces_needs_tags():
    with pytest.raises(InputError, match="neighborhood = surface needs tags = True"):
        network(neighborhood="surface")
