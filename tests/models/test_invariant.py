"""The invariant branch sees distances only."""

from __future__ import annotations

import jax
import numpy as np
from equivariance import equivariance_error
from molecules import CUTOFF, KNOWN, graph_of
from small import stirred

from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.models.embedding import DistanceBlock
from hdgnn_jax.models.geometry import edge_geometry
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.models.invariant import InvariantBranch

NEIGHBORS = 4.0
BRANCH = InvariantBranch(NEIGHBORS, "float32")
HYPER = HyperParameters(degree=1, product_degree=1, cutoff=CUTOFF, n_gaussians=16)


def random_inputs(n_nodes: int, n_edges: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    f, e = (rng.normal(size=(n, 5)).astype(np.float32) for n in (n_nodes, n_edges))
    envelope = rng.uniform(size=n_edges).astype(np.float32)
    return f, e, envelope, np.sort(rng.integers(n_nodes, size=n_edges))


def test_equals_numpy():
    """f + (2/3) W sum_j u_ij e_ij / sqrt(neighbors)."""
    f, e, envelope, receivers = inputs = random_inputs(6, 20)
    params = stirred(BRANCH.init, *inputs)
    total = np.zeros((6, 5))
    np.add.at(total, receivers, e * envelope[:, None])
    want = f + 2 / 3 * (total / NEIGHBORS**0.5) @ params["params"]["mix"]["kernel"]
    np.testing.assert_allclose(BRANCH.apply(params, *inputs), want, rtol=1e-5, atol=1e-5)


def test_is_invariant_under_rotation():
    """Distance block and branch over turned positions are the same numbers."""
    f = random_inputs(len(KNOWN.positions) + 2, 1)[0]

    def box(structures: Structures) -> np.ndarray:
        graph = jax.tree.map(np.asarray, graph_of(structures))
        geometry = edge_geometry(graph, np.zeros(len(graph.senders), np.float32), HYPER)
        block = DistanceBlock(10, 5, "float32")
        arguments = geometry.smeared, graph.nodes.atomic_numbers, graph.senders, graph.receivers
        e = block.apply(stirred(block.init, *arguments), *arguments)
        inputs = f, e, geometry.envelope, graph.receivers
        return BRANCH.apply(stirred(BRANCH.init, *inputs), *inputs)

    assert equivariance_error(box, KNOWN) < 1e-5
