"""The geometry of edges: right at every direction, zero and finite on padding."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import CUTOFF, KNOWN, graph_of

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.geometry import edge_geometry, edge_vectors, polynomial_cutoff
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.so3 import degrees, harmonics, wigner

DEGREE = 3
GRAPH = jax.tree.map(jnp.asarray, graph_of(KNOWN))
HYPER = HyperParameters(degree=DEGREE, cutoff=CUTOFF, n_gaussians=16)
geometry_of = jax.jit(functools.partial(edge_geometry, hyper=HYPER))
ROLL = jax.random.uniform(jax.random.key(0), GRAPH.senders.shape, maxval=6.28)
REAL = np.asarray(batching.edge_mask(GRAPH))


def test_vectors_point_from_receiver_to_sender():
    """r_ij = x_j - x_i: what the receiver sees of its neighbour."""
    x = np.asarray(GRAPH.nodes.positions)
    np.testing.assert_array_equal(edge_vectors(GRAPH), x[GRAPH.senders] - x[GRAPH.receivers])


def test_every_edge_is_turned_to_the_pole():
    """D(R_ij) Y(r_ij) = Y(+y) in the kept rows, whatever the roll; and back again."""
    (geometry,) = geometry_of(GRAPH, ROLL).shells
    vectors = np.asarray(edge_vectors(GRAPH), np.float64)[REAL]
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    y = harmonics.harmonics(DEGREE, unit)[..., None].astype(np.float32)
    pole = harmonics.harmonics(DEGREE, np.array([[0.0, 1, 0]]))
    for frame, m_max in ((geometry.learned, 1), (geometry.product, 2)):
        real = wigner.Wigner(*(part[REAL] for part in frame))
        kept = degrees.low_first(DEGREE, 1, m_max)
        want = np.broadcast_to(pole[:, kept], (len(y), len(real.forward[0])))
        np.testing.assert_allclose(wigner.rotate(real, y)[..., 0], want, atol=1e-5)
    low = wigner.Wigner(*(part[REAL] for part in geometry.low))
    back = wigner.rotate_back(low, wigner.rotate(low, y[:, :9]))
    np.testing.assert_allclose(back, y[:, :9], atol=1e-5)


def test_smearing_equals_numpy():
    """Gaussians one spacing wide, centres from 0 to the cutoff."""
    distance = np.linalg.norm(np.asarray(edge_vectors(GRAPH), np.float64), axis=-1)
    centres = np.linspace(0, CUTOFF, 16)
    want = np.exp(-0.5 * ((distance[:, None] - centres) / centres[1]) ** 2)
    np.testing.assert_allclose(geometry_of(GRAPH, ROLL).smeared, want, atol=1e-5)


def test_padded_edges_have_no_weight_and_no_nan():
    """Envelope exactly 0 there; every gradient finite, poles included."""
    assert (geometry_of(GRAPH, ROLL).envelope[~REAL] == 0).all()

    def total(positions: jax.Array) -> jax.Array:
        graph = GRAPH._replace(nodes=GRAPH.nodes._replace(positions=positions))
        return sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(geometry_of(graph, ROLL)))

    gradient = jax.jit(jax.grad(total))(GRAPH.nodes.positions)
    assert np.isfinite(gradient).all()
    assert (gradient[len(KNOWN.positions) :] == 0).all()


def test_no_envelope_weighs_real_edges_alike():
    """Without it a real edge counts 1 and a padded one still 0."""
    hyper = dataclasses.replace(HYPER, degree=1, product_degree=1, envelope=False)
    plain = edge_geometry(GRAPH, ROLL, hyper)
    np.testing.assert_array_equal(plain.envelope, REAL)


@pytest.mark.usefixtures("x64")
def test_cutoff_ends_smoothly():
    """u and two derivatives are 0 at 1 from either side, and u(0) = 1."""
    u = polynomial_cutoff
    for derivative in (u, jax.grad(u), jax.grad(jax.grad(u))):
        for t in (1 - 1e-9, 1.0, 1 + 1e-9):
            assert abs(derivative(t)) < 1e-6
    assert u(jnp.array(0.0)) == 1


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 3, width=32), st.floats(0, 3, width=32))
def test_cutoff_falls(a, b):
    """Between 1 and 0, never rising (to rounding)."""
    near, far = (float(polynomial_cutoff(jnp.float32(t))) for t in sorted((a, b)))
    assert -1e-5 <= far <= near + 1e-5 <= 1 + 2e-5
