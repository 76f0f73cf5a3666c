"""Builds padded graphs of a few fixed shapes from structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import flax.struct
import jax
import jraph
import numpy as np
import numpy.typing as npt

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.neighbors import Neighborhood, Neighbors, NeighborSearch
from hdgnn_jax.graphs.structure import StructureError, Structures


class Atoms(NamedTuple):
    """Node features.

    Attributes:
      atomic_numbers: [N] int32.
      positions: [N, 3] float32, Å.
      tags: [N] int32; 0 bulk, 1 surface, 2 adsorbate.
      forces: [N, 3] float32, standardised training labels; None without them.
    """

    atomic_numbers: jax.Array | np.ndarray
    positions: jax.Array | np.ndarray
    tags: jax.Array | np.ndarray
    forces: jax.Array | np.ndarray | None = None


class Edges(flax.struct.PyTreeNode):
    """Edge features.

    Attributes:
      shift: [E, 3] float32, Å, from x_j to the image of j that is the sender. None where the set
        has neither cells nor a limit of neighbours: all shifts are then 0.
      cutoff, max_neighbors, neighborhood: the values with which the neighbours were found; the
        model checks them against its own.
    """

    shift: jax.Array | np.ndarray | None
    cutoff: float = flax.struct.field(pytree_node=False)
    max_neighbors: int | None = flax.struct.field(pytree_node=False, default=None)
    neighborhood: Neighborhood = flax.struct.field(pytree_node=False, default="cutoff")


class Labels(NamedTuple):
    """Graph features.

    Attributes:
      target: [G, ...] float32, standardised.
      id: [G] int32, the record's id.
      virial: [G, 3, 3] float32, standardised training labels, NaN where unknown; None without them.
    """

    target: jax.Array | np.ndarray
    id: jax.Array | np.ndarray
    virial: jax.Array | np.ndarray | None = None


MolecularGraph: TypeAlias = jraph.GraphsTuple
"""`jraph.GraphsTuple` with nodes `Atoms`, edges `Edges` and globals `Labels`. Node i is the
receiver, j the sender. Padding is as in jraph: the first graph after the real ones holds every
padded node and edge, the rest are empty; padded edges join the first padded node to itself."""


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """The shape of one padded batch; at least one node and one graph of it are padding."""

    n_edge: int
    n_node: int
    n_graph: int

    def fits(self, n_node: int, n_edge: int, n_graph: int) -> bool:
        """Whether that many real nodes, edges and graphs fit."""
        return n_node < self.n_node and n_edge <= self.n_edge and n_graph < self.n_graph


def deal(n_edges: np.ndarray, shards: int) -> np.ndarray:
    """Divides the molecules of each batch into shards of nearly equal edge counts.

    Molecules go to the shards like cards: largest first, back and forth over the shards. So all
    devices finish at about the same time.

    Args:
      n_edges: [batches, B] edges of each molecule.
      shards: number of shards, a divisor of B.

    Returns:
      [batches, shards, B / shards] indices of molecules in their batch.

    Raises:
      InputError: where B is not a multiple of `shards`.
    """
    batches, size = n_edges.shape
    if size % shards:
        raise InputError(f"a batch of {size} molecules cannot be dealt to {shards} devices evenly")
    hands = np.argsort(-n_edges, axis=1, kind="stable").reshape(batches, size // shards, shards)
    hands[:, 1::2] = hands[:, 1::2, ::-1]
    return np.sort(hands.swapaxes(1, 2), axis=2)


def choose_budgets(
    n_node: np.ndarray, n_edge: np.ndarray, n_graph: int, count: int, multiple: int = 16
) -> list[Budget]:
    """The `count` shapes that waste the fewest padded edges on the given batches.

    Args:
      n_node, n_edge: [batches] real nodes and edges of every batch that will be drawn.
      n_graph: molecules in a batch.
      count: the largest number of shapes; each is compiled once.
      multiple: shapes are rounded up to a multiple of this, for aligned rows.

    Returns:
      Budgets in ascending order; the last holds every batch. They are fewer than `count` where
      fewer distinct shapes suffice.
    """
    order = np.argsort(n_edge)
    edges, nodes = n_edge[order], np.maximum.accumulate(n_node[order])
    # Dynamic programming over a grid of quantiles, exact on it: batches between the grid points
    # a and b are padded to the edges of b.
    ends = np.unique(np.linspace(0, len(edges), 65).astype(int)[1:] - 1)
    top = _round_up(edges[ends], multiple).astype(float)
    size = np.diff(np.concatenate([[-1], ends]))
    total = np.cumsum(size)
    best = total * top
    cut = [np.zeros(len(ends), int)]
    for _ in range(count - 1):
        # options[b, a]: cost up to grid point b if the last shape holds a..b.
        before = np.concatenate([[0], best[:-1]])
        start = np.concatenate([[0], total[:-1]])
        options = before[None] + (total[:, None] - start[None]) * top[:, None]
        options[np.triu_indices(len(ends), 1)] = np.inf
        cut.append(options.argmin(1))
        best = options.min(1)
    chosen, b = [], len(ends) - 1
    for starts in reversed(cut):
        chosen.append(b)
        b = int(starts[b]) - 1
        if b < 0:
            break
    return [
        Budget(
            n_edge=int(_round_up(edges[ends[b]], multiple)),
            # One more node than needed: padded edges join it to itself.
            n_node=int(_round_up(nodes[ends[b]] + 1, multiple)),
            n_graph=n_graph + 1,
        )
        for b in reversed(chosen)
    ]


def pack(
    structures: Structures, neighbors: Neighbors | NeighborSearch, budget: Budget
) -> list[np.ndarray]:
    """Divides molecules, in their order, into consecutive batches that each fit the budget.

    Raises:
      StructureError: naming the first molecule that alone exceeds the budget.
    """
    batches: list[list[int]] = [[]]
    node = edge = 0
    for k, (n, e) in enumerate(
        zip(structures.n_atoms.tolist(), neighbors.n_edges.tolist(), strict=True)
    ):
        if not budget.fits(n, e, 1):
            raise StructureError(
                f"has {n} atoms and {e} edges; the largest batch holds {budget.n_node - 1} and "
                f"{budget.n_edge}: train with a larger batch_size",
                structures.name(k),
            )
        if not budget.fits(node + n, edge + e, len(batches[-1]) + 1):
            batches.append([])
            node = edge = 0
        batches[-1].append(k)
        node, edge = node + n, edge + e
    return [np.array(b) for b in batches if b]


def one_graph(structures: Structures, neighbors: Neighbors | NeighborSearch) -> MolecularGraph:
    """All the structures as one padded graph without targets, for what is measured once."""
    found = neighbors.found()
    budget = Budget(len(found.senders), len(structures.positions) + 1, len(structures) + 1)
    n = len(structures)
    return collate(structures, found, np.zeros(n), np.arange(n), budget)


def collate(
    structures: Structures,
    neighbors: Neighbors | NeighborSearch,
    targets: np.ndarray,
    indices: np.ndarray,
    budget: Budget,
    forces: np.ndarray | None = None,
    virials: np.ndarray | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> MolecularGraph:
    """The structures at `indices` as one padded graph.

    Args:
      structures, neighbors: the whole set.
      targets: [n, ...] targets of the whole set, standardised.
      indices: [k] indices into the set.
      budget: the padded shape.
      forces: [atoms, 3] forces of the whole set, standardised.
      virials: [n, 3, 3] virials of the whole set, standardised.
      dtype: type of reals; float32 suffices unless small differences of energies matter, because
        neighbours were found in float64 and a structure is small and near the origin.

    Raises:
      InputError: where the structures exceed the budget.
    """
    # Decided for the whole set, so that all of its batches have the same arrays.
    plain = neighbors.max_neighbors is None and not structures.periodic.any()
    if forces is not None:
        forces = forces[structures.atoms_of(indices)].astype(dtype)
    structures, edges = structures.take(indices), neighbors.take(indices).found()
    n_atoms, n_edges = structures.n_atoms, edges.n_edges
    n_node, n_edge, n_graph = len(structures.tags), len(edges.senders), len(indices)
    if not budget.fits(n_node, n_edge, n_graph):
        raise InputError(f"{n_graph} graphs, {n_node} atoms and {n_edge} edges exceed {budget}")
    before = np.repeat(structures.offsets[:-1], n_edges).astype(np.int32)

    atoms_of, edges_of = (_filled(n.astype(np.int32), budget.n_graph) for n in (n_atoms, n_edges))
    atoms_of[n_graph], edges_of[n_graph] = budget.n_node - n_node, budget.n_edge - n_edge
    return jraph.GraphsTuple(
        nodes=Atoms(
            _filled(structures.atomic_numbers, budget.n_node),
            _filled(structures.positions.astype(dtype), budget.n_node),
            _filled(structures.tags, budget.n_node),
            None if forces is None else _filled(forces, budget.n_node),
        ),
        edges=Edges(
            None if plain else _shifts(structures, edges, budget.n_edge).astype(dtype),
            edges.cutoff,
            edges.max_neighbors,
            edges.neighborhood,
        ),
        senders=_filled(edges.senders + before, budget.n_edge, n_node),
        receivers=_filled(edges.receivers + before, budget.n_edge, n_node),
        globals=Labels(
            _filled(targets[indices].astype(dtype), budget.n_graph),
            _filled(structures.ids.astype(np.int32), budget.n_graph, -1),
            None if virials is None else _filled(virials[indices].astype(dtype), budget.n_graph),
        ),
        n_node=atoms_of,
        n_edge=edges_of,
    )


def stack(graphs: Sequence[MolecularGraph]) -> MolecularGraph:
    """Stacks graphs of one shape, one per device, along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)


