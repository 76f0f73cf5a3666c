"""Heads: their formulas, and what translation, rotation and size do to them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from equivariance import equivariance_error, harmonics
from molecules import KNOWN, graph_of, moved
from small import silu, stirred

from hdgnn_jax.data.targets import turned
from hdgnn_jax.evaluation.symmetry import random_rotations
from hdgnn_jax.graphs.structure import MASSES, Structures
from hdgnn_jax.models.heads import HEADS, AtomScalars, MoleculeHead, columns, shares
from hdgnn_jax.so3 import sphere, wigner
from hdgnn_jax.types import Apply

ATOMS = len(KNOWN.positions) + 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ATOMS, 9, 4)).astype(np.float32)
F = RNG.normal(size=(ATOMS, 5)).astype(np.float32)
ORDER = 65
POINTS = sphere.sphere(2, "lebedev", ORDER)


def head(*kinds: str) -> MoleculeHead:
    return MoleculeHead(kinds, POINTS, 1.0, "float32")


@functools.cache
def params(*kinds: str) -> dict:
    return stirred(head(*kinds).init, X, F, graph_of(KNOWN))


@functools.cache
def compiled(*kinds: str) -> Apply:
    return jax.jit(head(*kinds).apply)


@jax.jit
def full(quaternion: jax.Array) -> jax.Array:
    """D up to degree 2."""
    return wigner.block_diagonal(wigner.wigner_rows(2, quaternion))


def values(structures: Structures, x: np.ndarray, kind: str) -> np.ndarray:
    out = compiled(kind)(params(kind), x, F, graph_of(structures))
    return np.asarray(out)[: len(structures)].reshape(-1, *(3,) * HEADS[kind].rank)


def atom_scalars(p: dict, x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """mean over the sphere of MLP(p(r)), plus MLP(f), in float64."""
    points, weights = scipy.integrate.lebedev_rule(ORDER)
    signal = np.einsum("gs,nsc->ngc", harmonics(2, points.T), x)
    signal = silu(signal @ p["sphere_in"]["kernel"] + p["bias"])
    signal = silu(signal @ p["sphere_hidden"]["kernel"] + p["sphere_hidden"]["bias"])
    mean = np.einsum("g,ngc->nc", weights / weights.sum(), signal)
    out = mean @ p["sphere_out"]["kernel"] + p["sphere_out"]["bias"]
    hidden = silu(f @ p["invariant_hidden"]["kernel"] + p["invariant_hidden"]["bias"])
    return out + hidden @ p["invariant_out"]["kernel"]


def tensors(coefficients: np.ndarray) -> np.ndarray:
    """[n, 5] of degree 2 to [n, 3, 3]: the quadratic form r T r = sum_m c_m Y_2m(r) |r|^2, whose
    matrix is found from its values on 40 points by least squares, scaled so that |C_m| = 1."""
    points = np.random.default_rng(0).normal(size=(40, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    products = np.einsum("pi,pj->pij", points, points).reshape(40, 9)
    forms = np.linalg.lstsq(products, harmonics(2, points)[:, 4:], rcond=None)[0].T
    forms = forms.reshape(5, 3, 3) / np.linalg.norm(forms, axis=1)[:, None, None]
    return np.einsum("nm,mij->nij", coefficients, forms)


@pytest.mark.parametrize("kind", HEADS)
def test_equals_numpy(kind):
    """The formula of the head's docstring, molecule by molecule."""
    p = params(kind)["params"]
    scalars = atom_scalars(p["scalars"], X, F)
    want = []
    for k, molecule in enumerate(KNOWN):
        rows = slice(KNOWN.offsets[k], KNOWN.offsets[k + 1])
        mass = np.array(MASSES, float)[molecule.atomic_numbers]
        offset = molecule.positions - mass @ molecule.positions / mass.sum()
        s = scalars[rows]
        if kind in ("invariant", "mean"):
            want.append(s.sum() if kind == "invariant" else s.mean())
        elif kind == "extent":
            want.append((s[:, 0] * (offset**2).sum(-1) + s[:, 1]).sum())
        elif kind == "polarizability":
            traceless = tensors(X[rows, 4:] @ p["tensor"]["kernel"][:, 0])
            want.append((s[..., None] * np.eye(3) + traceless).sum(0))
        else:
            vectors = X[rows, 1:4] @ p["vector"]["kernel"][:, 0]
            vector = (vectors + s * offset).sum(0)
            want.append(np.linalg.norm(vector) if kind == "dipole" else vector)
    np.testing.assert_allclose(values(KNOWN, X, kind), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "rank"), [("dipole_vector", 1), ("polarizability", 2)])
