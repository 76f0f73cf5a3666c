"""Learned pathways: the choices for the first three terms of eq. 11 (README.md, section 4).

A pathway gets the states of the nodes, and of both ends of the edges in the edges' frames. It
returns the sum of its terms, weighted by a1, a2 and a3, in the global frame.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs.batching import gather
from hdgnn_jax.models.dense import AFTER_SILU, DegreeDense, Dense, Precision
from hdgnn_jax.models.ends import Ends
from hdgnn_jax.models.gates import gate
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.so3 import degrees, wigner

Terms: TypeAlias = Sequence[jax.Array]


class Networks(nn.Module):
    """The fields that pathways of networks share, and the number of terms they add up, `n_terms`.

    Attributes:
      degree: L.
      m_max: highest order that the networks see.
      hidden: H.
      precision: precision of the matrix products; rotations are always float32.
      last_silu: whether a SiLU follows the second layer, as in the authors' code.
    """

    degree: int
    m_max: int
    hidden: int
    precision: Precision
    last_silu: bool = False
    n_terms: ClassVar[int] = 3

    @nn.nowrap
    def last(self, u: jax.Array) -> jax.Array:
        """Applies the SiLU after a network's second layer, if there is one."""
        return nn.silu(u) if self.last_silu else u


class EdgeNetworks(Networks):
    """NN(x'') + NN(x) in the edge's frame, with NN(v) = W_b (SiLU(W_a v) * c_ij) (eq. 9-10).

    W_a x is a product per node, and W_a x'' = W_a D x - W_a x, so only W_a D x is a product per
    edge. Without a SiLU after W_b, NN(x'') and NN(x) share one product with W_b.

    Attributes:
      shared: whether receiver and sender share one network, NN1 (Table 5 row 4 has two).
      rotated: whether NN(D x) replaces NN(x'') + NN(x) (Table 5 row 5).
    """

    shared: bool = True
    rotated: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        turned: Ends,
        e: jax.Array,
        a: Terms,
        frame: wigner.Wigner,
        nodes: Ends,
    ) -> jax.Array:
        """The weighted sum of the terms, [E, S, C].

        Args:
          x: [N, S, C].
          turned: D x of receivers and of senders, [E, M, C].
          e: [E, B] distance block.
          a: three weights [E, C].
          frame: D(R_ij) of the edges.
          nodes: receivers and senders, [E].
        """
        channels = x.shape[-1]
        kept = degrees.rows(self.degree, self.m_max)
        size = len(kept) * channels
        c = nn.silu(Dense(self.hidden, self.precision, gain=AFTER_SILU, name="c")(e))
        names = ("nn1", "nn2") if self.shared else ("nn1", "nn1_sender", "nn2")
        # W_a of all networks side by side.
        first = Dense(len(names) * self.hidden, self.precision, bias=False, name="in")
        plain: list[jax.Array] = []
        if not self.rotated:
            plain = jnp.split(first(x[:, kept].reshape(-1, size)), len(names), -1)
        # The input of W_b is a product of two SiLUs, or a sum of two such products. Its outputs
        # are the largest arrays of a step: computing them again costs no more than storing them.
        gain = AFTER_SILU**2 / (1 if self.rotated else 2) ** 0.5
        seconds = [Dense(size, self.precision, False, gain, keep=False, name=n) for n in names]

        def network(k: int, seen: jax.Array, *ends: jax.Array) -> jax.Array:
            """NN(x'') + NN(x), or NN(D x), for x summed over these ends; `seen` is D x."""
            part = slice(k * self.hidden, (k + 1) * self.hidden)
            inputs = [first(seen.reshape(-1, size), part)]
            if plain:
                still = add(gather(plain[k], end) for end in ends)
                inputs = [inputs[0] - still, still]
            hidden = [nn.silu(u) * c for u in inputs]
            if self.last_silu:
                return add(nn.silu(seconds[k](h)) for h in hidden)
            return seconds[k](add(hidden))

        (x_i, x_j), (i, j) = turned, nodes
        last = len(names) - 1
        terms = (network(0, x_i, i), network(last - 1, x_j, j), network(last, x_i + x_j, i, j))
        shaped = [term.reshape(-1, len(kept), channels) for term in terms]
        return wigner.rotate_back(frame, weighted(a, shaped))


