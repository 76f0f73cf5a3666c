"""Message block: the learned pathway in the edge's frame and the exact product (eq. 6-11)."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hdgnn_jax.models.dense import AFTER_SILU, KEPT, Dense, Precision, dot
from hdgnn_jax.models.geometry import EdgeGeometry
from hdgnn_jax.so3 import degrees, products, wigner

TensorProduct = Literal["metp", "fully_connected"]
Attention = Literal["sigmoid", "softmax"] | tuple[float, float, float, float]


class MessageBlock(nn.Module):
    """m_ij of eq. 11, summed over the neighbours j of each atom i.

    Attributes:
      degree: L.
      m_max: orders the learned pathway sees.
      product_degree: L' of the Clebsch-Gordan product.
      hidden: H of the edge networks.
      attention: how the four terms are weighted; four numbers are fixed weights.
      tensor_product: `metp` (eq. 7) or `fully_connected`.
      neighbors: the sum over neighbours is divided by the square root of this, their usual number.
      precision: of the matrix products; rotations are float32 always.
    """

    degree: int
    m_max: int
    product_degree: int
    hidden: int
    attention: Attention
    tensor_product: TensorProduct
    neighbors: float
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        f: jax.Array,
        e: jax.Array,
        geometry: EdgeGeometry,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> jax.Array:
        """Aggregated messages.

        Args:
          x: [N, S, C] normalised node state.
          f: [N, C0] invariant branch.
          e: [E, B] distance block.
          geometry: of the edges.
          senders, receivers: [E]; receivers ascend.

        Returns:
          [N, S, C].
        """
        n_nodes, _, channels = x.shape
        x_i, x_j = x[receivers], x[senders]
        fade = geometry.envelope[:, None] / self.neighbors**0.5
        a = [fade * gate for gate in self.weigh(f, e, channels, senders, receivers)]

        learned = self.learned(x, x_i, x_j, e, a, geometry.learned, senders, receivers)
        learned = wigner.rotate_back(geometry.learned, learned)
        exact = self.product(x, x_i, x_j, geometry.product, senders, receivers)
        exact = wigner.rotate_back(geometry.low, a[3][:, None] * exact)

        def gather(messages: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(messages, receivers, n_nodes, indices_are_sorted=True)

        total = gather(learned)
        low = degrees.size(self.product_degree)
        return total.at[:, :low].add(gather(exact))

    def weigh(
        self,
        f: jax.Array,
        e: jax.Array,
        channels: int,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> list[jax.Array]:
        """The a_ij of eq. 11 from the invariant branch: four arrays [E, C]."""
        if not isinstance(self.attention, str):
            return [jnp.full((len(e), channels), value, e.dtype) for value in self.attention]
        # The first layer of MLP([e_ij, f_i, f_j]), its node parts taken once per node.
        hidden = f.shape[-1]
        edge = Dense(hidden, self.precision, name="attention_edge")(e)
        of_i = Dense(hidden, self.precision, bias=False, name="attention_receiver")(f)
        of_j = Dense(hidden, self.precision, bias=False, name="attention_sender")(f)
        mixed = nn.silu((edge + of_i[receivers] + of_j[senders]) / 3**0.5)
        logits = Dense(4 * channels, self.precision, gain=AFTER_SILU, name="attention")(mixed)
        gates = jnp.split(logits, 4, -1)
        if self.attention == "softmax":
            return list(nn.softmax(jnp.stack(gates), 0))
        return [nn.sigmoid(gate) for gate in gates]

    def learned(
        self,
        x: jax.Array,
        x_i: jax.Array,
        x_j: jax.Array,
        e: jax.Array,
        a: list[jax.Array],
        frame: wigner.Wigner,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> jax.Array:
        """The first three terms of eq. 11 before D^T: [E, M, C].

        NN(v) = SiLU(W_b (SiLU(W_a v) * c_ij)) is fed x'' = (D - 1) x and x. W_a x is a product per
        node, and W_a x'' = W_a D x - W_a x, so only W_a D x is a product per edge.
        """
        channels = x.shape[-1]
        kept = degrees.rows(self.degree, self.m_max)
        size = len(kept) * channels
        c = nn.silu(Dense(self.hidden, self.precision, gain=AFTER_SILU, name="c")(e))
        # W_a of both networks side by side.
        first = Dense(2 * self.hidden, self.precision, bias=False, name="in")
        plain = first(x[:, kept].reshape(-1, size))

        def inputs(x_k: jax.Array, nodes: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
            """W_a x'' and W_a x, each of NN1 and NN2."""
            turned = checkpoint_name(wigner.rotate(frame, x_k), KEPT)
            straight = plain[nodes]
            turned = first(turned.reshape(-1, size)) - straight
            return jnp.split(turned, 2, -1), jnp.split(straight, 2, -1)

        turned_i, straight_i = inputs(x_i, receivers)
        turned_j, straight_j = inputs(x_j, senders)

        def network(name: str):
            # Its input is a product of two SiLUs. Its six outputs are the largest arrays there are:
            # to multiply again costs less than to keep them.
            second = Dense(size, self.precision, False, AFTER_SILU**2, keep=False, name=name)
            return lambda u: nn.silu(second(nn.silu(u) * c))

        nn1, nn2 = network("nn1"), network("nn2")
        terms = (
            nn1(turned_i[0]) + nn1(straight_i[0]),
            nn1(turned_j[0]) + nn1(straight_j[0]),
            nn2(turned_i[1] + turned_j[1]) + nn2(straight_i[1] + straight_j[1]),
        )
        return sum(
            gate[:, None] * term.reshape(-1, len(kept), channels)
            for gate, term in zip(a, terms, strict=False)
        )

    def product(
        self,
        x: jax.Array,
        x_i: jax.Array,
        x_j: jax.Array,
        frame: wigner.Wigner,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> jax.Array:
        """Gate((x_i + x_j) (x) S(r_ij)) in the edge's frame: [E, (L' + 1)**2, C].

        METP (eq. 7) is the fully connected product of one input channel, the mean.
        """
        channels = x.shape[-1]
        if self.tensor_product == "metp":
            # The mean of unit-variance channels has variance 1 / C; the root restores it.
            mean = x.mean(-1, keepdims=True) * channels**0.5
            total = mean[receivers] + mean[senders]
        else:
            total = x_i + x_j
        return TensorProductGate(
            self.degree, self.product_degree, channels, self.precision, name="product"
        )(wigner.rotate(frame, total) / 2**0.5)


class TensorProductGate(nn.Module):
    """x' (x) S(+y) over all paths, then a gate: SiLU on degree 0, sigmoids on the others.

    One weight per (path, input channel, output channel). The weights are combined with the
    Clebsch-Gordan constants before they meet an edge, so that an edge costs one dense product per
    order |m| (the SO(2) form of Passaro & Zitnick 2023), however many paths there are.
    """

    degree: int
    degree_out: int
    features: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[E, rows |m| <= L', C_in]` to `[E, (L' + 1)**2, features]`, in the edge's frame."""
        constants = products.paths(self.degree, self.degree_out)
        n_edges, _, channels_in = x.shape
        l_of_path = constants.triples[:, 2]
        weights = []
        for l in range(self.degree_out + 1):
            n_paths = int((l_of_path == l).sum())
            # Degree 0 also yields one gate per higher degree and channel.
            width = self.features * (1 + self.degree_out if l == 0 else 1)
            scale = (n_paths * channels_in) ** -0.5
            init = nn.initializers.normal(scale)
            weights.append(self.param(f"weight_{l}", init, (n_paths, channels_in, width)))

        rows: dict[int, jax.Array] = {}
        for inputs, outputs, coupling in zip(
            constants.inputs, constants.outputs, constants.couplings, strict=True
        ):
            kernels, widths = [], []
            for at, row in enumerate(outputs):
                l = int(degrees.degree_of(self.degree_out)[row])
                table = jnp.asarray(coupling[l_of_path == l][:, :, at], x.dtype)
                kernel = jnp.einsum("pi,pcd->icd", table, weights[l], precision="highest")
                kernels.append(kernel.reshape(-1, kernel.shape[-1]))
                widths.append(kernel.shape[-1])
            flat = x[:, inputs].reshape(n_edges, -1)
            out = dot(flat, jnp.concatenate(kernels, -1), self.precision)
            starts = [sum(widths[:k]) for k in range(len(widths))]
            for row, start, width in zip(outputs, starts, widths, strict=True):
                rows[int(row)] = out[:, start : start + width]

        scalars, *gates = jnp.split(rows[0], 1 + self.degree_out, -1)
        gated = [nn.silu(scalars)]
        for row in range(1, degrees.size(self.degree_out)):
            l = int(degrees.degree_of(self.degree_out)[row])
            gated.append(rows[row] * nn.sigmoid(gates[l - 1]))
        return jnp.stack(gated, 1)