def own_shards(sharding: jax.sharding.NamedSharding) -> list[int]:
    """Indices along the first axis of a stacked batch whose devices belong to this process."""
    here = jax.process_index()
    return [k for k, d in enumerate(sharding.mesh.devices.flat) if d.process_index == here]


def place(own: MolecularGraph, sharding: jax.sharding.NamedSharding) -> MolecularGraph:
    """Puts a stacked batch on the devices of all processes.

    Args:
      own: the graphs of `own_shards`, stacked.
      sharding: divides the first axis of the whole batch over the devices.
    """
    if sharding.is_fully_addressable:
        # One call puts all arrays.
        return jax.device_put(own, sharding)
    return jax.make_array_from_process_local_data(sharding, own)


def graph_mask(graph: MolecularGraph) -> jax.Array:
    """[G] True for real graphs."""
    mask: jax.Array = jraph.get_graph_padding_mask(graph)
    return mask


def edge_mask(graph: MolecularGraph) -> jax.Array:
    """[E] True for real edges."""
    mask: jax.Array = jraph.get_edge_padding_mask(graph)
    return mask


def gather(x: jax.Array, places: jax.Array) -> jax.Array:
    """x[places]; all places must be in bounds. Without bounds checks a CPU takes half the time."""
    return jax.numpy.asarray(x).at[places].get(mode="promise_in_bounds")


def graph_of_node(graph: MolecularGraph) -> jax.Array:
    """[N] index of the graph that each node belongs to, ascending."""
    n_node = graph.nodes.positions.shape[0]
    return jax.numpy.repeat(
        jax.numpy.arange(graph.n_node.shape[0]), graph.n_node, total_repeat_length=n_node
    )


def _filled(values: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
    out = np.full((size, *values.shape[1:]), fill, values.dtype)
    out[: len(values)] = values
    return out


def _shifts(structures: Structures, edges: Neighbors, size: int) -> np.ndarray:
    shift = np.zeros((size, 3))
    if edges.images is not None:
        cells = np.repeat(structures.cells, edges.n_edges, 0)
        shift[: len(cells)] = np.einsum("ea,eab->eb", edges.images, cells)
    return shift


def _round_up(value: np.ndarray | int, multiple: int) -> np.ndarray:
    return -(-np.asarray(value) // multiple) * multiple
