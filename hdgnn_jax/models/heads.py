"""Heads turn node states into a number, vector or tensor per molecule (paper, section 3.4)."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import MASSES
from hdgnn_jax.models.dense import AFTER_SILU, Dense, Precision
from hdgnn_jax.so3 import degrees, safe, sphere
from hdgnn_jax.so3.harmonics import harmonics

Head = Literal["invariant", "mean", "extent", "dipole", "dipole_vector", "polarizability"]


class HeadSpec(NamedTuple):
    """Properties of a head that code outside of it needs.

    Attributes:
      rank: 0 for a number, 1 for a vector [3], 2 for a tensor [3, 3].
      lowest_degree: the lowest L of a network that can have this head.
      about_centre: whether it measures from the centre of mass. Periodic structures, which have no
        such centre, are refused. The output is not a sum over atoms, so no reference is subtracted.
      scalars: numbers that it needs of each atom.
    """

    rank: int = 0
    lowest_degree: int = 0
    about_centre: bool = False
    scalars: int = 1


HEADS: dict[Head, HeadSpec] = {
    "invariant": HeadSpec(),
    "mean": HeadSpec(),
    "extent": HeadSpec(about_centre=True, scalars=2),
    "dipole": HeadSpec(lowest_degree=1, about_centre=True),
    "dipole_vector": HeadSpec(rank=1, lowest_degree=1, about_centre=True),
    "polarizability": HeadSpec(rank=2, lowest_degree=2),
}
"""Every head; `MoleculeHead` says what each computes."""


def columns(heads: Sequence[Head]) -> list[slice]:
    """The columns of each head's output, 1, 3 or 9 numbers, in the network's [G, F]."""
    ends = np.cumsum([3 ** HEADS[head].rank for head in heads]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def shares(heads: Sequence[Head], owners: Sequence[str]) -> np.ndarray:
    """[F] weights of the numbers in the loss, whose sum is 1.

    Each property weighs the same, and so do the heads of one property and the numbers of one head.

    Args:
      heads: the heads.
      owners: the name of each head's property.
    """
    widths = np.array([3 ** HEADS[head].rank for head in heads])
    sizes = collections.Counter(owners)
    of_heads = np.array([1 / (len(sizes) * sizes[owner]) for owner in owners])
    return np.repeat(of_heads / widths, widths).astype(np.float32)


VECTORS: tuple[Head, ...] = ("dipole", "dipole_vector")
TENSORS: tuple[Head, ...] = ("polarizability",)
"""Heads that mix the channels of degree 1, and of degree 2."""


def columns_of_weights(heads: Sequence[tuple[str, Head]]) -> dict[str, list[tuple[str, Head, int]]]:
    """The head of each column of the arrays of weights whose last axis belongs to the heads.

    Args:
      heads: names and kinds of the heads.

    Returns:
      By path, for each column the head's name and kind, and the column's number among its own.
    """
    scalars = [(name, head, k) for name, head in heads for k in range(HEADS[head].scalars)]
    found = {
        f"molecule_head/scalars/{path}": scalars
        for path in ("sphere_out/kernel", "sphere_out/bias", "invariant_out/kernel")
    }
    for matrix, kinds in (("vector", VECTORS), ("tensor", TENSORS)):
        own = [(name, head, 0) for name, head in heads if head in kinds]
        found[f"molecule_head/{matrix}/kernel"] = own
    return found


NEAR_ZERO = 0.03
"""Gain of the last layers: with order-one scalars, twenty atoms would start far from a target whose
standard deviation is one."""


class AtomScalars(nn.Module):
    """The mean over the sphere of MLP(p(r)), plus lambda MLP(f): `[N, features]`.

    Attributes:
      points: the quadrature.
      features: numbers per atom.
      invariant_weight: lambda; 0 leaves the invariant branch out.
      precision: precision of the matrix products.
    """

    points: sphere.Sphere
    features: int
    invariant_weight: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, f: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        # The first layer's matrix commutes with the transform and acts on the coefficients; its
        # bias is added on the points.
        gain = degrees.size(self.points.degree) ** -0.5
        first = Dense(channels, self.precision, bias=False, gain=gain, name="sphere_in")
        values = sphere.to_sphere(
            self.points, *sphere.split_parity(jnp.swapaxes(first(x), 0, 1))
        )
        values = nn.silu(values + self.param("bias", nn.initializers.zeros_init(), (channels,)))
        values = Dense(channels, self.precision, gain=AFTER_SILU, name="sphere_hidden")(values)
        mean = sphere.sphere_mean(self.points, nn.silu(values))
        gain = NEAR_ZERO * AFTER_SILU
        out = Dense(self.features, self.precision, gain=gain, name="sphere_out")(mean)
        if self.invariant_weight:
            hidden = nn.silu(Dense(f.shape[-1], self.precision, name="invariant_hidden")(f))
            last = Dense(self.features, self.precision, False, gain, name="invariant_out")
            out = out + self.invariant_weight * last(hidden)
        return out


class MoleculeHead(nn.Module):
    """Predicts numbers, vectors and tensors per molecule.

    Attributes:
      heads: one for each property.
        `invariant`: sum of atom scalars.
        `mean`: their mean.
        `extent`: sum_i s_i |r_i - r_0|^2 + t_i.
        `dipole_vector`: sum_i v_i + q_i (r_i - r_0) with v_i from degree 1, [3].
        `dipole`: the norm of this vector.
        `polarizability`: sum_i s_i I + T_i, the traceless symmetric T_i from degree 2, [3, 3].
        r_0 is the centre of mass (models/README.md, section 6).
      points: the quadrature.
      invariant_weight: lambda.
      precision: precision of the matrix products.
    """

    heads: tuple[Head, ...]
    points: sphere.Sphere
    invariant_weight: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, f: jax.Array, graph: batching.MolecularGraph) -> jax.Array:
        """Maps `[N, S, C]` and `[N, C0]` to `[G, F]`, standardised; see `columns`."""
        owner = batching.graph_of_node(graph)
        n_graph = graph.n_node.shape[0]

        def total(values: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(values, owner, n_graph, indices_are_sorted=True)

        counts = [HEADS[head].scalars for head in self.heads]
        scalars = AtomScalars(
            self.points, sum(counts), self.invariant_weight, self.precision, name="scalars"
        )(x, f)
        own = jnp.split(scalars, np.cumsum(counts)[:-1], 1)
        # Degree 1 in this basis is (x, y, z).
        vectors = iter(self._linear("vector", VECTORS, x, 1))
        tensors = iter(self._linear("tensor", TENSORS, x, 2))
        sums = total(scalars)
        offset = jnp.zeros(())
        if any(HEADS[head].about_centre for head in self.heads):
            mass = jnp.asarray(np.array(MASSES, float), x.dtype)[graph.nodes.atomic_numbers]
            positions = graph.nodes.positions
            all_mass = total(mass)[:, None]
            # Padding has no mass; 1 avoids a division by 0.
            centre = total(mass[:, None] * positions) / jnp.where(all_mass > 0, all_mass, 1)
            offset = positions - centre[owner]
        found = []
        for k, (head, of_atoms) in enumerate(zip(self.heads, own, strict=True)):
            place = sum(counts[:k])
            match head:
                case "invariant":
                    found.append(sums[:, place : place + 1])
                case "mean":
                    n_atoms = jnp.maximum(graph.n_node, 1).astype(x.dtype)[:, None]
                    found.append(sums[:, place : place + 1] / n_atoms)
                case "extent":
                    far = total(of_atoms[:, :1] * jnp.sum(offset**2, -1, keepdims=True))
                    found.append(far + sums[:, place + 1 : place + 2])
                case "polarizability":
                    shapes = symmetric_traceless()
                    traceless = jnp.einsum(
                        "nm,mij->nij", next(tensors), shapes, precision="highest"
                    )
                    isotropic = of_atoms[..., None] * jnp.eye(3, dtype=x.dtype)
                    found.append(total(isotropic + traceless).reshape(n_graph, 9))
                case _:
                    dipole = total(next(vectors) + of_atoms * offset)
                    norm = head == "dipole"
                    found.append(safe.norm(dipole)[:, None] if norm else dipole)
        return jnp.concatenate(found, 1)

    def _linear(
        self, name: str, heads: tuple[Head, ...], x: jax.Array, l: int
    ) -> list[jax.Array]:
        """For each of these heads [N, 2 l + 1], mixed from the channels of degree l."""
        n = sum(head in heads for head in self.heads)
        if not n:
            return []
        mixed = Dense(n, self.precision, bias=False, name=name)(x[:, degrees.block(l)])
        return list(jnp.moveaxis(mixed, -1, 0))


@functools.cache
def symmetric_traceless() -> np.ndarray:
    """[5, 3, 3] matrices C_m of unit norm, one for each m: Y_2m(r) is a multiple of r C_m r."""
    axes = np.eye(3)
    # r C r is C_aa for r = e_a, and C_aa + C_bb + 2 C_ab for r = e_a + e_b.
    pairs = (axes[:, None] + axes[None, :]).reshape(9, 3)
    square = np.sum(pairs**2, -1, keepdims=True)
    form = (square * harmonics(2, pairs / np.sqrt(square))[:, 4:]).T.reshape(5, 3, 3)
    diagonal = np.einsum("mii->mi", form) / 4
    matrices = (form - diagonal[:, :, None] - diagonal[:, None, :]) / 2
    normalised: np.ndarray = matrices / np.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    return normalised
