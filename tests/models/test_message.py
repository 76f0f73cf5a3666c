"""The message block against eq. 6-11 written out edge by edge in NumPy, float64."""

import e3nn_jax
import jax
import numpy as np
import pytest

from hdgnn_jax.models.geometry import Shell, polar_rows
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.models.message import MessageBlock
from hdgnn_jax.so3 import degrees, frames, harmonics, wigner

NODES, EDGES, CHANNELS, SCALARS, EDGE_CHANNELS, HIDDEN = 5, 14, 3, 4, 5, 6


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def silu(v):
    return v * sigmoid(v)


def rotations_to_frames(quaternions, degree):
    """D(R), all rows, by e3nn: [E, S, S]."""
    matrices = frames.rotation_matrix(quaternions)
    d = np.zeros((len(matrices), *(degrees.size(degree),) * 2))
    for l in range(degree + 1):
        d[:, degrees.block(l), degrees.block(l)] = e3nn_jax.Irrep(l, 1).D_from_matrix(matrices)
    return d


def gated_product(total, direction, params, degree, product_degree):
    """Gate(total (x) S(r)) in the global frame, path by path (eq. 4, 6, 7)."""
    s = harmonics.harmonics(degree, direction)
    out = []
    for l in range(product_degree + 1):
        weights = params[f"weight_{l}"]
        paths = [
            (l1, l2)
            for l1 in range(degree + 1)
            for l2 in range(degree + 1)
            if abs(l1 - l2) <= l <= l1 + l2
        ]
        assert len(weights) == len(paths)
        value = 0
        for (l1, l2), weight in zip(paths, weights, strict=True):
            coupling = np.asarray(e3nn_jax.clebsch_gordan(l1, l2, l), float) * (2 * l + 1) ** 0.5
            pair = np.einsum(
                "ijk,ic,j->kc", coupling, total[degrees.block(l1)], s[degrees.block(l2)]
            )
            value = value + pair @ weight
        out.append(value)
    scalars, *gates = np.split(out[0][0], 1 + product_degree)
    return np.concatenate(
        [silu(scalars)[None]] + [sigmoid(g) * v for g, v in zip(gates, out[1:], strict=True)]
    )


def depthwise(params, x_j, e, direction, degree, product_degree):
    """n_l' sum_l w_l'l (n_l . x_l) + v_l' x_l', n being harmonics of length one."""
    n = [harmonics.harmonics(degree, direction)[degrees.block(l)] for l in range(degree + 1)]
    n = [row / np.linalg.norm(row) for row in n]
    x = [x_j[degrees.block(l)] @ params["mix"][f"degree_{l}"]["kernel"] for l in range(degree + 1)]

    def weight(name):
        return e @ params[name]["kernel"] + params[name]["bias"]

    out = []
    for l in range(product_degree + 1):
        along = sum(weight(f"weight_{l}_{k}") * (n[k] @ x[k]) for k in range(degree + 1))
        value = (2 * l + 1) ** 0.5 * np.outer(n[l], along) / (degree + 1) ** 0.5
        out.append((value + weight(f"whole_{l}") * x[l]) / 2**0.5 if l else value)
    return np.concatenate(out)


