"""A trained model in use: structures in, the predicted property and its derivatives out."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import numpy as np

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.fitted import (
    FittedTarget,
    completed,
    energy_column,
    names_of,
    potential,
    values_of,
)
from hdgnn_jax.data.targets import NOT_POTENTIALS, OF_IS2RE
from hdgnn_jax.data.units import ENERGIES
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import NO_FORCES, Neighborhoods, search_neighbors
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference import batches
from hdgnn_jax.inference.batches import Batches
from hdgnn_jax.inference.programs import Programs
from hdgnn_jax.inference.weights import SHIPPED, load, network
from hdgnn_jax.models.forces import Derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.heads import HEADS
from hdgnn_jax.models.repulsion import Repulsion
from hdgnn_jax.training import step
from hdgnn_jax.training.record import from_smiles
from hdgnn_jax.types import Apply, Json, Params

Advance: TypeAlias = Callable[[int], object]
UNTRAINED_FORCES = "forces of a model trained on energies alone"


class PredictorError(InputError):
    """A model that cannot do what is asked of it; the message says why."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights, which predicts numbers with units.

    It takes `Structures`, or `Neighborhoods` where the neighbours are known already (`prepare` and
    `usable` find them).

    Attributes:
      model: the network.
      params: its weights.
      fitted: the properties, each with its reference.
      budget: shape of a batch, of each device; larger where a structure needs it.
      mesh: devices.
      domain: the domain of its training structures; None: unknown.
      trained_on_forces: whether forces were part of the training; True where unknown.
      from_smiles: whether training had positions that RDKit made from SMILES.
      repulsive: whether atoms that come nearer than in training repel each other; see `repulsion`.
      errors: mean absolute errors on validation, by target, in its unit; empty: unknown.
    """

    model: HDGNN
    params: Params
    fitted: tuple[FittedTarget, ...]
    budget: batching.Budget
    mesh: jax.sharding.Mesh
    domain: Domain | None = None
    trained_on_forces: bool = True
    from_smiles: bool = False
    repulsive: bool = True
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike[str] | None = None,
        evaluation_frame: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Predictor:
        """Loads the weights of a run that were best on validation.

        Args:
          workdir: folder of the run, or a file of `weights.pack`; None: the weights that come with
            the package, of QM9's twelve targets (`weights.SHIPPED_SMILES` are those for SMILES).
          evaluation_frame: rolls of the edge frames to average over; None: as in training.
          mesh: devices; None: all.

        Raises:
          CheckpointError: where they cannot be restored.
        """
        mesh = step.make_mesh() if mesh is None else mesh
        record, params = load(workdir or SHIPPED, mesh)
        found = cls(
            network(record), params, record.fitted, record.budget, mesh, record.domain,
            record.trained_on_forces, from_smiles(record.config), errors=record.errors,
        )  # fmt: skip
        return found if evaluation_frame is None else found.averaged(evaluation_frame)

    def averaged(self, frames: int) -> Predictor:
        """A predictor of the mean over `frames` rolls of the edge frames.

        Raises:
          PredictorError: for several rolls of a model that does not depend on them, or less than 1.
        """
        if type(frames) is not int or frames < 1:
            raise PredictorError(f"evaluation_frame must be a whole number above 0, not {frames!r}")
        self._refuse_rolls(frames)
        return dataclasses.replace(self, model=self.model.changed(evaluation_frame=frames))

    def in_float64(self) -> Predictor:
        """A predictor in float64, for small differences as in vibrations; it is slower."""
        with batches.in_precision(np.float64):
            weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.params)
            placed = jax.device_put(weights, step.replicated(self.mesh))
        return dataclasses.replace(self, params=placed)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of the weights, in which everything is computed."""
        weight: np.ndarray = jax.tree.leaves(self.params)[0]
        return weight.dtype

    def __deepcopy__(self, memo: object) -> Predictor:
        """The predictor itself, with its compiled programs: it never changes."""
        return self

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[object, ...]]:
        """Pickles the weights on the host, without programs; the reader has its own devices."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["mesh"]
        fields |= {"model": self.model.hyper, "params": jax.device_get(self.params)}
        return _unpickled, (fields,)

    def with_params(self, params: Params) -> Predictor:
        """A predictor with other weights; the compiled programs serve both."""
        other = dataclasses.replace(self, params=params)
        other.__dict__["programs"] = self.programs
        return other

    def prepare(self, structures: Structures) -> Neighborhoods:
        """The structures with their neighbours, as the model sees them.

        Raises:
          StructureError: naming the first structure that the model cannot use.
        """
        graphs, reasons = self.usable(structures)
        structures.refuse(reasons)
        return graphs

    @property
    def needs_tags(self) -> bool:
        """Whether structures must have tags: all of IS2RE do, and tags say what a surface is."""
        model = self.model.hyper
        of_is2re = any(one.name in OF_IS2RE for one in self.fitted)
        return model.tags and (of_is2re or model.neighborhood == "surface")

    def usable(self, structures: Structures) -> tuple[Neighborhoods, dict[int, str]]:
        """Structures that the model can use, with neighbours; for the others, index to reason.

        Raises:
          InputError: for what are no `Structures`.
        """
        if not isinstance(structures, Structures):
            raise InputError(
                "a model predicts Structures; of ASE's Atoms: Structures.pack(map(structure_of, "
                "list_of_atoms)), with structure_of from hdgnn_jax.data.ase_files"
            )
        model = self.model.hyper
        reasons = structures.reasons_against(model.elements, model.tags)
        if self.needs_tags:
            reasons = structures.untagged() | reasons
        if centred := [one.name for one in self.fitted if HEADS[one.head].about_centre]:
            for k in np.flatnonzero(structures.periodic.any(1)).tolist():
                reason = (
                    f"is periodic: it has no centre to count {', '.join(centred)} from; a molecule "
                    'in a box needs no cell (pbc="F F F")'
                )
                reasons.setdefault(k, reason)
        kept = np.array([k for k in range(len(structures)) if k not in reasons], int)
        some = structures.take(kept) if reasons else structures
        neighbors, more = search_neighbors(
            some, model.cutoff, model.max_neighbors, model.neighborhood
        )
        graphs = Neighborhoods(some, neighbors)
        if more:
            reasons |= {int(kept[k]): reason for k, reason in more.items()}
            graphs = graphs.take(np.setdiff1d(np.arange(len(some)), list(more)))
        return graphs, dict(sorted(reasons.items()))

    def __call__(
        self, structures: Structures | Neighborhoods, advance: Advance = batches.nobody
    ) -> dict[str, np.ndarray]:
        """Predictions [n, ...] by target, in its unit.

        Args:
          structures: in any order and of any size.
          advance: told the number of structures after each batch (a progress bar).

        Raises:
          StructureError: naming the first structure that the model cannot use.
        """
        of = self._batches(structures, advance)
        # Compilation takes most of the time that one structure takes.
        program = self.programs.predict_one if len(of.graphs) == 1 else self.programs.predict
        outputs = batches.predict(program, self.params, of)
        return values_of(self.fitted, of.graphs.structures, outputs)

    def of_rolls(
        self,
        structures: Structures | Neighborhoods,
        n: int,
        advance: Advance = batches.nobody,
    ) -> dict[str, np.ndarray]:
        """Predictions [n, structures, ...] by target, for n equally spaced rolls of edge frames.

        The roll is an arbitrary choice, so the spread is a lower bound of the uncertainty; the mean
        is the prediction of `evaluation_frame` = n. Arguments and errors are those of a call.

        Raises:
          PredictorError: for more than one roll of a model that does not depend on rolls.
        """
        self._refuse_rolls(n)
        of = self._batches(structures, advance)
        outputs = batches.predict(self.programs.of_rolls(n), self.params, of)
        each = [values_of(self.fitted, of.graphs.structures, outputs[:, k]) for k in range(n)]
        return {name: np.stack([roll[name] for roll in each]) for name in each[0]}

    def slopes(
        self, structures: Structures | Neighborhoods, advance: Advance = batches.nobody
    ) -> tuple[dict[str, np.ndarray], Derivatives]:
        """Predictions [n, ...] by target, and the potential energy with its derivatives.

        The energy [n], -d/dx [atoms, 3] and d/dstrain [n, 3, 3] are in the energy's unit. Arguments
        and errors are those of a call.

        Raises:
          PredictorError: as `energy` does.
        """
        energy = self.energy()
        of = self._batches(structures, advance)
        found = batches.differentiate(self.programs.differentiate, self.params, of)
        scale = energy.reference.scale
        values = values_of(self.fitted, of.graphs.structures, np.asarray(found.value))
        return values, Derivatives(values[energy.name], found.forces * scale, found.virial * scale)

    def derivatives(
        self, structures: Structures | Neighborhoods, advance: Advance = batches.nobody
    ) -> Derivatives:
        """Energies in eV [n], forces [atoms, 3] in eV/Å, and virials [n, 3, 3] in eV.

        Arguments and errors are those of a call.

        Raises:
          PredictorError: as `energy` does.
        """
        ev = self.energy_unit()
        return Derivatives(*(values * ev for values in self.slopes(structures, advance)[1]))

    @property
    def apply(self) -> Apply:
        """(variables, graph, ...) -> [G, F] standardised: network, linear references, repulsion."""
        return self._completed(self.model)

    def _completed(self, model: HDGNN) -> Apply:
        return completed(model.apply, self.fitted, self.repulsion)

    @property
    def repulsion(self) -> Repulsion | None:
        """The repulsion of atoms that are nearer than any two of their elements in training.

        None: the model has no forces, its domain is unknown, or repulsion is switched off.
        """
        if self.domain is None or not (self.repulsive and self.has_forces):
            return None
        elements, cutoff = self.model.hyper.elements, self.model.hyper.cutoff
        reach = np.minimum(self.domain.reach(elements), cutoff)
        return Repulsion(elements, tuple(map(tuple, reach.tolist())), 1 / self.energy_unit())

    @functools.cached_property
    def programs(self) -> Programs:
        """The compiled programs."""
        # Without an energy nothing is differentiated.
        energy = energy_column(self.fitted) if self.has_forces else 0
        in_loop = HDGNN(self.model.hyper, loop=True)
        return Programs(self._completed(in_loop), self.apply, self.mesh, energy)

    def warnings(self, graphs: Neighborhoods) -> list[str]:
        """[n] `rare_sizes` and `doubts` of each structure as one text; empty without any."""
        both = zip(self.rare_sizes(graphs), self.doubts(graphs), strict=True)
        return ["; ".join([rare] * bool(rare) + doubts) for rare, doubts in both]

    def rare_sizes(self, graphs: Neighborhoods) -> list[str]:
        """[n] a sentence on each molecule as small as few in training; see `Domain.rare_sizes`."""
        if self.domain is None:
            return [""] * len(graphs)
        return self.domain.rare_sizes(graphs.structures)

    def doubts(self, graphs: Neighborhoods) -> list[list[str]]:
        """[n] the ways in which each structure leaves what the model was trained on.

        Args:
          graphs: from `prepare`.
        """
        if self.domain is None:
            return [[] for _ in range(len(graphs))]
        return self.domain.doubts(graphs.structures, graphs.neighbors.found())

    def doubts_of_forces(self) -> list[str]:
        """Reasons why forces, and what moves by them, are doubtful for any structure."""
        return [] if self.trained_on_forces else [UNTRAINED_FORCES]

    def energy(self) -> FittedTarget:
        """The target that is the potential energy of the atoms.

        Raises:
          PredictorError: where the model predicts none, sees bonds, or learned from SMILES.
        """
        found = potential(self.fitted)
        if found is None:
            name = self.fitted[0].name
            why = NOT_POTENTIALS.get(name, "is no potential energy")
            if len(self.fitted) > 1:
                name, why = names_of(self.fitted), "are no potential energies"
            raise PredictorError(f"{name} {why}: it has no forces")
        if self.from_smiles:
            raise PredictorError(
                f"{found.name} has no forces: the model learned energies of relaxed molecules from "
                "other positions, which RDKit made"
            )
        if missing := NO_FORCES.get(self.model.hyper.neighborhood):
            raise PredictorError(
                f"{found.name} has no forces with this model's neighbours: {missing}"
            )
        return found

    def energy_unit(self) -> float:
        """The unit of the potential energy, in eV; raises as `energy` does."""
        return ENERGIES[self.energy().target.unit]

    @property
    def has_forces(self) -> bool:
        """Whether the model predicts a potential energy, so that `energy` raises no error."""
        found = None if self.from_smiles else potential(self.fitted)
        return found is not None and self.model.hyper.neighborhood not in NO_FORCES

    @property
    def compilations(self) -> int:
        """Number of shapes for which `derivatives` was compiled."""
        return step.compilations(self.programs.differentiate)

    def _refuse_rolls(self, n: int) -> None:
        hyper = self.model.hyper
        if n > 1 and not hyper.sees_rolls:
            raise PredictorError(
                f"the model (pathway = {hyper.pathway}) does not depend on the roll of the edges' "
                f"frames: {n} rolls would give {n} times the same"
            )

    def _batches(self, structures: Structures | Neighborhoods, advance: Advance) -> Batches:
        graphs = structures if isinstance(structures, Neighborhoods) else self.prepare(structures)
        if not len(graphs):
            raise PredictorError("there is no structure to predict")
        edges, nodes = graphs.neighbors.n_edges.max(), graphs.structures.n_atoms.max() + 1
        if len(graphs) == 1:
            # Atoms that move in many calls are worth a small shape of their own.
            budget = batching.Budget(grown(edges), grown(nodes), 2)
        else:
            own = self.budget
            budget = batching.Budget(
                own.n_edge if edges <= own.n_edge else grown(edges),
                own.n_node if nodes <= own.n_node else grown(nodes),
                own.n_graph,
            )
        return Batches(graphs, budget, step.sharded(self.mesh), advance, self.dtype)


def _unpickled(fields: Json) -> Predictor:
    mesh, params = step.make_mesh(), fields["params"]
    with batches.in_precision(jax.tree.leaves(params)[0].dtype):
        placed = jax.device_put(params, step.replicated(mesh))
    return Predictor(**{**fields, "model": HDGNN(fields["model"]), "params": placed, "mesh": mesh})


def grown(size: int) -> int:
    """The next of a few sizes, each a quarter larger than the last: moving atoms rarely outgrow it.

    >>> grown(100), grown(125), grown(126)
    (100, 125, 156)
    """
    budget = 64
    while budget < size:
        budget += max(budget // 4, 1)
    return budget
