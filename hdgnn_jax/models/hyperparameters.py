"""All hyper-parameters of the network."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.neighbors import Neighborhood
from hdgnn_jax.models.dense import Precision
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.so3 import sphere
from hdgnn_jax.types import Json

Frame = Literal["random", "canonical"] | int
TensorProduct = Literal["metp", "fully_connected", "depthwise", "none"]
Attention = Literal["sigmoid", "softmax"] | tuple[float, float, float, float]
Pathway = Literal[
    "edge_networks", "unshared", "nn_of_rotated", "linear", "unrestricted", "so2", "none"
]
WITHOUT_ROLLS: tuple[Pathway, ...] = ("linear", "unrestricted", "so2", "none")
"""Pathways whose output does not depend on the rolls of the edges' frames."""


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """Hyper-parameters of the network: the section `model` of a config.

    Attributes:
      elements: atomic numbers that the model knows.
      tags: whether the first state also depends on the atom's tag (bulk, surface, adsorbate).
      cutoff: Å.
      neighborhood: which atoms within the cutoff an atom sees: `cutoff`, all; `bonds`, those that
        it is bonded to, by the SMILES that the structure is made from, else by covalent radii (see
        `graphs.neighbors.find_neighbors`); `surface`, all, but atoms of the bulk (tag 0) see none.
        Only a network of all has forces.
      max_neighbors: number of nearest neighbours that an atom sees; None: all that there are.
      near_neighbors: number of nearest neighbours in an inner shell, which has `degree` and
        `hidden`; the others have `far_degree` and `far_hidden`. None: one shell.
      far_degree: L of the messages of the outer shell.
      far_hidden: H of the outer shell's networks.
      degree: L.
      layers: K.
      channels: C of the node state.
      hidden: H of the edge networks.
      invariant_channels: C0 of the invariant branch.
      edge_channels: B of the distance block.
      n_gaussians: number of Gaussians of the distance smearing.
      m_max: highest order |m| that the learned pathway sees; `degree` for the untruncated form.
      pathway: the kind of the learned terms of eq. 11: a name in `Pathway`, see `pathways`.
      last_silu: whether a SiLU follows the second layer of the pathway's networks, as in the
        authors' code.
      tensor_product: the product in the fourth term: `metp` (eq. 7), `fully_connected`, `depthwise`
        (ours, see `DepthwiseProduct`) or `none`.
      full_product: whether there is a fifth term, one channel of all degrees; see `MessageBlock`.
      product_degree: L', the highest degree of the product's output.
      attention: `sigmoid`, `softmax` or four fixed weights (Table 4).
      neighbors: the mean number of neighbours of an atom, of the bulk too; sums over them are
        divided by its root.
      envelope: whether messages fade out towards the cutoff.
      layer_norm: whether the state is normalised before the message block.
      rescale: whether a norm brings the summed messages, and a factor x^k + update, back to unit
        variance. Without it messages shrink beside the element's embedding, and the head hardly
        sees the surroundings.
      extra_linear: whether an equivariant linear layer follows the norm (Table 5).
      invariant_branch: whether the branch exists; without it attention sees e_ij alone.
      residual: whether x^{k+1} = x^k + update.
      update_channels: hidden channels of the update block; None: 2C, as in the paper.
      squeeze_excite: whether the update block gates channels by their mean over the sphere.
      sphere_rule: `lebedev`, `product`, or a `Sphere`.
      sphere_order: order of the Lebedev rule; None: see `so3.sphere.sphere`.
      sphere_error: in place of `sphere_order`, the aliasing error that is allowed, e.g. 1e-3.
      heads: one for each property that is predicted; see `heads.MoleculeHead`.
      invariant_weight: lambda of section 3.4.
      frame: roll of the edge frames in training: `random` (drawn per edge from the RNG stream
        `frame`, the same in all layers), `canonical` (0), or n: mean prediction over n rolls.
      evaluation_frame: the same for evaluation; not `random`, since evaluation is deterministic.
      precision: precision of matrix products. `bfloat16` products are summed in float32; rotations
        and sphere transforms are always float32.
      remat: whether the backward pass computes a layer's activations again.
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    tags: bool = False
    cutoff: float = 5.0
    neighborhood: Neighborhood = "cutoff"
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
    heads: tuple[Head, ...] = ("invariant",)
    invariant_weight: float = 1.0
    frame: Frame = "random"
    evaluation_frame: Frame = "canonical"
    precision: Precision = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        _one_of("neighborhood", self.neighborhood, get_args(Neighborhood))
        if self.neighborhood == "surface" and not self.tags:
            raise InputError("neighborhood = surface needs tags = True: they tell what is bulk")
        _one_of("pathway", self.pathway, get_args(Pathway))
        _one_of("tensor_product", self.tensor_product, get_args(TensorProduct))
        if self.pathway == self.tensor_product == "none":
            raise InputError("pathway and tensor_product must not both be 'none': no message")
        for head in self.heads:
            _one_of("heads", head, get_args(Head))
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        if isinstance(self.attention, str):
            _one_of("attention", self.attention, ("sigmoid", "softmax"))
        elif self.full_product:
            raise InputError("full_product needs learned attention: 'sigmoid' or 'softmax'")
        elif len(self.attention) != 4:
            raise InputError(f"attention needs four weights, not {self.attention!r}")
        for name, frame in (("frame", self.frame), ("evaluation_frame", self.evaluation_frame)):
            # True is an int to isinstance.
            if not (frame in ("random", "canonical") or (type(frame) is int and frame > 0)):
                raise InputError(
                    f"{name} must be one of random, canonical, or a whole number above 0, "
                    f"not {frame!r}"
                )
        if self.evaluation_frame == "random":
            raise InputError("evaluation_frame must not be 'random': evaluation is deterministic")
        self._check_shells()
        self._check_sizes()

    def _check_shells(self) -> None:
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

    def _check_sizes(self) -> None:
        if not self.heads:
            raise InputError("heads must not be empty")
        for head in self.heads:
            lowest_degree = HEADS[head].lowest_degree
            if self.degree < lowest_degree:
                raise InputError(f"the {head} head needs degree >= {lowest_degree}")
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

    @property
    def sees_rolls(self) -> bool:
        """Whether predictions depend on the rolls of the edges' frames."""
        return self.pathway not in WITHOUT_ROLLS

    def points(self) -> sphere.Sphere:
        """The quadrature that update blocks and head use."""
        if isinstance(self.sphere_rule, sphere.Sphere):
            return self.sphere_rule
        order = self.sphere_order if self.sphere_error is None else None
        return sphere.sphere(self.degree, self.sphere_rule, order, self.sphere_error)

    def shell_degrees(self) -> tuple[int, ...]:
        """L of the messages of each shell of neighbours."""
        return (self.degree,) if self.near_neighbors is None else (self.degree, self.far_degree)

    def to_dict(self) -> Json:
        """All fields as a dictionary that JSON can store, except for a `Sphere`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
