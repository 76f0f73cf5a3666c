"""HDGNN: geometry once, embedding, K layers, head."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.dense import KEPT, DegreeDense
from hdgnn_jax.models.embedding import N_TAGS, DistanceBlock, ElementEmbedding, element_index
from hdgnn_jax.models.gates import ATTENTION, FINITE, GATES, STATES, watch
from hdgnn_jax.models.geometry import EdgeGeometry, edge_geometry
from hdgnn_jax.models.heads import MoleculeHead
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.models.invariant import InvariantBranch
from hdgnn_jax.models.message import MessageBlock
from hdgnn_jax.models.norm import EPSILON, SHARE, SOFT, EquivariantLayerNorm
from hdgnn_jax.models.update import UpdateBlock
from hdgnn_jax.so3 import degrees, sphere
from hdgnn_jax.types import PyTree

KEEP = jax.checkpoint_policies.save_only_these_names(KEPT)
"""Without `remat`, most matrix products and the rotated states are stored for the backward pass.
Computing activation functions again is cheaper than writing and reading their values."""


UNROLLED = 4
"""Up to this many layers are compiled one after another: a quarter faster on a CPU than a loop,
which copies the arrays that the backward pass needs."""
OF_ELEMENTS = {"embedding", "invariant_embedding", "sender", "receiver"}
"""Modules whose table has a row for each element."""
START = 0.25
"""Initial scale of the embedding, relative to an update: larger, it would hide the surroundings."""


class HDGNN(nn.Module):
    """The Hybrid Directional Graph Neural Network (An et al., ICLR 2024).

    Attributes:
      hyper: the hyper-parameters.
      loop: whether the layers are a loop in the compiled program whatever their number, see
        `UNROLLED`. Without gradients a loop is as fast, and it compiles in two thirds of the time.
    """

    hyper: HyperParameters
    loop: bool = False

    @nn.nowrap
    def changed(self, **fields: Any) -> HDGNN:
        """The network with some hyper-parameters replaced."""
        return HDGNN(dataclasses.replace(self.hyper, **fields), self.loop)

    def setup(self) -> None:
        hyper = self.hyper
        points = hyper.points()
        # Without a norm before them, messages would be as small as the embedding.
        scale = START if hyper.rescale and hyper.layer_norm else 1.0
        self.embedding = ElementEmbedding(len(hyper.elements), hyper.channels, scale)
        if hyper.tags:
            self.tag_embedding = ElementEmbedding(N_TAGS, hyper.channels, scale)
        if hyper.invariant_branch:
            self.invariant_embedding = ElementEmbedding(
                len(hyper.elements), hyper.invariant_channels
            )
            if hyper.tags:
                self.invariant_tag_embedding = ElementEmbedding(N_TAGS, hyper.invariant_channels)
        policy = KEEP if hyper.pathway != "none" else jax.checkpoint_policies.everything_saveable
        layer = nn.remat(Layer, prevent_cse=False, policy=None if hyper.remat else policy)
        # A network of more than UNROLLED layers compiles one of them, whatever K; so do initial
        # weights, which are drawn once.
        unrolled = hyper.layers <= UNROLLED and not (self.loop or self.is_initializing())
        self.stack = nn.scan(
            layer,
            variable_axes={"params": 0, GATES: 0, STATES: 0, ATTENTION: 0, FINITE: 0},
            split_rngs={"params": True},
            in_axes=(0, *[nn.broadcast] * 4),
            length=hyper.layers,
            unroll=hyper.layers if unrolled else 1,
            # The check traces each layer once more, and initial weights depend on it.
            check_constancy_invariants=self.is_initializing(),
        )(hyper, points)
        weight = hyper.invariant_weight if hyper.invariant_branch else 0.0
        self.molecule_head = MoleculeHead(
            hyper.heads, points, weight, hyper.precision
        )

    def __call__(self, graph: batching.MolecularGraph, *, train: bool = False) -> jax.Array:
        """Predicts the standardised targets.

        Args:
          graph: padded; its elements must have been checked against `elements`.
          train: whether edge frames follow `frame` instead of `evaluation_frame`. A random `frame`
            needs the RNG stream `frame`.

        Returns:
          [G, F]: 1 number from each head, 3 of vectors, 9 of tensors, see `heads.columns`. Padding
          graphs have arbitrary values.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        rolls = self.rolls(graph, train)
        if len(rolls) > 1:
            return self.of_rolls(graph, len(rolls)).mean(0)
        # For one roll a scan around it all would only take longer to trace and compile.
        return self.predict(graph, rolls[0])

    @nn.nowrap
    def rolls(self, graph: batching.MolecularGraph, train: bool) -> jax.Array:
        """[n, E] rolls of the edges' frames, in each of which the network runs once."""
        frame = self.hyper.frame if train else self.hyper.evaluation_frame
        if frame == "random":
            return edge_rolls(self.make_rng("frame"), graph)[None]
        n = 1 if frame == "canonical" else frame
        return jnp.broadcast_to(equal_angles(n)[:, None], (n, *graph.senders.shape))

    def of_rolls(self, graph: batching.MolecularGraph, n: int) -> jax.Array:
        """[n, G, F] predictions with all edge frames rolled by 2 pi k / n, k = 0 .. n - 1.

        An equivariant model predicts the same n times, so the spread measures how much this model
        depends on an arbitrary choice. `evaluation_frame` = n predicts their mean.
        """
        graph = jax.tree.map(jnp.asarray, graph)

        def one(model: HDGNN, _: None, roll: jax.Array) -> tuple[None, jax.Array]:
            return None, model.predict(graph, jnp.full(graph.senders.shape, roll))

        scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        return scan(self, None, equal_angles(n))[1]

    @nn.nowrap
    def geometry(self, graph: batching.MolecularGraph, roll: jax.Array) -> EdgeGeometry:
        """The geometry of the edges for the given rolls [E].

        Raises:
          InputError: where the graph's neighbours were found with another cutoff or neighbourhood,
            with a smaller `max_neighbors`, or only one of graph and model limits their number.
        """
        for name in ("cutoff", "neighborhood"):
            there, own = getattr(graph.edges, name), getattr(self.hyper, name)
            if there != own:
                raise InputError(
                    f"the neighbours were found with {name} = {there}, the model has {own}: find "
                    "them with the model's"
                )
        found, wanted = graph.edges.max_neighbors, self.hyper.max_neighbors
        if (found is None) != (wanted is None) or (found or 0) < (wanted or 0):
            raise InputError(
                f"the neighbours were found with max_neighbors = {found}, the model has {wanted}: "
                "find them with the model's"
            )
        return edge_geometry(graph, roll, self.hyper)

    def predict(self, graph: batching.MolecularGraph, roll: jax.Array) -> jax.Array:
        """The predictions [G, F] in the edge frames given by the rolls [E]."""
        outputs: jax.Array = self.molecule_head(*self.states(graph, roll), graph)
        return outputs

    def states(
        self, graph: batching.MolecularGraph, roll: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The inputs of the head: node states [N, S, C] and the invariant branch [N, C0]."""
        start, rest = self.start(graph, roll)
        return self.stack(start, self.lasts(), *rest)[0]

    @nn.nowrap
    def lasts(self) -> jax.Array:
        """[K] True for the last layer."""
        return jnp.arange(self.hyper.layers) == self.hyper.layers - 1

    def start(
        self, graph: batching.MolecularGraph, roll: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[PyTree, ...]]:
        """The state before the first layer, and the arguments that all layers share."""
        geometry = self.geometry(graph, roll)
        species = element_index(graph.nodes.atomic_numbers, self.hyper.elements)
        start = self.embedding(species)
        f = self.invariant_embedding(species) if self.hyper.invariant_branch else start[:, :0]
        if self.hyper.tags:
            start = (start + self.tag_embedding(graph.nodes.tags)) / 2**0.5
            if self.hyper.invariant_branch:
                f = (f + self.invariant_tag_embedding(graph.nodes.tags)) / 2**0.5
        # Degree 0 is the embedding, the others start at 0.
        higher = degrees.size(self.hyper.degree) - 1
        x = jnp.pad(start[:, None], ((0, 0), (0, higher), (0, 0)))
        return (x, f), (geometry, species, graph.senders, graph.receivers)


class Layer(nn.Module):
    """norm -> message block -> sum over neighbours -> update block, and the invariant branch."""

    hyper: HyperParameters
    points: sphere.Sphere

    @nn.compact
    def __call__(
        self,
        state: tuple[jax.Array, jax.Array],
        last: jax.Array,
        geometry: EdgeGeometry,
        species: jax.Array,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        hyper, precision = self.hyper, self.hyper.precision
        x, f = state
        e = DistanceBlock(
            len(hyper.elements), hyper.edge_channels, precision, name="distance"
        )(geometry.smeared, species, senders, receivers)
        epsilon, share = (SOFT, SHARE) if hyper.rescale else (EPSILON, 0.0)
        norm = functools.partial(EquivariantLayerNorm, epsilon, share)
        normed = norm(name="norm")(x) if hyper.layer_norm else x
        if hyper.extra_linear:
            normed = DegreeDense(hyper.channels, precision, name="extra_linear")(normed)
        messages = jnp.zeros_like(x)
        sizes = zip(hyper.shell_degrees(), (hyper.hidden, hyper.far_hidden), strict=False)
        for (degree, hidden), shell, name in zip(
            sizes, geometry.shells, ("message", "message_far"), strict=False
        ):
            size = degrees.size(degree)
            messages = messages.at[:, :size].add(
                MessageBlock(hyper, degree, hidden, name=name)(
                    normed[:, :size], f, e if shell.edges is None else e[shell.edges], shell
                )
            )
        if hyper.rescale:
            messages = norm(name="message_norm")(messages)
        width = hyper.update_channels or 2 * hyper.channels
        update = UpdateBlock(self.points, width, hyper.squeeze_excite, precision, name="update")(
            messages, x
        )
        if hyper.residual:
            update = (x + update) * (0.5**0.5 if hyper.rescale else 1)
        if hyper.invariant_branch:
            f = InvariantBranch(hyper.neighbors, precision, name="invariant")(
                f, e, geometry.envelope, receivers
            )
            # No SiLU after the last layer.
            f = jnp.where(last, f, nn.silu(f))
        watch(self, update)
        return (update, f), None


def equal_angles(n: int) -> jax.Array:
    """[n] 2 pi k / n, k = 0 .. n - 1."""
    return 2 * jnp.pi * jnp.arange(n) / n


def edge_rolls(key: jax.Array, graph: batching.MolecularGraph) -> jax.Array:
    """[E] uniform angles that depend on the molecule's id and the edge's index in the molecule.

    They do not depend on padding, batching or the number of devices.
    """
    n_edges = graph.senders.shape[0]
    graphs = jnp.arange(graph.n_edge.shape[0])
    owner = jnp.repeat(graphs, graph.n_edge, total_repeat_length=n_edges)
    start = jnp.cumsum(graph.n_edge) - graph.n_edge
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(graph.globals.id)
    place = jnp.arange(n_edges) - start[owner]
    edge_keys = jax.vmap(jax.random.fold_in)(keys[owner], place)
    return jax.vmap(lambda k: jax.random.uniform(k, maxval=2 * jnp.pi))(edge_keys)
