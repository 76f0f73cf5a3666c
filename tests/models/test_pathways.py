"""Each learned pathway is what its name says, and every variant is a config alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from molecules import graph_of, random_molecules
from small import SMALL, loss_of, network, silu, stirred

from experiments.configs import ablations
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.models.pathways import learned_pathway
from hdgnn_jax.so3 import degrees, frames, harmonics, wigner

NODES, EDGES, CHANNELS, HIDDEN, DEGREE = 5, 9, 3, 6, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NODES, degrees.size(DEGREE), CHANNELS))
E = RNG.normal(size=(EDGES, 4))
A = RNG.uniform(size=(3, EDGES, CHANNELS))
RECEIVERS, SENDERS = RNG.integers(0, NODES, (2, EDGES))
DIRECTION = RNG.normal(size=(EDGES, 3))
DIRECTION /= np.linalg.norm(DIRECTION, axis=1, keepdims=True)
ROLL = RNG.uniform(0, 6, EDGES)


@functools.partial(jax.jit, static_argnames="m_max")
def in_frames(roll: np.ndarray, m_max: int):
    """The edges' matrices, and the states of both ends in their frames."""
    rotation = frames.edge_frame(DIRECTION, roll)
    frame = wigner.wigner(wigner.wigner_rows(DEGREE, rotation, m_max))
    return frame, tuple(wigner.rotate(frame, jnp.array(X[end])) for end in (RECEIVERS, SENDERS))


def run(kind: str, m_max: int = 1, roll: np.ndarray = ROLL, params: dict | None = None):
    """The pathway's output and its parameters."""
    module = learned_pathway(HyperParameters(pathway=kind, m_max=m_max), DEGREE, HIDDEN)
    frame, turned = in_frames(roll, m_max)
    given = (X, turned, E, A, frame, (RECEIVERS, SENDERS))
    params = stirred(module.init, *given)["params"] if params is None else params
    return np.asarray(jax.jit(module.apply)({"params": params}, *given)), params


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("m_max", [0, 1, 2])
def test_so2_does_not_see_the_roll(m_max):
    """The paper's networks do."""
    turned = {"m_max": m_max, "roll": ROLL + RNG.uniform(0, 6, EDGES)}
    value, params = run("so2", m_max)
    np.testing.assert_allclose(run("so2", **turned, params=params)[0], value, atol=1e-6)
    assert np.abs(value).max() > 0.1
    if m_max:
        value, params = run("edge_networks", m_max)
        assert np.abs(run("edge_networks", **turned, params=params)[0] - value).max() > 0.01


@pytest.mark.usefixtures("x64")
def test_linear_is_a_matrix_per_degree():
    value, params = run("linear")
    c = silu(E @ params["c"]["kernel"] + params["c"]["bias"])
    l = degrees.degree_of(DEGREE)
    expected = np.zeros_like(value)
    for name, states, gate in (
        ("nn1", X[RECEIVERS], A[0]), ("nn1", X[SENDERS], A[1]),
        ("nn2", X[RECEIVERS] + X[SENDERS], A[2]),
    ):  # fmt: skip
        for s in range(len(l)):
            kernel = params[name][f"degree_{l[s]}"]["kernel"]
            expected[:, s] += gate * c * (states[:, s] @ kernel)
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_unrestricted_is_one_network_of_states_and_direction():
    value, params = run("unrestricted")
    c = silu(E @ params["c"]["kernel"] + params["c"]["bias"])
    inputs = (
        X[RECEIVERS].reshape(EDGES, -1) @ params["in_receiver"]["kernel"]
        + X[SENDERS].reshape(EDGES, -1) @ params["in_sender"]["kernel"]
        + harmonics.harmonics(DEGREE, DIRECTION) @ params["in_direction"]["kernel"]
    )
    out = (silu(inputs / 3**0.5) * c) @ params["nn1"]["kernel"]
    expected = A[0][:, None] * out.reshape(EDGES, -1, CHANNELS)
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_unshared_networks_with_equal_weights_are_shared_ones():
    value, params = run("edge_networks")
    one, two = np.split(np.asarray(params["in"]["kernel"]), 2, 1)
    apart = {**params, "nn1_sender": params["nn1"], "in": {"kernel": np.hstack([one, one, two])}}
    np.testing.assert_allclose(run("unshared", params=apart)[0], value, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_nn_of_rotated_leaves_the_global_frame_out():
    """D^T sum a NN(D x), written out."""
    value, params = run("nn_of_rotated")
    c = silu(E @ params["c"]["kernel"] + params["c"]["bias"])
    d = jax.jit(lambda roll: wigner.block_diagonal(
        wigner.wigner_rows(DEGREE, frames.edge_frame(DIRECTION, roll), 1)
    ))(ROLL)  # fmt: skip
    d = np.asarray(d)
    expected = np.zeros_like(value)
    for k, (name, states) in enumerate(
        [("nn1", X[RECEIVERS]), ("nn1", X[SENDERS]), ("nn2", X[RECEIVERS] + X[SENDERS])]
    ):
        kernel = np.split(np.asarray(params["in"]["kernel"]), 2, 1)[name == "nn2"]
        hidden = silu((d @ states).reshape(EDGES, -1) @ kernel) * c
        term = (hidden @ params[name]["kernel"]).reshape(EDGES, -1, CHANNELS)
        expected += d.swapaxes(1, 2) @ (A[k][:, None] * term)
    np.testing.assert_allclose(value, expected, atol=1e-6)


VARIANTS = ablations.VARIANTS | ablations.DIAL


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_config_alone(variant):
    """It differs from baseline in the named fields."""
    config, baseline = ablations.get_config(variant), ablations.get_config()
    changed = {name for name in baseline.model if config.model[name] != baseline.model[name]}
    assert changed == set(VARIANTS[variant])
    config.model, baseline.model = {}, {}
    assert config == baseline


def test_the_dial_shares_out_a_weight_of_one():
    shares = [sum(fields["attention"][:3]) for fields in ablations.DIAL.values()]
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1], rtol=1e-12)
    assert all(sum(fields["attention"]) == pytest.approx(1) for fields in ablations.DIAL.values())
    equal = ablations.VARIANTS["equal_weights"]["attention"]
    assert ablations.DIAL["dial_75"]["attention"] == pytest.approx(equal)


def test_every_parameter_of_the_released_variant_receives_a_gradient():
    """None is zero. `test_start.py` has the other variants."""
    options = ablations.VARIANTS["released"]
    graph = graph_of(random_molecules(8, 0), budget=batching.Budget(480, 72, 9))
    params = stirred(network(**{**SMALL, **options}).init, graph)
    _, found = loss_of(**options)(params, graph)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(found))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.abs(leaf).max() > 1e-7 * largest, jax.tree_util.keystr(path)
