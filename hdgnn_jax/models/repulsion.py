"""The repulsion of nuclei that are nearer to each other than any in training.

It is the universal potential of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in
Matter, 1985): with x = r / a and a = 0.8854 a_0 / (Z_i^0.23 + Z_j^0.23),

    V(r) = e^2 / (4 pi eps_0) Z_i Z_j / r * sum_k c_k exp(-b_k x) * u(r / reach),

where the smooth cutoff u makes it 0 from a reach on, which depends on the pair of elements.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.embedding import element_index
from hdgnn_jax.models.geometry import edge_vectors, polynomial_cutoff
from hdgnn_jax.so3 import safe

COULOMB = 14.399645478
"""e^2 / (4 pi eps_0), eV Å (CODATA 2018)."""
SCREENING = 0.8854 * 0.529177210903
"""0.8854 a_0, Å."""
SHARES = (0.1818, 0.5099, 0.2802, 0.02817)
RATES = (3.2, 0.9423, 0.4029, 0.2016)


@dataclasses.dataclass(frozen=True)
class Repulsion:
    """The repulsion between all pairs of atoms that are nearer than the reach of their elements.

    Attributes:
      elements: atomic numbers.
      reach: [elements, elements] Å, symmetric. A reach longer than the cutoff of the graphs makes
        energies jump at the cutoff.
      factor: energies are in this many units per eV.
    """

    elements: tuple[int, ...]
    reach: tuple[tuple[float, ...], ...]
    factor: float = 1.0

    def energies(self, graph: batching.MolecularGraph) -> jax.Array:
        """[G] energies of a padded graph; 0 where all atoms are farther apart than their reach."""
        graph = jax.tree.map(jnp.asarray, graph)
        distance, receivers = safe.norm(edge_vectors(graph)), graph.receivers
        species = element_index(graph.nodes.atomic_numbers, self.elements)
        reach = jnp.asarray(self.reach, distance.dtype)[species[receivers], species[graph.senders]]
        near = batching.edge_mask(graph) & (distance < reach)
        # Where the repulsion is 0, r = 1 keeps its gradient finite.
        r = jnp.where(near, distance, 1)
        z = graph.nodes.atomic_numbers.astype(r.dtype)
        first, second = z[receivers], z[graph.senders]
        x = r * (first**0.23 + second**0.23) / SCREENING
        screened = sum(c * jnp.exp(-b * x) for c, b in zip(SHARES, RATES, strict=True))
        pairs = COULOMB * first * second / r * screened * polynomial_cutoff(r / reach)
        # Each pair of atoms is two edges, one in each direction.
        halves = jnp.where(near, pairs, 0) * (self.factor / 2)
        owner = batching.graph_of_node(graph)[receivers]
        return jax.ops.segment_sum(halves, owner, graph.n_node.shape[0])
