"""Measures what a network's attention chooses: the weights of eq. 11, by layer and distance.

The paper (section 5.2) says that attention trades equivariance, which the Clebsch-Gordan term has,
for the accuracy of the learned terms. This shows where, and how far.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

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


class Weights(NamedTuple):
    """Mean weights of the terms, over channels and edges.

    Attributes:
      terms: their names.
      limits: [bins + 1] limits of the bins of distance, Å.
      mean: [layers, terms] over all edges.
      by_distance: [layers, terms, bins]; NaN where a bin has no edge.
      edges: [bins] number of edges.
    """

    terms: tuple[str, ...]
    limits: np.ndarray
    mean: np.ndarray
    by_distance: np.ndarray
    edges: np.ndarray

    def to_json(self) -> Json:
        """`terms`, `limits`, `edges` and, by layer, `mean` and `by_distance`; None: no edge."""
        layers = [
            {
                "mean": mean.tolist(),
                "by_distance": [
                    [None if np.isnan(value) else value for value in of_term]
                    for of_term in of_layer.tolist()
                ],
            }
            for mean, of_layer in zip(self.mean, self.by_distance, strict=True)
        ]
        return {
            "terms": list(self.terms),
            "limits": self.limits.tolist(),
            "edges": self.edges.tolist(),
            "layers": layers,
        }


def attention_weights(
    model: HDGNN, params: Params, graph: batching.MolecularGraph, bins: int = 10
) -> Weights:
    """The weights a_ij of eq. 11 on the edges of a graph that the network weighs.

    Of two shells of neighbours it is the outer one, which has all edges.

    Args:
      model, params: any.
      graph: padded; frames are canonical.
      bins: number of bins between 0 and the cutoff.
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
    by_distance = np.where(count > 0, sums / np.maximum(count, 1), np.nan)
    return Weights(_terms(model), limits, of_edges.mean(-1), by_distance, count)


def _terms(model: HDGNN) -> tuple[str, ...]:
    hyper = model.hyper
    learned = {"none": (), "unrestricted": ("network",)}.get(hyper.pathway, LEARNED)
    product = () if hyper.tensor_product == "none" else ("product",)
    return (*learned, *product, *(("single channel",) if hyper.full_product else ()))


@functools.partial(jax.jit, static_argnums=0)
def _edges(model: HDGNN, graph: batching.MolecularGraph) -> tuple[jax.Array, jax.Array]:
    """Length and envelope of each edge."""
    envelope = model.geometry(graph, jnp.zeros(graph.senders.shape)).envelope
    return safe.norm(edge_vectors(graph)), envelope
