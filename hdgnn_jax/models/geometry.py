"""Distances, envelopes and rotations of edges, once per graph (models/README.md, section 2)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.so3 import degrees, frames, harmonics, safe, wigner

TIE = 1e-3
"""Å. Without an envelope, an atom sees neighbours nearer than its reach minus this: distances that
are equal in a crystal differ by rounding."""


class Shell(NamedTuple):
    """Edges that one message block sees.

    Attributes:
      edges: [E'] indices among all edges; None: all edges, in order.
      senders, receivers: [E']; receivers ascend.
      envelope: [E'] weight of each edge, exactly 0 on padded edges.
      learned: D(R_ij), rows |m| <= m_max, for the learned pathway.
      product: the same rows, and behind them those up to |m| = L', for the inputs of the
        Clebsch-Gordan product.
      low: D(R_ij) of degrees l <= L', which turns outputs of that product back.
      full: D(R_ij), all rows, for the fifth term; None without it.
      axis: [E', S] the row m = 0 of D(R_ij) for each degree, S(r_ij) / sqrt(2l + 1).
    """

    edges: jax.Array | None
    senders: jax.Array
    receivers: jax.Array
    envelope: jax.Array
    learned: wigner.Wigner
    product: wigner.Wigner
    low: wigner.Wigner
    full: wigner.Wigner | None
    axis: jax.Array


class EdgeGeometry(NamedTuple):
    """Attributes of the edges, shared by all layers.

    Attributes:
      smeared: [E, n_gaussians] Gaussian smearing of the distance.
      envelope: [E] weight of each edge, exactly 0 on padded edges.
      shells: one shell, or two: the nearest neighbours, then the rest. The weights of an edge in
        both add up to `envelope`.
    """

    smeared: jax.Array
    envelope: jax.Array
    shells: tuple[Shell, ...]


def edge_vectors(graph: batching.MolecularGraph) -> jax.Array:
    """r_ij = x_j + shift - x_i, [E, 3] in Å; 0 on padded edges."""
    x = graph.nodes.positions
    vectors: jax.Array = x[graph.senders] - x[graph.receivers]
    return vectors if graph.edges.shift is None else vectors + graph.edges.shift


def turned(graph: batching.MolecularGraph, rotation: jax.Array) -> batching.MolecularGraph:
    """The graph turned by a unit quaternion (w, x, y, z)."""
    matrix = frames.rotation_matrix(rotation)

    def turn(vectors: jax.Array) -> jax.Array:
        return jnp.dot(vectors, matrix.T, precision="highest")

    return graph._replace(
        nodes=graph.nodes._replace(positions=turn(graph.nodes.positions)),
        edges=jax.tree.map(turn, graph.edges),
    )


def turned_rolls(
    graph: batching.MolecularGraph, roll: jax.Array, rotation: jax.Array
) -> jax.Array:
    """The rolls [E] for which frames turn with the graph: R(Q r, returned roll) Q = R(r, roll).

    Args:
      graph: the graph before it is turned.
      roll: [E] radians.
      rotation: Q, a unit quaternion.
    """
    along = frames.multiply(_edge_frames(edge_vectors(graph), roll), frames.inverse(rotation))
    there = edge_vectors(turned(graph, rotation))
    shortest = _edge_frames(there, jnp.zeros_like(roll))
    # The two frames differ by a turn about +y.
    spin = frames.multiply(along, frames.inverse(shortest))
    return 2 * jnp.arctan2(spin[:, 2], spin[:, 0])


def edge_geometry(
    graph: batching.MolecularGraph, roll: jax.Array, hyper: HyperParameters
) -> EdgeGeometry:
    """Distances, envelope and rotations of every edge.

    An atom's reach is the cutoff or the distance of its neighbour number `max_neighbors` + 1,
    whichever is shorter. An edge's weight falls to 0 at the reach of its receiver, so the energy is
    continuous where neighbours change ranks. (Forces jump a little there, because the reach changes
    from one neighbour's distance to another's.) Without an envelope the weight is 1 up to the
    reach. Of two shells, the inner one has the weights that a limit of `near_neighbors` gives; the
    outer one holds all edges, with the remainder of their weights. An atom whose
    `max_neighbors` + 1 nearest neighbours are all at one distance, as in a perfect crystal, sees
    none of them: choose a limit between two shells of atoms.

    Args:
      graph: padded; its neighbours lie within the cutoff, and ascend by distance if limited.
      roll: [E] turn of each edge's frame about the edge, radians.
      hyper: those of the network.
    """
    m_max, product_degree, full = hyper.m_max, hyper.product_degree, hyper.full_product
    vectors = edge_vectors(graph)
    distance, rotations = safe.norm(vectors), _edge_frames(vectors, roll)
    directions = safe.normalise(vectors)
    start, count = _edges_of_nodes(graph)

    def weights(limit: int | None) -> jax.Array:
        return _weights(graph, distance, start, count, limit, hyper)

    def shell(
        degree: int, edges: jax.Array | None, receivers: jax.Array, weight: jax.Array
    ) -> Shell:
        def of(values: jax.Array) -> jax.Array:
            return values if edges is None else values[edges]

        highest = degree if full else max(m_max, product_degree)
        rows = wigner.wigner_rows(degree, of(rotations), highest)
        return Shell(
            edges,
            of(graph.senders),
            receivers,
            weight,
            learned=wigner.wigner(rows, m_max=m_max),
            product=wigner.wigner(rows, m_max=max(m_max, product_degree), first=m_max),
            low=wigner.wigner(rows, l_max=product_degree),
            full=wigner.wigner(rows) if full else None,
            axis=polar_rows(degree, of(directions)),
        )

    total = weights(hyper.max_neighbors)
    smeared = gaussian_smearing(distance, hyper.cutoff, hyper.n_gaussians)
    if hyper.near_neighbors is None:
        shells = (shell(hyper.degree, None, graph.receivers, total),)
        return EdgeGeometry(smeared, total, shells)
    near = weights(hyper.near_neighbors)
    # Edges ascend by distance: an atom's first edges are its inner shell, a row of fixed length.
    place = jnp.arange(hyper.near_neighbors)
    real = place < count[:, None]
    edges = jnp.where(real, start[:, None] + place, 0)
    receivers = jnp.repeat(jnp.arange(start.shape[0]), hyper.near_neighbors)
    of_near = jnp.where(real, near[edges], 0).reshape(-1)
    inner = shell(hyper.degree, edges.reshape(-1), receivers, of_near)
    outer = shell(hyper.far_degree, None, graph.receivers, total - near)
    return EdgeGeometry(smeared, total, (inner, outer))


def _weights(
    graph: batching.MolecularGraph,
    distance: jax.Array,
    start: jax.Array,
    count: jax.Array,
    limit: int | None,
    hyper: HyperParameters,
) -> jax.Array:
    """[E] weights of edges, where `limit` is the number of neighbours that an atom sees.

    `start` and `count` come from `_edges_of_nodes`; the other arguments are as in `edge_geometry`.
    """
    reach = jnp.full(distance.shape, jnp.inf)
    if limit is not None:
        more = count > limit
        # Padded edges are not counted: none of them defines a reach, so no reach is 0.
        next_one = distance[jnp.where(more, start + limit, 0)]
        reach = jnp.where(more, next_one, jnp.inf)[graph.receivers]
    if hyper.envelope:
        weight = polynomial_cutoff(distance / jnp.minimum(reach, hyper.cutoff))
    else:
        weight = (distance < reach - TIE).astype(distance.dtype)
    return jnp.where(batching.edge_mask(graph), weight, 0)


def polar_rows(degree: int, directions: jax.Array) -> jax.Array:
    """[E, S] the rows m = 0 of D(R_ij) for unit vectors [E, 3]; they do not depend on the roll."""
    norms = (2 * degrees.degree_of(degree) + 1) ** -0.5
    return harmonics.harmonics(degree, directions) * norms.astype(directions.dtype)


def _edges_of_nodes(graph: batching.MolecularGraph) -> tuple[jax.Array, jax.Array]:
    """[N] the index of the first real edge that each node receives, and the number of them."""
    n_nodes = graph.nodes.positions.shape[0]
    real = batching.edge_mask(graph).astype(jnp.int32)
    count = jax.ops.segment_sum(real, graph.receivers, n_nodes, indices_are_sorted=True)
    return jnp.cumsum(count) - count, count


def _edge_frames(vectors: jax.Array, roll: jax.Array) -> jax.Array:
    return frames.edge_frame(safe.normalise(vectors), roll)


def gaussian_smearing(distance: jax.Array, cutoff: float, n: int) -> jax.Array:
    """[E, n] Gaussians with equally spaced centres on [0, cutoff], one spacing wide."""
    spacing = cutoff / (n - 1)
    centres = jnp.arange(n, dtype=distance.dtype) * spacing
    return jnp.exp(-0.5 * ((distance[:, None] - centres) / spacing) ** 2)


def polynomial_cutoff(t: jax.Array) -> jax.Array:
    """u(t) = 1 - 21 t^5 + 35 t^6 - 15 t^7: 1 at t = 0; 0 from t = 1 on, with two derivatives."""
    inside = 1 - t**5 * (21 - t * (35 - 15 * t))
    return jnp.where(t < 1, inside, 0)
