"""Message block: the learned pathway in the edge's frame and the exact product (eq. 6-11)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from hdgnn_jax.graphs.batching import gather
from hdgnn_jax.models.dense import AFTER_SILU, KEPT, DegreeDense, Dense, Precision, dot
from hdgnn_jax.models.ends import Ends, gather_ends, halves
from hdgnn_jax.models.gates import attend, gate
from hdgnn_jax.models.geometry import Shell
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.models.pathways import learned_pathway
from hdgnn_jax.so3 import degrees, products, wigner


class MessageBlock(nn.Module):
    """m_ij of eq. 11, summed over the neighbours j of each atom i.

    With `shell.full` there is a fifth term, as in the authors' code: METP to a single channel of
    all degrees, times a gate for each channel.

    Attributes:
      hyper: those of the network.
      degree: L of the shell of neighbours.
      hidden: H of the shell's edge networks.
    """

    hyper: HyperParameters
    degree: int
    hidden: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        f: jax.Array,
        e: jax.Array,
        shell: Shell,
    ) -> jax.Array:
        """Aggregated messages.

        Args:
          x: [N, S, C] normalised node state.
          f: [N, C0] invariant branch; C0 = 0 without it.
          e: [E, B] distance block.
          shell: the edges.

        Returns:
          [N, S, C].
        """
        hyper, precision = self.hyper, self.hyper.precision
        n_nodes, _, channels = x.shape
        senders, receivers = shell.senders, shell.receivers
        fade = shell.envelope[:, None] / hyper.neighbors**0.5
        learned = learned_pathway(hyper, self.degree, self.hidden)
        n_learned = 0 if learned is None else learned.n_terms
        n_exact = (hyper.tensor_product != "none") + (shell.full is not None)
        gates = self.weigh(n_learned, n_exact, f, e, channels, senders, receivers)
        attend(self, gates)
        a = [fade * weight for weight in gates]

        def collect(messages: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(messages, receivers, n_nodes, indices_are_sorted=True)

        total = jnp.zeros_like(x)
        gathered = gather_ends(x, receivers, senders)
        turned: Ends | None = None
        if learned is not None:
            nn.share_scope(self, learned)
            # The ends are turned once, for the fully connected product too.
            frame = shell.product if hyper.tensor_product == "fully_connected" else shell.learned
            both = tuple(wigner.rotate(frame, part) for part in gathered)
            turned = halves(checkpoint_name(both, KEPT))
            kept = len(degrees.rows(self.degree, hyper.m_max))
            seen = turned[0][:, :kept], turned[1][:, :kept]
            total += collect(learned(x, seen, e, a, shell.learned, (receivers, senders)))
        if hyper.tensor_product == "depthwise":
            depthwise = DepthwiseProduct(
                self.degree, hyper.product_degree, precision, name="product"
            )
            parts = depthwise(x, e, a[n_learned], shell.axis, senders)
            # Parts are summed one by one: joining them is cheaper by node than by edge.
            exact = jnp.stack([collect(part) for part in parts], 1)
            total = total.at[:, : exact.shape[1]].add(exact)
        elif hyper.tensor_product != "none":
            exact = self.product(x, halves(gathered), turned, shell)
            exact = collect(wigner.rotate_back(shell.low, a[n_learned][:, None] * exact))
            total = total.at[:, : degrees.size(hyper.product_degree)].add(exact)
        if shell.full is not None:
            mean = wigner.rotate(shell.full, mean_channel(x, senders, receivers)) / 2**0.5
            single = TensorProductGate(
                self.degree, self.degree, 1, precision, name="full_product"
            )(mean)
            total += collect(a[-1][:, None] * wigner.rotate_back(shell.full, single))
        return total

    def weigh(
        self,
        n_learned: int,
        n_exact: int,
        f: jax.Array,
        e: jax.Array,
        channels: int,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> list[jax.Array]:
        """The a_ij of eq. 11, from e_ij and the invariant branch: an array [E, C] for each term."""
        n = n_learned + n_exact
        attention, precision = self.hyper.attention, self.hyper.precision
        if not isinstance(attention, str):
            values = (*attention[:n_learned], *attention[3:])[:n]
            return [jnp.full((e.shape[0], channels), value, e.dtype) for value in values]
        # The first layer of MLP([e_ij, f_i, f_j]); products with f are taken once per node.
        hidden = f.shape[-1] or e.shape[-1]
        mixed = Dense(hidden, precision, name="attention_edge")(e)
        if f.shape[-1]:
            of_i = Dense(hidden, precision, bias=False, name="attention_receiver")(f)
            of_j = Dense(hidden, precision, bias=False, name="attention_sender")(f)
            mixed = (mixed + gather(of_i, receivers) + gather(of_j, senders)) / 3**0.5
        mixed = nn.silu(mixed)
        logits = Dense(n * channels, precision, gain=AFTER_SILU, name="attention")(mixed)
        gates = jnp.split(logits, n, -1)
        if attention == "softmax":
            return list(nn.softmax(jnp.stack(gates), 0))
        return [gate(self, "attention", logits) for logits in gates]

    def product(
        self, x: jax.Array, ends: Ends, turned: Ends | None, shell: Shell
    ) -> jax.Array:
        """Gate((x_i + x_j) (x) S(r_ij)) in the edge's frame: [E, (L' + 1)**2, C].

        METP (eq. 7) is the fully connected product with one input channel, the mean.

        Args:
          x: [N, S, C].
          ends: x of receivers and of senders, [E, S, C].
          turned: the same, times D of `shell.product`; None: not yet turned.
          shell: the edges.
        """
        hyper = self.hyper
        if hyper.tensor_product == "metp":
            mean = mean_channel(x, shell.senders, shell.receivers)
            summed = wigner.rotate(shell.product, mean)
        elif turned is None:
            summed = wigner.rotate(shell.product, ends[0] + ends[1])
        else:
            summed = turned[0] + turned[1]
        return TensorProductGate(
            self.degree, hyper.product_degree, x.shape[-1], hyper.precision, hyper.m_max,
            name="product",
        )(summed / 2**0.5)  # fmt: skip


def mean_channel(x: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
    """The input x_i + x_j of METP (eq. 7), one channel: [E, S, 1]."""
    # The mean of unit-variance channels has variance 1 / C; the root restores it.
    mean = x.mean(-1, keepdims=True) * x.shape[-1] ** 0.5
    return gather(mean, receivers) + gather(mean, senders)


class DepthwiseProduct(nn.Module):
    """x_j (x) S(r_ij), channel by channel, with weights from e_ij for each path.

    NequIP (Batzner et al. 2022) and Equiformer (Liao & Smidt 2023) have such a product. Channels
    are mixed at the nodes, before it and (by the update block) after it. With the axis of the edge,
    n_l = S^l(r) / sqrt(2l + 1), degree l' of the message is

        n_l' sum_l w_l'l (n_l . x_l)  +  v_l' x_l'

    The first term has the paths of order m = 0 in the edge's frame, the second is the product with
    S^0. Only the weights need a matrix product per edge.
    """

    degree: int
    degree_out: int
    precision: Precision

    @nn.compact
    def __call__(
        self, x: jax.Array, e: jax.Array, a: jax.Array, axis: jax.Array, senders: jax.Array
    ) -> list[jax.Array]:
        """The components of the messages, of all degrees up to L': (L' + 1)**2 arrays `[E, C]`.

        Args:
          x: [N, S, C].
          e: [E, B] distance block.
          a: [E, C] weight of the term.
          axis: [E, S] n_l of all degrees.
          senders: [E].
        """
        channels = x.shape[-1]
        mixed = DegreeDense(channels, self.precision, name="mix")(x)

        def weight(name: str) -> jax.Array:
            return a * Dense(channels, self.precision, gain=AFTER_SILU, name=name)(e)

        # Component by component, since reductions over the few orders of a degree are slow.
        ends = [gather(mixed[:, m], senders) for m in range(mixed.shape[1])]
        axes = [axis[:, m, None] for m in range(mixed.shape[1])]
        pairs = [
            list(zip(axes[degrees.block(l)], ends[degrees.block(l)], strict=True))
            for l in range(self.degree + 1)
        ]
        along = [sum(n * end for n, end in of_degree) for of_degree in pairs]
        scale = (self.degree + 1) ** -0.5
        messages = []
        for l in range(self.degree_out + 1):
            one = scale * sum(weight(f"weight_{l}_{k}") * along[k] for k in range(self.degree + 1))
            if l == 0:
                messages.append(one)
                continue
            whole = weight(f"whole_{l}")
            # n_l has length 1; this factor makes its components as large as those of x_l.
            size = (2 * l + 1) ** 0.5
            messages += [0.5**0.5 * (size * n * one + whole * end) for n, end in pairs[l]]
        return messages


class TensorProductGate(nn.Module):
    """x' (x) S(+y) over all paths, then a gate: SiLU on degree 0, sigmoids on the others.

    There is one weight per (path, input channel, output channel). The weights are multiplied with
    the Clebsch-Gordan constants once, before the product with edges: so an edge costs one dense
    product per order |m| (the SO(2) form of Passaro & Zitnick 2023), however many paths there are.
    """

    degree: int
    degree_out: int
    features: int
    precision: Precision
    first: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[E, M, C_in]` to `[E, (L' + 1)**2, features]`, in the edge's frame.

        The M rows are as `products.paths` says for `first`.
        """
        constants = products.paths(self.degree, self.degree_out, self.first)
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
            parts = jnp.split(out, np.cumsum(widths)[:-1], -1)
            rows |= zip(map(int, outputs), parts, strict=True)

        scalars, *gates = jnp.split(rows[0], 1 + self.degree_out, -1)
        gated = [nn.silu(scalars)]
        for row in range(1, degrees.size(self.degree_out)):
            l = int(degrees.degree_of(self.degree_out)[row])
            gated.append(rows[row] * gate(self, "product", gates[l - 1]))
        return jnp.stack(gated, 1)
