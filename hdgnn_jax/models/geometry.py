"""What the layers see of the positions, computed once per graph (models/README.md, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching
from hdgnn_jax.so3 import degrees as layout
from hdgnn_jax.so3 import frames, harmonics, safe, wigner

TIE = 1e-3
"""Å. Without an envelope, neighbours that are farther than an atom's reach less this are cut: equal
distances of a crystal differ by rounding."""


class Shell(NamedTuple):
    """Edges that one message block sees.

    Attributes:
      edges: [E'] their places among all edges; None: all, in order.
      senders, receivers: [E']; receivers ascend.
      envelope: [E'] weight of each edge, exactly 0 on padded ones.
      learned: D(R_ij), rows |m| <= m_max: for the learned pathway.
      product: D(R_ij), rows |m| <= L': into the frame of the Clebsch-Gordan product.
      low: D(R_ij) of degrees l <= L': back from it.
      full: D(R_ij), all rows, where the fifth term asks for them.
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
      envelope: [E] weight of each edge, exactly 0 on padded ones.
      shells: one, or the nearest neighbours and then the rest; their weights add up to `envelope`.
    """

    smeared: jax.Array
    envelope: jax.Array
    shells: tuple[Shell, ...]


def edge_vectors(graph: batching.MolecularGraph) -> jax.Array:
    """r_ij = x_j + shift - x_i, [E, 3] in Å; 0 on padded edges."""
    x = graph.nodes.positions
    vectors = x[graph.senders] - x[graph.receivers]
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
    """The rolls [E] with which the frames turn along: R(Q r, turned roll) Q = R(r, roll).

    Args:
      graph: before it is turned.
      roll: [E] radians.
      rotation: Q, a unit quaternion.
    """
    along = frames.multiply(_edge_frames(edge_vectors(graph), roll), frames.inverse(rotation))
    there = edge_vectors(turned(graph, rotation))
    shortest = _edge_frames(there, jnp.zeros_like(roll))
    # What is left between the two is a turn about +y.
    spin = frames.multiply(along, frames.inverse(shortest))
    return 2 * jnp.arctan2(spin[:, 2], spin[:, 0])


def edge_geometry(
    graph: batching.MolecularGraph,
    roll: jax.Array,
    *,
    degrees: Sequence[int],
    m_max: int,
    product_degree: int,
    cutoff: float,
    n_gaussians: int,
    envelope: bool,
    full: bool = False,
    max_neighbors: int | None = None,
    near_neighbors: int | None = None,
) -> EdgeGeometry:
    """Distances, envelope and rotations of every edge.

    An atom's reach is the cutoff or, if that is nearer, the distance of neighbour
    `max_neighbors` + 1. An edge's weight falls to 0 at the reach of its receiver, so that the
    energy is continuous where neighbours change ranks (forces jump a little there: the reach turns
    from one neighbour's distance to another's). Without an envelope it is 1 up to the reach. Of two
    shells the inner has the weights that a limit of `near_neighbors` gives; the outer holds all
    edges, with what is left of their weights. (An atom whose `max_neighbors` + 1 nearest are all
    equally far, as in a perfect crystal, sees none: take a limit between two shells of atoms.)

    Args:
      graph: padded; neighbours within `cutoff`, from the nearest on where their number is limited.
      roll: [E] turn of each edge's frame about the edge, radians.
      degrees: L of each shell.
      m_max: rows kept for the learned pathway.
      product_degree: L'.
      cutoff: Å.
      n_gaussians: of the smearing.
      envelope: whether messages fade out towards the reach.
      full: whether all rows are needed too.
      max_neighbors: neighbours that an atom sees; None: all.
      near_neighbors: those in the inner of two shells; None: one shell.
    """
    vectors = edge_vectors(graph)
    distance, rotations = safe.norm(vectors), _edge_frames(vectors, roll)
    directions = safe.normalise(vectors)
    start, count = _edges_of_nodes(graph)

    def weights(limit: int | None) -> jax.Array:
        return _weights(graph, distance, start, count, limit, cutoff, envelope)

    def shell(
        degree: int, edges: jax.Array | None, receivers: jax.Array, weight: jax.Array
    ) -> Shell:
        of = (lambda v: v) if edges is None else (lambda v: v[edges])
        highest = degree if full else max(m_max, product_degree)
        rows = wigner.wigner_rows(degree, of(rotations), highest)
        return Shell(
            edges,
            of(graph.senders),
            receivers,
            weight,
            learned=wigner.wigner(rows, m_max=m_max),
            product=wigner.wigner(rows, m_max=product_degree),
            low=wigner.wigner(rows, l_max=product_degree),
            full=wigner.wigner(rows) if full else None,
            axis=polar_rows(degree, of(directions)),
        )

    total, smeared = weights(max_neighbors), gaussian_smearing(distance, cutoff, n_gaussians)
    if near_neighbors is None:
        shells = (shell(degrees[0], None, graph.receivers, total),)
        return EdgeGeometry(smeared, total, shells)
    near = weights(near_neighbors)
    # Edges ascend by distance: an atom's inner shell is the first ones, a row of fixed length.
    place = jnp.arange(near_neighbors)
    real = place < count[:, None]
    edges = jnp.where(real, start[:, None] + place, 0)
    receivers = jnp.repeat(jnp.arange(start.shape[0]), near_neighbors)
    of_near = jnp.where(real, near[edges], 0).reshape(-1)
    inner = shell(degrees[0], edges.reshape(-1), receivers, of_near)
    outer = shell(degrees[1], None, graph.receivers, total - near)
    return EdgeGeometry(smeared, total, (inner, outer))


def _weights(
    graph: batching.MolecularGraph,
    distance: jax.Array,
    start: jax.Array,
    count: jax.Array,
    limit: int | None,
    cutoff: float,
    envelope: bool,
) -> jax.Array:
    """[E] of edges that reach to the cutoff or to neighbour limit + 1, if that is nearer.

    `start` and `count` are those of `_edges_of_nodes`; the rest as in `edge_geometry`.
    """
    reach = jnp.full(distance.shape, jnp.inf)
    if limit is not None:
        more = count > limit
        # Padded edges are not counted, so no reach is theirs and none is 0.
        next_one = distance[jnp.where(more, start + limit, 0)]
        reach = jnp.where(more, next_one, jnp.inf)[graph.receivers]
    if envelope:
        weight = polynomial_cutoff(distance / jnp.minimum(reach, cutoff))
    else:
        weight = (distance < reach - TIE).astype(distance.dtype)
    return jnp.where(batching.edge_mask(graph), weight, 0)


def polar_rows(degree: int, directions: jax.Array) -> jax.Array:
    """[E, S] the rows m = 0 of D(R_ij), which no roll changes, of unit vectors [E, 3]."""
    norms = (2 * layout.degree_of(degree) + 1) ** -0.5
    return harmonics.harmonics(degree, directions) * norms.astype(directions.dtype)


def _edges_of_nodes(graph: batching.MolecularGraph) -> tuple[jax.Array, jax.Array]:
    """[N] the first real edge that each node receives, and how many."""
    n_nodes = graph.nodes.positions.shape[0]
    real = batching.edge_mask(graph).astype(jnp.int32)
    count = jax.ops.segment_sum(real, graph.receivers, n_nodes, indices_are_sorted=True)
    return jnp.cumsum(count) - count, count


def _edge_frames(vectors: jax.Array, roll: jax.Array) -> jax.Array:
    return frames.edge_frame(safe.normalise(vectors), roll)


def gaussian_smearing(distance: jax.Array, cutoff: float, n: int) -> jax.Array:
    """[E, n] Gaussians with centres evenly on [0, cutoff], one spacing wide."""
    spacing = cutoff / (n - 1)
    centres = jnp.arange(n, dtype=distance.dtype) * spacing
    return jnp.exp(-0.5 * ((distance[:, None] - centres) / spacing) ** 2)


def polynomial_cutoff(t: jax.Array) -> jax.Array:
    """u(t) = 1 - 21 t^5 + 35 t^6 - 15 t^7: 1 at 0; 0, as are two derivatives, from t = 1 on."""
    inside = 1 - t**5 * (21 - t * (35 - 15 * t))
    return jnp.where(t < 1, inside, 0)
