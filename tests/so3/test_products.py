"""The product taken in the edge's frame is the Clebsch-Gordan product with S(r) itself."""

from __future__ import annotations

import e3nn_jax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdgnn_jax.models.message import TensorProductGate
from hdgnn_jax.so3 import degrees, frames, products, wigner
from hdgnn_jax.so3.harmonics import harmonics

pytestmark = pytest.mark.usefixtures("x64")

SIZES = pytest.mark.parametrize(("degree", "degree_out"), [(2, 2), (3, 1), (4, 2)])


def global_path(x, directions, l1, l2, l):
    """[E, 2l + 1, C] of x^l1 (x) S^l2(r) in e3nn's `component` normalisation, without a frame."""
    coupling = np.sqrt(2 * l + 1) * e3nn_jax.clebsch_gordan(l1, l2, l)
    y = harmonics(l2, directions)[:, degrees.block(l2)]
    return np.einsum("eic,ej,ijk->ekc", x[:, degrees.block(l1)], y, coupling)


def in_frame(degree, degree_out, directions, rolls, x):
    """x in the frames of the edges, and the way back, as a layer takes them."""
    rotation = frames.edge_frame(jnp.array(directions), jnp.array(rolls))
    rows = wigner.wigner_rows(degree, rotation)
    into, back = wigner.wigner(rows, m_max=degree_out), wigner.wigner(rows, l_max=degree_out)
    return wigner.rotate(into, x), lambda y: wigner.rotate_back(back, y)


@SIZES
def test_every_path_is_e3nns_product(degree, degree_out, directions, rolls):
    """All (l1, l2, l) of the triangle rule (eq. 5), each normalised as e3nn's `component`."""
    constants = products.paths(degree, degree_out)
    assert sorted(map(tuple, constants.triples)) == [
        (l1, l2, l)
        for l1 in range(degree + 1)
        for l2 in range(degree + 1)
        for l in range(degree_out + 1)
        if abs(l1 - l2) <= l <= l1 + l2
    ]
    x = jnp.array(np.random.default_rng(4).normal(size=(len(rolls), degrees.size(degree), 3)))
    turned, back = in_frame(degree, degree_out, directions, rolls, x)
    for p, (l1, l2, l) in enumerate(constants.triples.tolist()):
        product = np.zeros((len(rolls), degrees.size(degree_out), 3))
        for i, o, coupling in zip(*constants[1:], strict=True):
            product[:, o] = np.einsum("eic,io->eoc", turned[:, i], coupling[p])
        expected = np.zeros_like(product)
        expected[:, degrees.block(l)] = global_path(x, directions, l1, l2, l)
        np.testing.assert_allclose(back(product), expected, atol=1e-12)


@SIZES
def test_unit_variance_in_is_unit_variance_out_on_every_path(degree, degree_out):
    """The mean over m of the output's variance: the squares of a path's constants add to 2l + 1."""
    constants = products.paths(degree, degree_out)
    squares = sum((coupling**2).sum((1, 2)) for coupling in constants.couplings)
    np.testing.assert_allclose(squares, 2 * constants.triples[:, 2] + 1, rtol=1e-12)


@SIZES
@pytest.mark.parametrize("channels_in", [1, 3])
def test_gated_product_is_the_same_in_the_global_frame(
    degree, degree_out, directions, rolls, channels_in
):
    """METP is one input channel, the fully connected product several."""
    features, rng = 2, np.random.default_rng(5)
    x = jnp.array(rng.normal(size=(len(rolls), degrees.size(degree), channels_in)))
    turned, back = in_frame(degree, degree_out, directions, rolls, x)
    found, variables = TensorProductGate(degree, degree_out, features, "float32").init_with_output(
        jax.random.key(0), turned
    )

    index = products.paths(degree, degree_out).triples.tolist()
    total = [0.0] * (degree_out + 1)
    for l in range(degree_out + 1):
        of_paths = variables["params"][f"weight_{l}"]
        for (l1, l2, _), weight in zip([p for p in index if p[2] == l], of_paths, strict=True):
            total[l] += jnp.einsum("emc,cd->emd", global_path(x, directions, l1, l2, l), weight)
    scalars, *gates = jnp.split(total[0], degree_out + 1, -1)
    expected = [nn.silu(scalars)]
    expected += [part * nn.sigmoid(gate) for part, gate in zip(total[1:], gates, strict=True)]
    np.testing.assert_allclose(back(found), jnp.concatenate(expected, 1), atol=1e-12)
