"""HDGNN: geometry once, embedding, K layers, head."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.dense import KEPT, DegreeDense, Precision
from hdgnn_jax.models.embedding import N_TAGS, DistanceBlock, ElementEmbedding, element_index
from hdgnn_jax.models.gates import GATES, STATES, watch
from hdgnn_jax.models.geometry import EdgeGeometry, edge_geometry
from hdgnn_jax.models.heads import HEADS, Head, MoleculeHead, Readout
from hdgnn_jax.models.invariant import InvariantBranch
from hdgnn_jax.models.message import Attention, MessageBlock, TensorProduct
from hdgnn_jax.models.norm import EPSILON, SOFT, EquivariantLayerNorm
from hdgnn_jax.models.pathways import Pathway
from hdgnn_jax.models.update import UpdateBlock
from hdgnn_jax.so3 import degrees, sphere

Frame = Literal["random", "canonical"] | int

KEEP = jax.checkpoint_policies.save_only_these_names(KEPT)
"""What the backward pass finds stored, without `remat`: most matrix products and the rotated
states. To compute activation functions again is cheaper than to write and read their values."""


UNROLLED = 4
"""Layers up to which they are compiled one after another: on a CPU a quarter faster than a loop,
which copies what the backward pass needs."""
START = 0.25
"""Scale of the embedding: a quarter of an update's, so that the surroundings are seen beside it."""


