"""From molecules to padded graphs of a few fixed shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jraph
import numpy as np

from hdgnn_jax.graphs.neighbors import Neighbors
from hdgnn_jax.graphs.structure import StructureError, Structures, concatenated_ranges


class Atoms(NamedTuple):
    """Node features: `atomic_numbers` [N] int32, `positions` [N, 3] float32, Å."""

    atomic_numbers: jax.Array | np.ndarray
    positions: jax.Array | np.ndarray


class Labels(NamedTuple):
    """Graph features: `target` [G] float32, standardised; `id` [G] int32 of the record."""

    target: jax.Array | np.ndarray
    id: jax.Array | np.ndarray


MolecularGraph: TypeAlias = jraph.GraphsTuple
"""`jraph.GraphsTuple` with nodes `Atoms`, globals `Labels`, no edge features. Node i is the
receiver, j the sender. Padding as in jraph: the first graph after the real ones holds every padded
node and edge, the rest are empty; padded edges join the first padded node to itself."""


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """The shape of one padded batch; one node and one graph of it are always padding."""

    n_edge: int
    n_node: int
    n_graph: int

    def fits(self, n_node: int, n_edge: int, n_graph: int) -> bool:
        """Whether that many real nodes, edges and graphs fit."""
        return n_node < self.n_node and n_edge <= self.n_edge and n_graph < self.n_graph


def deal(n_edges: np.ndarray, shards: int) -> np.ndarray:
    """Deals the molecules of each batch to shards of nearly equal edge counts.

    As cards are dealt: largest first, back and forth over the shards, so that devices finish
    together.

    Args:
      n_edges: [batches, B] edges of each molecule.
      shards: a divisor of B.

    Returns:
      [batches, shards, B / shards] places in the batch.

    Raises:
      ValueError: where B is not a multiple of `shards`.
    """
    batches, size = n_edges.shape
    if size % shards:
        raise ValueError(f"a batch of {size} molecules cannot be dealt to {shards} devices evenly")
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
      count: how many shapes, that is compilations, are allowed.
      multiple: shapes are rounded up to it, for aligned rows.

    Returns:
      Budgets in ascending order; the last holds every batch. Fewer than `count` where fewer
      differ.
    """
    order = np.argsort(n_edge)
    edges, nodes = n_edge[order], np.maximum.accumulate(n_node[order])
    # Exact dynamic programme over a grid of quantiles: cost(a, b) pads batches a..b to edge b.
    ends = np.unique(np.linspace(0, len(edges), 65).astype(int)[1:] - 1)
    top = _round_up(edges[ends], multiple).astype(float)
    size = np.diff(np.concatenate([[-1], ends]))
    total = np.cumsum(size)
    best = total * top
    cut = [np.zeros(len(ends), int)]
    for _ in range(count - 1):
        # options[b, a]: the last shape starts after grid point a - 1.
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
            # One node more than needed, for the padding to live on.
            n_node=int(_round_up(nodes[ends[b]] + 1, multiple)),
            n_graph=n_graph + 1,
        )
        for b in reversed(chosen)
    ]


def smallest_fit(budgets: Sequence[Budget], n_node: int, n_edge: int, n_graph: int) -> Budget:
    """The first (smallest) budget that holds so much.

    Raises:
      ValueError: where none does.
    """
    for budget in budgets:
        if budget.fits(n_node, n_edge, n_graph):
            return budget
    raise ValueError(
        f"{n_graph} graphs with {n_node} atoms and {n_edge} edges exceed the largest budget, "
        f"{budgets[-1]}"
    )


def pack(structures: Structures, neighbors: Neighbors, budget: Budget) -> list[np.ndarray]:
    """Cuts molecules, in order, into consecutive batches that each fit the budget.

    Raises:
      StructureError: naming the first molecule that does not fit even alone.
    """
    batches: list[list[int]] = [[]]
    node = edge = 0
    for k, (n, e) in enumerate(
        zip(structures.n_atoms.tolist(), neighbors.n_edges.tolist(), strict=True)
    ):
        if not budget.fits(n, e, 1):
            raise StructureError(
                f"{structures.name(k)} has {n} atoms and {e} edges; the largest batch holds "
                f"{budget.n_node - 1} and {budget.n_edge}: train with a larger batch_size"
            )
        if not budget.fits(node + n, edge + e, len(batches[-1]) + 1):
            batches.append([])
            node = edge = 0
        batches[-1].append(k)
        node, edge = node + n, edge + e
    return [np.array(b) for b in batches if b]


def collate(
    structures: Structures,
    neighbors: Neighbors,
    targets: np.ndarray,
    indices: np.ndarray,
    budget: Budget,
) -> MolecularGraph:
    """The molecules at `indices` as one padded graph.

    Args:
      structures, neighbors: the whole set.
      targets: [n] of the whole set; standardised.
      indices: [k] places in the set.
      budget: the padded shape.

    Raises:
      ValueError: where they do not fit.
    """
    n_atoms, n_edges = structures.n_atoms[indices], neighbors.n_edges[indices]
    nodes, edges, graphs = int(n_atoms.sum()), int(n_edges.sum()), len(indices)
    if not budget.fits(nodes, edges, graphs):
        raise ValueError(f"{graphs} graphs, {nodes} atoms and {edges} edges exceed {budget}")

    atom = concatenated_ranges(structures.offsets[indices], n_atoms)
    edge = concatenated_ranges(neighbors.offsets[indices], n_edges)
    shift = np.repeat(np.cumsum(n_atoms) - n_atoms, n_edges).astype(np.int32)

    def filled(values: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
        out = np.full((size, *values.shape[1:]), fill, values.dtype)
        out[: len(values)] = values
        return out

    n_node = filled(n_atoms.astype(np.int32), budget.n_graph)
    n_edge = filled(n_edges.astype(np.int32), budget.n_graph)
    n_node[graphs], n_edge[graphs] = budget.n_node - nodes, budget.n_edge - edges
    return jraph.GraphsTuple(
        nodes=Atoms(
            filled(structures.atomic_numbers[atom], budget.n_node),
            # float32 after the neighbours were found: a molecule is small and near the origin.
            filled(structures.positions[atom].astype(np.float32), budget.n_node),
        ),
        edges=None,
        senders=filled(neighbors.senders[edge] + shift, budget.n_edge, nodes),
        receivers=filled(neighbors.receivers[edge] + shift, budget.n_edge, nodes),
        globals=Labels(
            filled(targets[indices].astype(np.float32), budget.n_graph),
            filled(structures.ids[indices].astype(np.int32), budget.n_graph, -1),
        ),
        n_node=n_node,
        n_edge=n_edge,
    )


def stack(graphs: Sequence[MolecularGraph]) -> MolecularGraph:
    """Graphs of one shape, one per device, along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)


def graph_mask(graph: MolecularGraph) -> jax.Array:
    """[G] True for real graphs."""
    return jraph.get_graph_padding_mask(graph)


def edge_mask(graph: MolecularGraph) -> jax.Array:
    """[E] True for real edges."""
    return jraph.get_edge_padding_mask(graph)


def graph_of_node(graph: MolecularGraph) -> jax.Array:
    """[N] the graph each node belongs to, ascending."""
    n_node = graph.nodes.positions.shape[0]
    return jax.numpy.repeat(
        jax.numpy.arange(graph.n_node.shape[0]), graph.n_node, total_repeat_length=n_node
    )


def _round_up(value: np.ndarray | int, multiple: int) -> np.ndarray:
    return -(-np.asarray(value) // multiple) * multiple
