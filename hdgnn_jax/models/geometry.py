"""Everything the layers see of the positions, computed once per graph (model.md, section 2)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching
from hdgnn_jax.so3 import frames, safe, wigner


class EdgeGeometry(NamedTuple):
    """Attributes of the edges, shared by all layers.

    Attributes:
      smeared: [E, n_gaussians] Gaussian smearing of the distance.
      envelope: [E] polynomial cutoff, exactly 0 on padded edges.
      learned: D(R_ij), rows |m| <= m_max: for the learned pathway.
      product: D(R_ij), rows |m| <= L': into the frame of the Clebsch-Gordan product.
      low: D(R_ij) of degrees l <= L': back from it.
      full: D(R_ij), all rows, where the fifth term asks for them.
    """

    smeared: jax.Array
    envelope: jax.Array
    learned: wigner.Wigner
    product: wigner.Wigner
    low: wigner.Wigner
    full: wigner.Wigner | None = None


def edge_vectors(graph: batching.MolecularGraph) -> jax.Array:
    """r_ij = x_j - x_i, [E, 3] in Å; 0 on padded edges."""
    x = graph.nodes.positions
    return x[graph.senders] - x[graph.receivers]


def turned(graph: batching.MolecularGraph, rotation: jax.Array) -> batching.MolecularGraph:
    """The graph turned by a unit quaternion (w, x, y, z)."""
    matrix = frames.rotation_matrix(rotation)
    positions = jnp.dot(graph.nodes.positions, matrix.T, precision="highest")
    return graph._replace(nodes=graph.nodes._replace(positions=positions))


def turned_rolls(
    graph: batching.MolecularGraph, roll: jax.Array, rotation: jax.Array
) -> jax.Array:
    """The rolls [E] with which the frames turn along: R(Q r, turned roll) Q = R(r, roll).

    Args:
      graph: before it is turned.
      roll: [E] radians.
      rotation: Q, a unit quaternion.
    """
    along = frames.multiply(_edge_frames(graph, roll), frames.inverse(rotation))
    shortest = _edge_frames(turned(graph, rotation), jnp.zeros_like(roll))
    # What is left between the two is a turn about +y.
    spin = frames.multiply(along, frames.inverse(shortest))
    return 2 * jnp.arctan2(spin[:, 2], spin[:, 0])


def edge_geometry(
    graph: batching.MolecularGraph,
    roll: jax.Array,
    *,
    degree: int,
    m_max: int,
    product_degree: int,
    cutoff: float,
    n_gaussians: int,
    envelope: bool,
    full: bool = False,
) -> EdgeGeometry:
    """Distances, envelope and rotations of every edge.

    Args:
      graph: padded; neighbours within `cutoff`.
      roll: [E] turn of each edge's frame about the edge, radians.
      degree: L.
      m_max: rows kept for the learned pathway.
      product_degree: L'.
      cutoff: Å.
      n_gaussians: of the smearing.
      envelope: whether messages fade out towards the cutoff.
      full: whether all rows are needed too.
    """
    distance = safe.norm(edge_vectors(graph))
    highest = degree if full else max(m_max, product_degree)
    rows = wigner.wigner_rows(degree, _edge_frames(graph, roll), highest)
    fade = polynomial_cutoff(distance / cutoff) if envelope else jnp.ones_like(distance)
    return EdgeGeometry(
        smeared=gaussian_smearing(distance, cutoff, n_gaussians),
        envelope=jnp.where(batching.edge_mask(graph), fade, 0),
        learned=wigner.wigner(rows, m_max=m_max),
        product=wigner.wigner(rows, m_max=product_degree),
        low=wigner.wigner(rows, l_max=product_degree),
        full=wigner.wigner(rows) if full else None,
    )


def _edge_frames(graph: batching.MolecularGraph, roll: jax.Array) -> jax.Array:
    return frames.edge_frame(safe.normalise(edge_vectors(graph)), roll)


def gaussian_smearing(distance: jax.Array, cutoff: float, n: int) -> jax.Array:
    """[E, n] Gaussians with centres evenly on [0, cutoff], one spacing wide."""
    spacing = cutoff / (n - 1)
    centres = jnp.arange(n, dtype=distance.dtype) * spacing
    return jnp.exp(-0.5 * ((distance[:, None] - centres) / spacing) ** 2)


def polynomial_cutoff(t: jax.Array) -> jax.Array:
    """u(t) = 1 - 21 t^5 + 35 t^6 - 15 t^7: 1 at 0; 0, as are two derivatives, from t = 1 on."""
    inside = 1 - t**5 * (21 - t * (35 - 15 * t))
    return jnp.where(t < 1, inside, 0)
