"""A trained model in use: structures in, the predicted property and its derivatives out."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hdgnn_jax.data.domain import Domain
from hdgnn_jax.data.targets import NOT_POTENTIALS, POTENTIALS, Reference
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import accuracy
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch, neighbors_of
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.heads import HEADS
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import CheckpointError, Checkpoints

EV = {"meV": 1e-3, "eV": 1.0}
"""Units of targets that are energies, in eV."""


class PredictorError(InputError):
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
      domain: what it was trained on; None: not known.
    """

    model: HDGNN
    params: step.Params
    reference: Reference
    target: str
    unit: str
    budget: batching.Budget
    mesh: jax.sharding.Mesh
    domain: Domain | None = None

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
        found = cls(
            model,
            params,
            Reference.from_dict(record["reference"]),
            record["target"]["name"],
            record["target"]["unit"],
            batching.Budget(*record["budget"]),
            mesh,
            Domain.from_dict(record["domain"]),
        )
        return found if evaluation_frame is None else found.averaged(evaluation_frame)

    def averaged(self, frames: int) -> Predictor:
        """The same, of the mean over so many rolls of the edge frames."""
        return dataclasses.replace(self, model=self.model.clone(evaluation_frame=frames))

    def __call__(
        self, structures: Structures, advance: Callable[[int], object] = lambda n: None
    ) -> np.ndarray:
        """[n, ...] predictions, in `unit`.

        Args:
          structures: in any order and of any size.
          advance: told the number of structures after each batch (a progress bar).

        Raises:
          StructureError: naming the first that the model cannot use.
        """
        outputs = accuracy.predict(self._predict, *self._batches(structures, advance))
        return self.reference.restore(structures, outputs)

    def of_rolls(
        self,
        structures: Structures,
        n: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> np.ndarray:
        """[n rolls, n, ...] predictions in edge frames rolled by n equal steps of a turn.

        The roll is an arbitrary choice, so their spread is the least that a prediction is uncertain
        by; their mean is the prediction of `evaluation_frame` = n. Args and errors: of a call.
        """
        outputs = accuracy.predict(self._of_rolls(n), *self._batches(structures, advance))
        return np.stack(
            [self.reference.restore(structures, outputs[:, k]) for k in range(n)]
        )

    def derivatives(
        self, structures: Structures, advance: Callable[[int], object] = lambda n: None
    ) -> Derivatives:
        """Energies in eV [n], forces [atoms, 3] in eV/Å, and virials [n, 3, 3] in eV.

        Args and errors: of a call.

        Raises:
          PredictorError: where the target is no energy that atoms move in.
        """
        ev = self.energy_unit()
        found = accuracy.differentiate(self._differentiate, *self._batches(structures, advance))
        slope = self.reference.scale * ev
        return Derivatives(
            self.reference.restore(structures, np.asarray(found.value)) * ev,
            found.forces * slope,
            found.virial * slope,
        )

    @property
    def apply(self) -> step.Apply:
        """(variables, graph) -> [G, ...] standardised: network and linear reference."""
        return self.reference.completed(self.model.apply)

    def check(self, structures: Structures) -> None:
        """Refuses what the model cannot use.

        Raises:
          StructureError: naming the first.
        """
        structures.check(self.model.elements, self.model.tags)
        periodic = structures.periodic.any(1)
        if HEADS[self.model.head].about_centre and periodic.any():
            name = structures.name(int(np.argmax(periodic)))
            raise StructureError(
                f"is periodic: it has no centre to count {self.target} from", name
            )

    def reason_against(self, structure: Structure) -> str | None:
        """Why the model cannot use a structure; None where it can."""
        try:
            packed = Structures.pack([structure])
            self.check(packed)
            self.neighbors(packed).found()
        except StructureError as error:
            return error.reason
        return None

    def warnings(self, structures: Structures) -> list[str]:
        """[n] how each structure leaves what the model was trained on; empty where it does not."""
        if self.domain is None:
            return [""] * len(structures)
        return self.domain.warnings(structures, self.neighbors(structures).found())

    def energy_unit(self) -> float:
        """The target's unit, in eV.

        Raises:
          PredictorError: where the target is no energy that atoms move in.
        """
        if not self.has_forces:
            why = NOT_POTENTIALS.get(self.target, "is no energy that atoms move in")
            raise PredictorError(f"{self.target} {why}: it has no forces")
        return EV[self.unit]

    @property
    def has_forces(self) -> bool:
        """Whether the target is an energy that atoms move in."""
        return self.target in POTENTIALS

    @property
    def compilations(self) -> int:
        """Shapes that `derivatives` was compiled for."""
        return step.compilations(self._differentiate)

    def neighbors(self, structures: Structures) -> Neighbors | NeighborSearch:
        """Within the model's cutoff and limit."""
        return neighbors_of(structures, self.model.cutoff, self.model.max_neighbors)

    def _batches(
        self, structures: Structures, advance: Callable[[int], object]
    ) -> tuple[Any, ...]:
        """What `accuracy` needs to go through structures.

        Raises:
          StructureError: naming the first that the model cannot use.
        """
        self.check(structures)
        neighbors = self.neighbors(structures)
        if len(structures) == 1:
            # Small, and its true size: atoms that move one by one are worth a shape of their own.
            neighbors = neighbors.found()
            edges, nodes = int(neighbors.n_edges[0]), int(structures.n_atoms[0]) + 1
            budget = batching.Budget(grown(edges), grown(nodes), 2)
        else:
            edges, nodes = int(neighbors.n_edges.max()), int(structures.n_atoms.max()) + 1
            budget = batching.Budget(
                max(self.budget.n_edge, grown(edges)),
                max(self.budget.n_node, grown(nodes)),
                self.budget.n_graph,
            )
        return self.params, structures, neighbors, budget, step.sharded(self.mesh), advance

    @functools.cached_property
    def _predict(self) -> Callable[..., jax.Array]:
        return step.make_predict_step(self.apply, self.mesh)

    @functools.cached_property
    def _differentiate(self) -> Callable[..., Derivatives]:
        apply = self.apply

        def differentiate(variables: Any, graph: batching.MolecularGraph) -> Derivatives:
            return with_derivatives(lambda moved: apply(variables, moved), graph)

        return step.make_predict_step(differentiate, self.mesh)

    @functools.cached_property
    def _of_rolls(self) -> Callable[[int], Callable[..., jax.Array]]:
        @functools.cache
        def compiled(n: int) -> Callable[..., jax.Array]:
            def of_rolls(variables: Any, graph: batching.MolecularGraph) -> Any:
                rolls = self.apply(variables, graph, n, method="of_rolls")
                return jax.numpy.moveaxis(rolls, 0, 1)

            return step.make_predict_step(of_rolls, self.mesh)

        return compiled


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
    if "domain" not in record:
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


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A property of several structures, by one or more models.

    Attributes:
      unit: of both.
      value: [n, ...] mean over models and rolls.
      spread: [n, ...] standard deviation over them; None where there is but one.
      of: how many of each the spread is over, in words.
    """

    unit: str
    value: np.ndarray
    spread: np.ndarray | None
    of: str


def predict_all(
    predictors: Sequence[Predictor],
    structures: Structures,
    rolls: int = 1,
    advance: Callable[[int], object] = lambda n: None,
) -> dict[str, Prediction]:
    """Predictions by property: models of one property are an ensemble.

    Args:
      predictors: any.
      structures: that all of them can use.
      rolls: more than 1: mean and spread over so many rolls of the edge frames too, instead of the
        model's own evaluation frames.
      advance: told the number of structures after each batch of each model.

    Raises:
      StructureError: naming the first structure that a model cannot use.
      PredictorError: where models of one property differ in unit.
    """
    of_target: dict[str, list[Predictor]] = {}
    for predictor in predictors:
        of_target.setdefault(predictor.target, []).append(predictor)
    found = {}
    for target, members in of_target.items():
        units = {member.unit for member in members}
        if len(units) > 1:
            raise PredictorError(f"models of {target} in {' and '.join(sorted(units))} do not mix")
        values = np.concatenate([
            member(structures, advance)[None] if rolls == 1
            else member.of_rolls(structures, rolls, advance)
            for member in members
        ])  # fmt: skip
        counts = {"models": len(members), "rolls": rolls}
        found[target] = Prediction(
            members[0].unit,
            values.mean(0),
            values.std(0) if len(values) > 1 else None,
            " x ".join(f"{n} {name}" for name, n in counts.items() if n > 1),
        )
    return found