def test_vectors_and_tensors_turn_with_the_molecule(kind, rank):
    """On an exact sphere: turned positions and coefficients give the turned value."""
    rotations = random_rotations(len(KNOWN), 3)
    at_rest = values(KNOWN, X, kind)
    owner = np.repeat(np.arange(len(KNOWN)), KNOWN.n_atoms)
    there = X.copy()
    for k, q in enumerate(rotations):
        matrix = full(jnp.asarray(q))
        rows = np.flatnonzero(owner == k)
        there[rows] = np.einsum("ij,njc->nic", matrix, X[rows])
    found = values(KNOWN.turned(rotations), there, kind)
    scale = np.abs(at_rest).max()
    np.testing.assert_allclose(found, turned(at_rest, rotations, rank), atol=1e-5 * scale)
    assert np.abs(found - at_rest).max() > 0.1 * scale


@pytest.mark.parametrize("kind", ["invariant", "dipole", "extent"])
def test_is_invariant_on_an_exact_sphere(kind):
    """Positions and coefficients turned together change no molecule's number."""
    assert equivariance_error(functools.partial(values, kind=kind), KNOWN, X) < 1e-5


@pytest.mark.parametrize("kind", ["dipole", "dipole_vector", "extent"])
def test_origin_is_the_centre_of_mass(kind):
    """Moving the molecules changes nothing."""
    far = values(moved(KNOWN, np.array([[3.0, -2.0, 1.0]])), X, kind)
    np.testing.assert_allclose(far, values(KNOWN, X, kind), rtol=1e-4, atol=1e-4)


def test_several_heads_give_what_each_gives_alone():
    """With its own columns of the last layers."""
    kinds = ["dipole_vector", "extent", "mean", "polarizability", "dipole", "invariant"]
    p, n = params(*kinds)["params"], len(KNOWN)
    together = np.asarray(compiled(*kinds)({"params": p}, X, F, graph_of(KNOWN)))
    starts = np.cumsum([0] + [HEADS[kind].scalars for kind in kinds])
    for kind, start, column in zip(kinds, starts, columns(kinds), strict=False):
        own = {"scalars": dict(p["scalars"])}
        for layer in ("sphere_out", "invariant_out"):
            of_kind = slice(start, start + HEADS[kind].scalars)
            own["scalars"][layer] = {k: v[..., of_kind] for k, v in p["scalars"][layer].items()}
        if kind == "polarizability":
            own["tensor"] = p["tensor"]
        elif kind.startswith("dipole"):
            place = ["dipole_vector", "dipole"].index(kind)
            own["vector"] = {"kernel": p["vector"]["kernel"][:, place : place + 1]}
        alone = np.asarray(compiled(kind)({"params": own}, X, F, graph_of(KNOWN)))
        np.testing.assert_allclose(together[:n, column], alone[:n], rtol=2e-5, atol=2e-5)


def test_each_property_weighs_the_same():
    """Whatever its number of heads, an auxiliary one included, and of components."""
    weights = shares(["invariant", "polarizability", "dipole_vector", "invariant"], "abca")
    np.testing.assert_allclose(
        weights, np.repeat([1 / 6, 1 / 27, 1 / 9, 1 / 6], [1, 9, 3, 1]), rtol=1e-6
    )


def test_invariant_branch_enters_with_weight_lambda():
    """Linear in lambda; at 0 its parameters do not exist."""
    p = params("invariant")["params"]["scalars"]
    zero, one, three = (
        np.asarray(jax.jit(AtomScalars(POINTS, 1, weight, "float32").apply)({"params": p}, X, F))
        for weight in (0.0, 1.0, 3.0)
    )
    np.testing.assert_allclose(three - zero, 3 * (one - zero), rtol=1e-4, atol=1e-5)
    shapes = jax.eval_shape(AtomScalars(POINTS, 1, 0.0, "float32").init, jax.random.key(0), X, F)
    assert not [name for name in shapes["params"] if name.startswith("invariant")]