def message(params, x_i, x_j, f_i, f_j, e, d, direction, options):
    """m_ij of eq. 11, [S, C]."""
    degree, attention = options["degree"], options["attention"]
    kept = degrees.rows(degree, options["m_max"])
    d, identity = d[kept], np.eye(len(d))[kept]
    channels = x_i.shape[1]

    def dense(name, v):
        return v @ params[name]["kernel"] + params[name].get("bias", 0)

    c = silu(dense("c", e))

    def network(name, v):
        both = dict(zip(("nn1", "nn2"), np.split(dense("in", v.reshape(-1)), 2), strict=True))
        second = dense(name, silu(both[name]) * c)
        return (silu(second) if options["last_silu"] else second).reshape(-1, channels)

    if isinstance(attention, str):
        mixed = dense("attention_edge", e) + dense("attention_receiver", f_i)
        mixed = silu((mixed + dense("attention_sender", f_j)) / 3**0.5)
        logits = dense("attention", mixed).reshape(-1, channels)
        softmax = np.exp(logits) / np.exp(logits).sum(0)
        a = softmax if attention == "softmax" else sigmoid(logits)
    else:
        a = np.ones((4, channels)) * np.array(attention)[:, None]

    learned = sum(
        gate * (network(name, (d - identity) @ v) + network(name, identity @ v))
        for gate, name, v in zip(a, ("nn1", "nn1", "nn2"), (x_i, x_j, x_i + x_j), strict=False)
    )
    total = (x_i + x_j) / 2**0.5
    if options["tensor_product"] == "metp":
        total = total.mean(-1, keepdims=True) * channels**0.5
    if options["tensor_product"] == "depthwise":
        exact = depthwise(params["product"], x_j, e, direction, degree, options["product_degree"])
    else:
        exact = gated_product(
            total, direction, params["product"], degree, options["product_degree"]
        )
    out = d.T @ learned
    out[: len(exact)] += a[3] * exact
    if "full_product" in params:
        mean = (x_i + x_j).mean(-1, keepdims=True) * (channels / 2) ** 0.5
        out += a[4] * gated_product(mean, direction, params["full_product"], degree, degree)
    return out


@pytest.mark.parametrize(
    ("degree", "m_max", "product_degree", "tensor_product", "attention", "full", "last_silu"),
    [
        (2, 1, 2, "metp", "sigmoid", False, True),
        (3, 3, 1, "fully_connected", "softmax", False, False),
        (1, 0, 1, "metp", (0.3, 0.3, 0.3, 0.1), False, False),
        (2, 1, 1, "metp", "sigmoid", True, True),
        (2, 1, 2, "depthwise", "sigmoid", False, False),
        (3, 1, 1, "depthwise", (0.3, 0.3, 0.3, 0.1), False, False),
    ],
)
def test_messages_are_those_of_equation_11(
    x64, degree, m_max, product_degree, tensor_product, attention, full, last_silu
):
    rng = np.random.default_rng(0)
    options = {
        "degree": degree,
        "m_max": m_max,
        "product_degree": product_degree,
        "attention": attention,
        "tensor_product": tensor_product,
        "last_silu": last_silu,
    }
    hyper = HyperParameters(hidden=HIDDEN, neighbors=2.5, full_product=full, **options)
    block = MessageBlock(hyper, degree, HIDDEN)
    senders = rng.integers(0, NODES, EDGES)
    receivers = np.sort(rng.integers(0, NODES, EDGES))
    x = rng.normal(size=(NODES, degrees.size(degree), CHANNELS))
    f = rng.normal(size=(NODES, SCALARS))
    e = rng.normal(size=(EDGES, EDGE_CHANNELS))
    direction = rng.normal(size=(EDGES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    envelope = rng.uniform(size=EDGES)
    roll = rng.uniform(0, 6, EDGES)

    @jax.jit
    def shell_of(direction, roll, envelope, senders, receivers):
        quaternion = frames.edge_frame(direction, roll)
        rows = wigner.wigner_rows(degree, quaternion)
        return quaternion, Shell(
            edges=None,
            senders=senders,
            receivers=receivers,
            envelope=envelope,
            learned=wigner.wigner(rows, m_max=m_max),
            product=wigner.wigner(rows, m_max=max(m_max, product_degree), first=m_max),
            low=wigner.wigner(rows, l_max=product_degree),
            full=wigner.wigner(rows) if full else None,
            axis=polar_rows(degree, direction),
        )

    quaternion, shell = shell_of(direction, roll, envelope, senders, receivers)
    inputs = (x, f, e, shell)
    shapes = jax.eval_shape(block.init, jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.3, shapes)

    expected = np.zeros_like(x)
    d = rotations_to_frames(quaternion, degree)
    for k, (i, j) in enumerate(zip(receivers, senders, strict=True)):
        expected[i] += (
            message(params, x[i], x[j], f[i], f[j], e[k], d[k], direction[k], options)
            * envelope[k]
            / 2.5**0.5
        )
    found = jax.jit(block.apply)({"params": params}, *inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * abs(expected).max())
