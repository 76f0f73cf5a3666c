"""A linear model of pairs and bonded triples of atoms, evaluated on the network's own graphs.

Its energy is a sum of features times weights. (An energy per atom, which does not depend on the
geometry, is added elsewhere: see `data.baselines.LinearFit`.) The features are:

- For each pair of elements, Gaussians of the distance, 0.2 Å apart from 0.6 Å to the cutoff and one
  spacing wide, times the smooth cutoff. Every directed edge counts one half, so that a pair of
  atoms counts once. More than `PAIRED` elements have too many pairs; then there are Gaussians for
  each element of the receiver, whatever the sender.
- For each element of a central atom i, angles between its bonds. A_i[z, n, lm] is the sum over
  neighbours j of element z of R_n(r_ij) Y_lm(r_ij). A channel is a pair (z, n), and the features
  are sum_m A_i[a, lm] A_i[b, lm] / (2 l + 1) for channels a <= b, which is the sum over ordered
  pairs (j, k), including j = k, of R_a R_b P_l(cos angle). More than `BONDED` elements have too
  many of these features, and they are left out.

All features are smooth in the positions, and 0 on padding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.embedding import element_index
from hdgnn_jax.models.geometry import edge_vectors, polynomial_cutoff
from hdgnn_jax.so3 import safe
from hdgnn_jax.so3.harmonics import harmonics

NEAREST, SPACING = 0.6, 0.2
"""First centre of the pairs' Gaussians, and the distance between centres; Å."""
CENTRES, WIDTH, REACH = (1.05, 1.25, 1.5), 0.15, 2.2
"""The bonds' Gaussians, Å. The longest bonds of light elements, C-C and C-F, are 1.55 Å."""
DEGREE = 4
"""Highest l of the angles."""
PAIRED, BONDED = 12, 6
"""Largest numbers of elements for which there are features of pairs and of triples."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """The features of the linear model.

    Attributes:
      elements: atomic numbers.
      cutoff: Å, of the graphs.
    """

    elements: tuple[int, ...]
    cutoff: float

    @property
    def centres(self) -> np.ndarray:
        """[n] centres of the pairs' Gaussians, Å."""
        return NEAREST + SPACING * np.arange(
            max(1, math.floor((self.cutoff - NEAREST) / SPACING + 1e-9) + 1)
        )

    @property
    def kinds(self) -> np.ndarray:
        """[elements, elements] the number of the kind of pair, by receiver and sender."""
        n = len(self.elements)
        if n > PAIRED:
            return np.tile(np.arange(n)[:, None], (1, n))
        table = np.zeros((n, n), int)
        first, second = np.triu_indices(n)
        table[first, second] = table[second, first] = np.arange(len(first))
        return table

    @property
    def n_channels(self) -> int:
        """Number of channels of a central atom's bonds; 0: there are no triples."""
        return len(self.elements) * len(CENTRES) if len(self.elements) <= BONDED else 0

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int, int]]:
        """Shapes of the features of pairs, [kinds, centres], and triples, [elements, l, a <= b]."""
        channels = self.n_channels
        return (
            (int(self.kinds.max()) + 1, len(self.centres)),
            (len(self.elements), DEGREE + 1, channels * (channels + 1) // 2),
        )

    @property
    def n_features(self) -> int:
        """Number of features, F."""
        return sum(math.prod(shape) for shape in self.shapes)

    def features(self, graph: batching.MolecularGraph) -> jax.Array:
        """[G, F] features of each structure: those of pairs, then those of triples."""
        graph = jax.tree.map(jnp.asarray, graph)
        n_graphs, owner = graph.n_node.shape[0], batching.graph_of_node(graph)
        species = element_index(graph.nodes.atomic_numbers, self.elements)
        kind = jnp.asarray(self.kinds)[species[graph.receivers], species[graph.senders]]
        vectors, real = edge_vectors(graph), batching.edge_mask(graph)
        distance = safe.norm(vectors)

        def smeared(centres: np.ndarray, width: float, reach: float) -> jax.Array:
            """[E, centres] Gaussians that fade out towards `reach`; 0 on padded edges."""
            fading = jnp.where(real, polynomial_cutoff(distance / reach), 0)
            return _gaussians(distance, centres, width) * fading[:, None]

        pairs, triples = self.shapes
        radial = smeared(self.centres, SPACING, self.cutoff) / 2
        of_pairs = jax.ops.segment_sum(
            radial, owner[graph.receivers] * pairs[0] + kind, n_graphs * pairs[0]
        ).reshape(n_graphs, -1)
        if not self.n_channels:
            return of_pairs
        bonds = smeared(np.array(CENTRES), WIDTH, min(REACH, self.cutoff))
        n, n_atoms = len(self.elements), species.shape[0]
        density = jax.ops.segment_sum(
            bonds[:, :, None] * harmonics(DEGREE, safe.normalise(vectors))[:, None],
            graph.receivers * n + species[graph.senders],
            n_atoms * n,
        ).reshape(n_atoms, self.n_channels, (DEGREE + 1) ** 2)
        of_triples = jax.ops.segment_sum(
            _products(density), owner * triples[0] + species, n_graphs * triples[0]
        )
        return jnp.concatenate([of_pairs, of_triples.reshape(n_graphs, -1)], 1)

    def energies(
        self, graph: batching.MolecularGraph, weights: jax.Array | np.ndarray
    ) -> jax.Array:
        """[G, T] `features(graph) @ weights`, for [F, T] weights of T models."""
        features = self.features(graph)
        return jnp.dot(features, jnp.asarray(weights, features.dtype), precision="highest")


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fitted linear model: the features of `Terms` with their weights.

    Attributes:
      elements, cutoff: see `Terms`.
      weights: [F] float64, in the unit of the energy.
      averaged: whether features are means over atoms instead of sums.
    """

    elements: tuple[int, ...]
    cutoff: float
    weights: tuple[float, ...]
    averaged: bool = False

    @property
    def terms(self) -> Terms:
        """The features."""
        return Terms(self.elements, self.cutoff)


def energies_of(models: Sequence[Linear], graph: batching.MolecularGraph) -> jax.Array:
    """[G, T] energies of a padded graph whose neighbours lie within the cutoff.

    Args:
      models: T models of the same elements and cutoff; their features are computed once.
      graph: padded.
    """
    (terms,) = {model.terms for model in models}
    sums = terms.energies(graph, np.stack([model.weights for model in models], 1))
    averaged = jnp.array([model.averaged for model in models])
    return jnp.where(averaged, sums / jnp.maximum(graph.n_node, 1)[:, None], sums)


def _gaussians(distance: jax.Array, centres: np.ndarray, width: float) -> jax.Array:
    apart = distance[:, None] - jnp.asarray(centres, distance.dtype)
    return jnp.exp(-0.5 * (apart / width) ** 2)


def _products(density: jax.Array) -> jax.Array:
    """[N, (DEGREE + 1) * pairs] products of channels a <= b, summed over m (of [N, a, lm])."""
    first, second = np.triu_indices(density.shape[1])
    products = []
    for l in range(DEGREE + 1):
        of_l = density[..., l * l : (l + 1) ** 2]
        # Computing all pairs and keeping half is faster than gathering and multiplying halves.
        both = jnp.einsum("nam,nbm->nab", of_l, of_l, precision="highest")
        products.append(both[:, first, second] / (2 * l + 1))
    return jnp.concatenate(products, 1)
