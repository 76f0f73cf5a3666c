"""Measures what a network's attention chooses: the weights of eq. 11, by layer and distance.

The paper (section 5.2) says that attention trades equivariance, which the Clebsch-Gordan term has,
for the accuracy of the learned terms. This shows where, and how far.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.evaluation.liveness import seen_inside
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.gates import ATTENTION
from hdgnn_jax.models.geometry import edge_vectors
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.so3 import safe
from hdgnn_jax.types import Json, Params

LEARNED = ("receiver", "sender", "both")
"""What the networks of a1, a2 and a3 see."""


def attention_weights(
    model: HDGNN, params: Params, graph: batching.MolecularGraph, bins: int = 10
) -> Json:
    """The weights a_ij of eq. 11 on the edges of a graph that the network weighs.

    Of two shells of neighbours it is the outer one, which has all edges.

    Args:
      model, params: any.
      graph: padded; frames are canonical.
      bins: number of bins between 0 and the cutoff.

    Returns:
      `terms`, their names; `limits` of the bins of distance, [bins + 1], Å; `edges`, the number of
      them in each bin; and `layers`, each with means over channels and edges: `mean`, [terms], over
      all edges, and `by_distance`, [terms, bins], None where a bin has no edge.
    """
    graph = jax.tree.map(jnp.asarray, graph)
    seen = jax.device_get(seen_inside(model, params, graph))
    distances, envelope = jax.device_get(_edges(model, graph))
    name = "message" if model.hyper.near_neighbors is None else "message_far"
    (of_edges,) = jax.tree.leaves(seen[ATTENTION]["stack"][name])  # [K, E, terms]
    weighed = envelope > 0
    of_edges = np.moveaxis(of_edges[:, weighed], 1, 2).astype(np.float64)
    distances = distances[weighed]
    limits = np.linspace(0, model.hyper.cutoff, bins + 1)
    place = np.clip(np.digitize(distances, limits) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = of_edges @ np.eye(bins)[place]
    by_distance = (sums / np.maximum(count, 1)).astype(object)
    by_distance[..., count == 0] = None
    layers = zip(of_edges.mean(-1).tolist(), by_distance.tolist(), strict=True)
    return {
        "terms": _terms(model),
        "limits": limits.tolist(),
        "edges": count.tolist(),
        "layers": [{"mean": mean, "by_distance": of_bins} for mean, of_bins in layers],
    }


def _terms(model: HDGNN) -> list[str]:
    hyper = model.hyper
    learned = {"none": (), "unrestricted": ("network",)}.get(hyper.pathway, LEARNED)
    product = () if hyper.tensor_product == "none" else ("product",)
    return [*learned, *product, *(("single channel",) if hyper.full_product else ())]


@functools.partial(jax.jit, static_argnums=0)
def _edges(model: HDGNN, graph: batching.MolecularGraph) -> tuple[jax.Array, jax.Array]:
    """Length and envelope of each edge."""
    envelope = model.geometry(graph, jnp.zeros(graph.senders.shape)).envelope
    return safe.norm(edge_vectors(graph)), envelope
