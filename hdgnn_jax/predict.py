"""A trained model in use: structures in, the predicted property and its derivatives out."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hdgnn_jax.data.targets import Reference
from hdgnn_jax.evaluation import accuracy
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch, neighbors_of
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints

EV = {"meV": 1e-3, "eV": 1.0}
"""Units of targets that are energies, in eV."""


class PredictorError(ValueError):
    """A model that cannot do what is asked of it; the message says why."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights, and the way from its output to a number with a unit.

    Attributes:
      model: the network.
      params: its weights.
      reference: from the output to the reported unit.
      target: name of the property.
      unit: of predictions.
      budget: shape of a batch, of each device; larger where a structure needs it.
      mesh: devices.
    """

    model: HDGNN
    params: step.Params
    reference: Reference
    target: str
    unit: str
    budget: batching.Budget
    mesh: jax.sharding.Mesh

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike[str],
        evaluation_frame: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Predictor:
        """The weights of a run that were best on validation.

        Args:
          workdir: folder of the run.
          evaluation_frame: rolls of the edge frames to average over; None: as in training.
          mesh: devices; None: all.

        Raises:
          CheckpointError: where they cannot be restored.
        """
        mesh = step.make_mesh() if mesh is None else mesh
        with Checkpoints(pathlib.Path(workdir) / "checkpoints") as checkpoints:
            record = checkpoints.record("best")
            model = model_of(record)
            params = restore_weights(checkpoints, model, mesh)
        if evaluation_frame is not None:
            model = model.clone(evaluation_frame=evaluation_frame)
        return cls(
            model,
            params,
            Reference.from_dict(record["reference"]),
            record["target"]["name"],
            record["target"]["unit"],
            batching.Budget(*record["budget"]),
            mesh,
        )

    def __call__(
        self, structures: Structures, advance: Callable[[int], object] = lambda n: None
    ) -> np.ndarray:
        """[n] predictions, in `unit`.

        Args:
          structures: in any order and of any size.
          advance: told the number of structures after each batch (a progress bar).

        Raises:
          StructureError: naming the first that the model cannot use.
        """
        structures.check(self.model.elements, self.model.tags)
        neighbors = self.neighbors(structures)
        outputs = accuracy.predict(
            self._predict,
            self.params,
            structures,
            neighbors,
            self._budget(structures, neighbors),
            step.sharded(self.mesh),
            advance,
        )
        return self.reference.restore(structures, outputs)

    def reason_against(self, structure: Structure) -> str | None:
        """Why the model cannot use a structure; None where it can."""
        packed = Structures.pack([structure])
        try:
            packed.check(self.model.elements, self.model.tags)
            self.neighbors(packed).found()
        except StructureError as error:
            # The name is that of a set of one.
            return str(error).removeprefix(f"{packed.name(0)} ")
        return None

    def energy_unit(self) -> float:
        """The target's unit, in eV.

        Raises:
          PredictorError: where the target is no energy.
        """
        if self.unit not in EV:
            raise PredictorError(f"{self.target} is in {self.unit}: no energy, so without forces")
        return EV[self.unit]

    def derivatives(self, structure: Structure) -> Derivatives:
        """Energy in eV [], forces [n, 3] in eV/Å, and virial [3, 3] in eV.

        Raises:
          StructureError: where the model cannot use it.
          PredictorError: where the target is no energy.
        """
        ev = self.energy_unit()
        packed = Structures.pack([structure])
        packed.check(self.model.elements, self.model.tags)
        neighbors = self.neighbors(packed).found()
        n_atoms, n_edges = len(structure.atomic_numbers), int(neighbors.n_edges[0])
        budget = batching.Budget(grown(n_edges), grown(n_atoms + 1), 2)
        graph = batching.collate(packed, neighbors, np.zeros(1), np.zeros(1, int), budget)
        found = jax.device_get(self._derivatives(self.params, graph))
        energy = self.reference.restore(packed, found.value[:1])[0]
        slope = self.reference.scale * ev
        return Derivatives(
            energy * ev,
            found.forces[:n_atoms].astype(np.float64) * slope,
            found.virial[0].astype(np.float64) * slope,
        )

    @property
    def compilations(self) -> int:
        """Shapes that `derivatives` was compiled for."""
        return step.compilations(self._derivatives)

    def neighbors(self, structures: Structures) -> Neighbors | NeighborSearch:
        """Within the model's cutoff and limit."""
        return neighbors_of(structures, self.model.cutoff, self.model.max_neighbors)

    def _budget(
        self, structures: Structures, neighbors: Neighbors | NeighborSearch
    ) -> batching.Budget:
        edges, nodes = int(neighbors.n_edges.max()), int(structures.n_atoms.max()) + 1
        return batching.Budget(
            max(self.budget.n_edge, grown(edges)),
            max(self.budget.n_node, grown(nodes)),
            self.budget.n_graph,
        )

    @functools.cached_property
    def _predict(self) -> Callable[..., jax.Array]:
        return step.make_predict_step(self.model.apply, self.mesh)

    @functools.cached_property
    def _derivatives(self) -> Callable[..., Derivatives]:
        apply: Any = self.model.apply

        def run(params: step.Params, graph: batching.MolecularGraph) -> Derivatives:
            return with_derivatives(lambda g: apply({"params": params}, g), graph)

        return jax.jit(run)


def grown(size: int) -> int:
    """The next of a few sizes, each a quarter larger than the last: what moves rarely outgrows it.

    >>> grown(100), grown(125), grown(126)
    (100, 125, 156)
    """
    budget = 64
    while budget < size:
        budget += max(budget // 4, 1)
    return budget


def model_of(record: Mapping[str, Any]) -> HDGNN:
    """The network of a checkpoint's record."""
    refuse_older(record)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["model"].items()
    }
    return HDGNN(**fields)


def refuse_older(record: Mapping[str, Any]) -> None:
    """Stops before a record is read that has not what this revision writes into it.

    Raises:
      CheckpointError: where an earlier revision wrote it.
    """
    if "model" not in record:
        raise CheckpointError("an earlier revision wrote this run: train again")


def restore_weights(
    checkpoints: Checkpoints, model: HDGNN, mesh: jax.sharding.Mesh
) -> step.Params:
    """The averaged weights that were best on validation, on every device.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), one_atom(model))["params"]
    placed = step.replicated(mesh)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), shapes
    )
    return checkpoints.restore(like, "best", part=".ema").state


def one_atom(model: HDGNN) -> batching.MolecularGraph:
    """The smallest graph, to get the shapes of weights from."""
    atom = Structures.pack([Structure(np.array(model.elements[:1]), np.zeros((1, 3)))])
    return batching.collate(
        atom,
        neighbors_of(atom, model.cutoff, model.max_neighbors),
        np.zeros(1),
        np.zeros(1, int),
        batching.Budget(n_edge=1, n_node=2, n_graph=2),
    )