class SO2Networks(Networks):
    """Ours: networks on D x that are equivariant to the frame's roll, so that it cancels exactly.

    Orders +m and -m are the real and imaginary part of a number that a roll multiplies by a phase.
    They are multiplied by complex matrices and by gates computed from m = 0 only; SiLUs act on
    m = 0 alone.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, turned: Ends, e: jax.Array, a: Terms, frame: wigner.Wigner, nodes: Ends
    ) -> jax.Array:
        """See `EdgeNetworks`."""
        c = nn.silu(Dense(self.hidden, self.precision, gain=AFTER_SILU, name="c")(e))
        x_i, x_j = turned
        nn1, nn2 = (
            SO2Network(
                self.degree, self.m_max, self.hidden, self.precision, self.last_silu, name=name
            )
            for name in ("nn1", "nn2")
        )
        return wigner.rotate_back(frame, weighted(a, (nn1(x_i, c), nn1(x_j, c), nn2(x_i + x_j, c))))


class SO2Network(Networks):
    """A network from `[E, M, C]` to `[E, M, C]`, equivariant to rolls; c [E, H] as in eq. 10."""

    @nn.compact
    def __call__(self, v: jax.Array, c: jax.Array) -> jax.Array:
        n_edges, _, channels = v.shape
        kept = degrees.rows(self.degree, self.m_max)
        order = degrees.order_of(self.degree)[kept]

        def dense(name: str, features: int, u: jax.Array, gain: float = 1.0) -> jax.Array:
            return Dense(features, self.precision, False, gain, name=name)(u)

        flat = {m: v[:, degrees.where(order == m)].reshape(n_edges, -1) for m in set(order)}
        zero = nn.silu(dense("in_0", self.hidden, flat[0])) * c
        out = {0: self.last(dense("out_0", flat[0].shape[-1], zero, AFTER_SILU**2))}
        for m in range(1, self.m_max + 1):
            logits = dense(f"gate_{m}", self.hidden, zero, AFTER_SILU**2)
            weight = gate(self, f"order_{m}", logits)
            hidden = Complex(self.hidden, self.precision, name=f"in_{m}")(flat[m], flat[-m])
            last = Complex(flat[m].shape[-1], self.precision, name=f"out_{m}")
            out[m], out[-m] = last(*(weight * part for part in hidden))
        rows = jnp.concatenate([part.reshape(n_edges, -1, channels) for part in out.values()], 1)
        written = np.concatenate([degrees.where(order == m) for m in out])
        return rows[:, np.argsort(written).astype(np.int32)]


class Complex(nn.Module):
    """The product of a complex matrix with a real and an imaginary part, without bias."""

    features: int
    precision: Precision

    @nn.compact
    def __call__(self, re: jax.Array, im: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = Dense(2 * self.features, self.precision, False, 0.5**0.5, name="both")
        (re_re, re_im), (im_re, im_im) = (jnp.split(both(u), 2, -1) for u in (re, im))
        return re_re - im_im, re_im + im_re


class EquivariantLinear(nn.Module):
    """Table 3's `linear`: a matrix per degree in place of each network, times c_ij; no frame."""

    precision: Precision
    n_terms: ClassVar[int] = 3

    @nn.compact
    def __call__(
        self, x: jax.Array, turned: Ends, e: jax.Array, a: Terms, frame: wigner.Wigner, nodes: Ends
    ) -> jax.Array:
        """See `EdgeNetworks`."""
        channels, (receivers, senders) = x.shape[-1], nodes
        c = nn.silu(Dense(channels, self.precision, gain=AFTER_SILU, name="c")(e))
        one, two = (DegreeDense(channels, self.precision, name=name)(x) for name in ("nn1", "nn2"))
        terms = (
            gather(one, receivers),
            gather(one, senders),
            gather(two, receivers) + gather(two, senders),
        )
        return c[:, None] * weighted(a, terms)


class Unrestricted(Networks):
    """Table 3's `unrestricted`: one network of [x_i, x_j, S(r_ij)], no frame, weighted by a1."""

    n_terms: ClassVar[int] = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, turned: Ends, e: jax.Array, a: Terms, frame: wigner.Wigner, nodes: Ends
    ) -> jax.Array:
        """See `EdgeNetworks`."""
        size = x.shape[1] * x.shape[2]
        # The rows m = 0 of D, one per degree, are Y(r) / sqrt(2l + 1).
        order = degrees.order_of(self.degree)[degrees.rows(self.degree, self.m_max)]
        poles = frame.forward[:, degrees.where(order == 0)].sum(1)
        s = poles * np.sqrt(2 * degrees.degree_of(self.degree) + 1).astype(x.dtype)
        c = nn.silu(Dense(self.hidden, self.precision, gain=AFTER_SILU, name="c")(e))
        flat = x.reshape(-1, size)
        inputs = Dense(self.hidden, self.precision, bias=False, name="in_direction")(s)
        for name, at in zip(("in_receiver", "in_sender"), nodes, strict=True):
            of_end = Dense(self.hidden, self.precision, bias=False, name=name)(flat)
            inputs = inputs + gather(of_end, at)
        second = Dense(size, self.precision, False, AFTER_SILU**2, keep=False, name="nn1")
        out = self.last(second(nn.silu(inputs / 3**0.5) * c))
        return weighted(a, [out.reshape(-1, *x.shape[1:])])


def learned_pathway(
    hyper: HyperParameters, degree: int, hidden: int
) -> Networks | EquivariantLinear | None:
    """The network's pathway for a shell of neighbours with this degree and hidden size.

    None for `none`: messages are the Clebsch-Gordan product alone.
    """
    sizes = (degree, hyper.m_max, hidden, hyper.precision, hyper.last_silu)
    match hyper.pathway:
        case "edge_networks":
            return EdgeNetworks(*sizes)
        case "unshared":
            return EdgeNetworks(*sizes, shared=False)
        case "nn_of_rotated":
            return EdgeNetworks(*sizes, rotated=True)
        case "so2":
            return SO2Networks(*sizes)
        case "unrestricted":
            return Unrestricted(*sizes)
        case "linear":
            return EquivariantLinear(hyper.precision)
        case "none":
            return None


def weighted(a: Sequence[jax.Array], terms: Sequence[jax.Array]) -> jax.Array:
    """The sum of the terms [E, R, C], each times its weight [E, C]."""
    return add(gate[:, None] * term for gate, term in zip(a, terms, strict=False))


def add(arrays: Iterable[jax.Array]) -> jax.Array:
    """The sum of arrays of one shape."""
    return functools.reduce(jnp.add, arrays)