class HDGNN(nn.Module):
    """The Hybrid Directional Graph Neural Network (An et al., ICLR 2024).

    The attributes are the hyper-parameters, all of them.

    Attributes:
      elements: atomic numbers the model knows.
      tags: whether the start also depends on an atom's tag (bulk, surface, adsorbate).
      cutoff: Å.
      max_neighbors: nearest neighbours that an atom sees; None: all within the cutoff.
      near_neighbors: the nearest of these make a shell of their own, with degree and hidden size as
        below; the rest have `far_degree` and `far_hidden`. None: one shell.
      far_degree: L of the messages of the outer shell.
      far_hidden: H of its networks.
      degree: L.
      layers: K.
      channels: C of the node state.
      hidden: H of the edge networks.
      invariant_channels: C0 of the invariant branch.
      edge_channels: B of the distance block.
      n_gaussians: of the distance smearing.
      m_max: orders |m| that the learned pathway sees; `degree` for the untruncated form.
      pathway: what the learned terms of eq. 11 are made of: `edge_networks` (the paper's),
        `unshared`, `nn_of_rotated`, `linear`, `unrestricted`, `so2` or `none`; see `pathways`.
      last_silu: whether a SiLU follows the second layer of its networks, as in the authors' code.
      tensor_product: of the fourth term: `metp` (eq. 7), `fully_connected`, `depthwise` (ours, see
        `DepthwiseProduct`) or `none`.
      full_product: whether there is a fifth term, one channel of all degrees; see `MessageBlock`.
      product_degree: L', the highest degree that comes out of it.
      attention: `sigmoid`, `softmax` or four fixed weights (Table 4).
      neighbors: the usual number of neighbours of an atom; sums over them are divided by its root.
      envelope: whether messages fade out towards the cutoff.
      layer_norm: whether the state is normalised before the message block.
      rescale: whether sums are brought back to unit variance: summed messages by a norm, and
        x^k + update by a factor. Without it messages shrink, and what the head sees of the
        surroundings is lost beside the element's embedding.
      extra_linear: whether an equivariant linear layer follows the norm (Table 5).
      invariant_branch: whether there is one; without it attention sees e_ij alone.
      residual: whether x^{k+1} = x^k + update.
      update_channels: hidden channels of the update block; None: 2C, as in the paper.
      squeeze_excite: whether the update block gates channels by their mean over the sphere.
      sphere_rule: `lebedev`, `product`, or the points themselves.
      sphere_order: of the Lebedev rule; None: see `so3.sphere.sphere`.
      sphere_error: instead of an order, the relative aliasing error that is allowed, as 1e-3.
      head: `invariant`, `dipole` (mu), `dipole_vector`, `extent` (r2) or `polarizability`; see
        `heads.MoleculeHead`.
      readout: `sum` or `mean` over atoms, of the invariant head.
      invariant_weight: lambda of section 3.4.
      auxiliary: whether the invariant head has a second output, for training alone: [G, 2].
      frame: roll of the edge frames in training: `random` (drawn per edge from the RNG stream
        `frame`, the same in all layers), `canonical` (0), or n: mean prediction over n rolls.
      evaluation_frame: the same in evaluation, which must be deterministic: not `random`.
      precision: of matrix products; `bfloat16` products still add up in float32, and rotations and
        sphere transforms are float32 always.
      remat: whether a layer's activations are computed again in the backward pass.
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    tags: bool = False
    cutoff: float = 5.0
    max_neighbors: int | None = None
    near_neighbors: int | None = None
    far_degree: int = 4
    far_hidden: int = 32
    degree: int = 6
    layers: int = 6
    channels: int = 64
    hidden: int = 128
    invariant_channels: int = 128
    edge_channels: int = 64
    n_gaussians: int = 250
    m_max: int = 1
    pathway: Pathway = "edge_networks"
    last_silu: bool = False
    tensor_product: TensorProduct = "metp"
    full_product: bool = False
    product_degree: int = 2
    attention: Attention = "sigmoid"
    neighbors: float = 13.0
    envelope: bool = True
    layer_norm: bool = True
    rescale: bool = True
    extra_linear: bool = False
    invariant_branch: bool = True
    residual: bool = True
    update_channels: int | None = None
    squeeze_excite: bool = True
    sphere_rule: sphere.Rule | sphere.Sphere = "lebedev"
    sphere_order: int | None = None
    sphere_error: float | None = None
    head: Head = "invariant"
    readout: Readout = "sum"
    invariant_weight: float = 1.0
    auxiliary: bool = False
    frame: Frame = "random"
    evaluation_frame: Frame = "canonical"
    precision: Precision = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        _one_of("pathway", self.pathway, get_args(Pathway))
        _one_of("tensor_product", self.tensor_product, get_args(TensorProduct))
        if self.pathway == self.tensor_product == "none":
            raise InputError("pathway and tensor_product must not both be 'none': no message")
        _one_of("head", self.head, get_args(Head))
        if self.auxiliary and self.head != "invariant":
            raise InputError(f"auxiliary needs the invariant head, not {self.head}")
        _one_of("readout", self.readout, ("sum", "mean"))
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        if isinstance(self.attention, str):
            _one_of("attention", self.attention, ("sigmoid", "softmax"))
        elif self.full_product:
            raise InputError("full_product needs learned attention: 'sigmoid' or 'softmax'")
        elif len(self.attention) != 4:
            raise InputError(f"attention needs four weights, not {self.attention!r}")
        for name, frame in (("frame", self.frame), ("evaluation_frame", self.evaluation_frame)):
            if not (isinstance(frame, int) and frame > 0):
                _one_of(name, frame, ("random", "canonical"))
        if self.evaluation_frame == "random":
            raise InputError("evaluation_frame must not be 'random': evaluation is deterministic")
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise InputError(f"max_neighbors must be positive, not {self.max_neighbors}")
        if self.near_neighbors is not None:
            if not 0 < self.near_neighbors < (self.max_neighbors or 0):
                raise InputError(
                    f"near_neighbors must lie between 1 and max_neighbors = {self.max_neighbors}, "
                    f"not {self.near_neighbors}"
                )
            if not 0 <= self.far_degree <= self.degree or self.far_hidden < 1:
                raise InputError(
                    "with near_neighbors, far_degree must not exceed degree and far_hidden must be "
                    "positive"
                )
        lowest = min(self.shell_degrees())
        for name in ("m_max", "product_degree"):
            if not 0 <= getattr(self, name) <= lowest:
                which = "degree" if lowest == self.degree else "far_degree"
                raise InputError(f"{name} must lie between 0 and {which} = {lowest}")
        lowest_degree = HEADS[self.head].lowest_degree
        if self.degree < lowest_degree:
            raise InputError(f"the {self.head} head needs degree >= {lowest_degree}")
        for name in ("cutoff", "neighbors", "layers", "channels", "hidden", "invariant_channels",
                     "edge_channels"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        if self.update_channels is not None and self.update_channels < 1:
            raise InputError(f"update_channels must be positive, not {self.update_channels}")
        if not self.elements:
            raise InputError("elements must not be empty")
        if self.n_gaussians < 2:
            raise InputError(f"n_gaussians must be at least 2, not {self.n_gaussians}")
        super().__post_init__()

    def setup(self) -> None:
        points = self.points()
        # Without a norm before the messages their size would be the embedding's.
        scale = START if self.rescale and self.layer_norm else 1.0
        self.embedding = ElementEmbedding(len(self.elements), self.channels, scale)
        if self.tags:
            self.tag_embedding = ElementEmbedding(N_TAGS, self.channels, scale)
        if self.invariant_branch:
            self.invariant_embedding = ElementEmbedding(
                len(self.elements), self.invariant_channels
            )
            if self.tags:
                self.invariant_tag_embedding = ElementEmbedding(N_TAGS, self.invariant_channels)
        policy = KEEP if self.pathway != "none" else jax.checkpoint_policies.everything_saveable
        layer = nn.remat(Layer, prevent_cse=False, policy=None if self.remat else policy)
        # Of a deep network one layer is traced and compiled, whatever K.
        self.stack = nn.scan(
            layer,
            variable_axes={"params": 0, GATES: 0, STATES: 0},
            split_rngs={"params": True},
            in_axes=(0, *[nn.broadcast] * 4),
            length=self.layers,
            unroll=self.layers if self.layers <= UNROLLED else 1,
        )(_hyper_parameters(self), points)
        weight = self.invariant_weight if self.invariant_branch else 0.0
        self.molecule_head = MoleculeHead(
            self.head, self.readout, points, weight, self.precision, self.auxiliary
        )

    def __call__(self, graph: batching.MolecularGraph, *, train: bool = False) -> jax.Array:
        """Predicts the standardised target.

        Args:
          graph: padded; elements already checked against `elements`.
          train: whether the edge frames are those of training (`frame`); then the RNG stream
            `frame` is needed if that is random.

        Returns:
          [G], or [G, 3] and [G, 3, 3] from the heads of vectors and tensors; arbitrary numbers for
          padding graphs. With `auxiliary` and `train`, [G, 2].
        """
        graph = jax.tree.map(jnp.asarray, graph)
        frame = self.frame if train else self.evaluation_frame
        if frame == "random":
            return self.predict(graph, edge_rolls(self.make_rng("frame"), graph), train)
        return self.of_rolls(graph, 1 if frame == "canonical" else frame, train).mean(0)

    def of_rolls(
        self, graph: batching.MolecularGraph, n: int, train: bool = False
    ) -> jax.Array:
        """[n, G, ...] predictions, with all edge frames rolled by n equal steps of a turn.

        An equivariant model gives the same n times: the spread tells how much this one depends on
        an arbitrary choice. Their mean is what `evaluation_frame` = n predicts.
        """
        graph = jax.tree.map(jnp.asarray, graph)

        def one(model: HDGNN, _: None, roll: jax.Array) -> tuple[None, jax.Array]:
            return None, model.predict(graph, jnp.full(graph.senders.shape, roll), train)

        scan = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        return scan(self, None, 2 * jnp.pi * jnp.arange(n) / n)[1]

    @nn.nowrap
    def hyper_parameters(self) -> dict[str, Any]:
        """The attributes: all that it takes to build the same network."""
        names = {field.name for field in dataclasses.fields(self)} - {"parent", "name"}
        return {name: getattr(self, name) for name in sorted(names)}

    @nn.nowrap
    def points(self) -> sphere.Sphere:
        """The quadrature of update blocks and head."""
        if isinstance(self.sphere_rule, sphere.Sphere):
            return self.sphere_rule
        return sphere.sphere(self.degree, self.sphere_rule, self.sphere_order, self.sphere_error)

    @nn.nowrap
    def shell_degrees(self) -> tuple[int, ...]:
        """L of the messages of each shell of neighbours."""
        return (self.degree,) if self.near_neighbors is None else (self.degree, self.far_degree)

    @nn.nowrap
    def geometry(self, graph: batching.MolecularGraph, roll: jax.Array) -> EdgeGeometry:
        """The geometry of the edges for the given rolls [E].

        Raises:
          ValueError: where the graph's neighbours were found with another cutoff, are too few, or
            not in the order of distance.
        """
        if graph.edges.cutoff != self.cutoff:
            raise InputError(
                f"the neighbours were found with cutoff = {graph.edges.cutoff}, the model has "
                f"{self.cutoff}: find them with the model's"
            )
        found, wanted = graph.edges.max_neighbors, self.max_neighbors
        if (found is None) != (wanted is None) or (found or 0) < (wanted or 0):
            raise InputError(
                f"the neighbours were found with max_neighbors = {found}, the model has {wanted}: "
                "find them with the model's"
            )
        return edge_geometry(
            graph,
            roll,
            degrees=self.shell_degrees(),
            m_max=self.m_max,
            product_degree=self.product_degree,
            full=self.full_product,
            cutoff=self.cutoff,
            n_gaussians=self.n_gaussians,
            envelope=self.envelope,
            max_neighbors=self.max_neighbors,
            near_neighbors=self.near_neighbors,
        )

    def predict(
        self, graph: batching.MolecularGraph, roll: jax.Array, train: bool = False
    ) -> jax.Array:
        """The prediction [G, ...] in the edge frames given by the rolls [E]."""
        outputs: jax.Array = self.molecule_head(*self.states(graph, roll), graph)
        return outputs[:, 0] if self.auxiliary and not train else outputs

    def states(
        self, graph: batching.MolecularGraph, roll: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What the head sees: node states [N, S, C] and the invariant branch [N, C0]."""
        start, rest = self.start(graph, roll)
        return self.stack(start, self.lasts(), *rest)[0]

    @nn.nowrap
    def lasts(self) -> jax.Array:
        """[K] whether a layer is the last one."""
        return jnp.arange(self.layers) == self.layers - 1

    def start(
        self, graph: batching.MolecularGraph, roll: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
        """What the first layer gets: the state, and what is the same for all layers."""
        geometry = self.geometry(graph, roll)
        species = element_index(graph.nodes.atomic_numbers, self.elements)
        start = self.embedding(species)
        f = self.invariant_embedding(species) if self.invariant_branch else start[:, :0]
        if self.tags:
            start = (start + self.tag_embedding(graph.nodes.tags)) / 2**0.5
            if self.invariant_branch:
                f = (f + self.invariant_tag_embedding(graph.nodes.tags)) / 2**0.5
        # Degree 0 from the atom, the others 0.
        higher = degrees.size(self.degree) - 1
        x = jnp.pad(start[:, None], ((0, 0), (0, higher), (0, 0)))
        return (x, f), (geometry, species, graph.senders, graph.receivers)


class Layer(nn.Module):
    """norm -> message block -> sum over neighbours -> update block, beside the invariant branch."""

    config: HDGNN  # detached: read for its attributes only
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
        config, precision = self.config, self.config.precision
        x, f = state
        e = DistanceBlock(
            len(config.elements), config.edge_channels, precision, name="distance"
        )(geometry.smeared, species, senders, receivers)
        epsilon = SOFT if config.rescale else EPSILON
        normed = EquivariantLayerNorm(epsilon, name="norm")(x) if config.layer_norm else x
        if config.extra_linear:
            normed = DegreeDense(config.channels, precision, name="extra_linear")(normed)
        messages = jnp.zeros_like(x)
        sizes = zip(config.shell_degrees(), (config.hidden, config.far_hidden), strict=False)
        for (degree, hidden), shell, name in zip(
            sizes, geometry.shells, ("message", "message_far"), strict=False
        ):
            size = degrees.size(degree)
            messages = messages.at[:, :size].add(
                MessageBlock(
                    degree=degree,
                    m_max=config.m_max,
                    product_degree=config.product_degree,
                    hidden=hidden,
                    attention=config.attention,
                    pathway=config.pathway,
                    last_silu=config.last_silu,
                    tensor_product=config.tensor_product,
                    neighbors=config.neighbors,
                    precision=precision,
                    name=name,
                )(normed[:, :size], f, e if shell.edges is None else e[shell.edges], shell)
            )
        if config.rescale:
            messages = EquivariantLayerNorm(epsilon, name="message_norm")(messages)
        width = config.update_channels or 2 * config.channels
        update = UpdateBlock(self.points, width, config.squeeze_excite, precision, name="update")(
            messages, x
        )
        if config.residual:
            update = (x + update) * (0.5**0.5 if config.rescale else 1)
        if config.invariant_branch:
            f = InvariantBranch(config.neighbors, precision, name="invariant")(
                f, e, geometry.envelope, receivers
            )
            # No SiLU after the last layer.
            f = jnp.where(last, f, nn.silu(f))
        watch(self, update)
        return (update, f), None


def edge_rolls(key: jax.Array, graph: batching.MolecularGraph) -> jax.Array:
    """[E] uniform angles that depend on the molecule's id and the edge's place in the molecule.

    Not on its place in the batch: padding, batching and the number of devices change nothing.
    """
    n_edges = graph.senders.shape[0]
    graphs = jnp.arange(graph.n_edge.shape[0])
    owner = jnp.repeat(graphs, graph.n_edge, total_repeat_length=n_edges)
    start = jnp.cumsum(graph.n_edge) - graph.n_edge
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(graph.globals.id)
    place = jnp.arange(n_edges) - start[owner]
    edge_keys = jax.vmap(jax.random.fold_in)(keys[owner], place)
    return jax.vmap(lambda k: jax.random.uniform(k, maxval=2 * jnp.pi))(edge_keys)


def _hyper_parameters(model: HDGNN) -> HDGNN:
    """The same attributes in a module of its own, which no layer can take for a parent."""
    return model.clone(parent=None)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
