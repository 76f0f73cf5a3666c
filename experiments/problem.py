"""From a config to data, model and devices: what training and evaluation share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from experiments.sets import DataSet, check_type, data_set, from_section
from hdgnn_jax.data import baselines, domain, targets
from hdgnn_jax.errors import InputError
from hdgnn_jax.evaluation import accuracy, liveness, symmetry
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, NeighborSearch, neighbors_of
from hdgnn_jax.graphs.structure import SYMBOLS, Structures
from hdgnn_jax.models import nonfinite
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.predict import one_atom, refuse_older, restore_weights
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import hosts, losses, step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.optimizer import make_optimizer
from hdgnn_jax.training.report import SplitResult, print_table

LOOKED_AT = 16
"""Molecules whose states are looked at."""


@dataclasses.dataclass(frozen=True)
class Molecules:
    """One part of a split.

    Attributes:
      structures, neighbors: the molecules, or slabs, and their edges.
      raw: [n, ...] the target as stored.
      forces: [atoms, 3] the same per Å; None where there are none, or no one asks for them.
    """

    structures: Structures
    neighbors: Neighbors | NeighborSearch
    raw: np.ndarray
    forces: np.ndarray | None = None

    def first(self, n: int) -> Molecules:
        """The first n molecules, or all where there are fewer."""
        rows = np.arange(min(n, len(self.structures)))
        forces = self.forces
        if forces is not None:
            forces = forces[: self.structures.offsets[len(rows)]]
        structures, neighbors = self.structures.take(rows), self.neighbors.take(rows)
        return Molecules(structures, neighbors, self.raw[rows], forces)

    def without(
        self, fit: baselines.LinearFit, factor: float, known: np.ndarray | None = None
    ) -> Molecules:
        """The same, less what a linear model gives for their geometry.

        Args:
          fit: in the reported unit.
          factor: reported unit per stored unit.
          known: [n] its energies, where they are known already.
        """
        at = self.structures, self.neighbors
        known = fit.energies(*at) if known is None else known
        forces = None if self.forces is None else self.forces - fit.forces(*at) / factor
        return dataclasses.replace(self, raw=self.raw - known / factor, forces=forces)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A target, a data set and a model for them.

    Attributes:
      config: as a nested dict.
      reference: fitted on the training molecules, or that of a checkpoint.
      baselines: the same, by name.
      neighbors: mean number of neighbours of an atom in the training molecules.
      domain: of the training molecules.
    """

    config: Mapping[str, Any]
    reference: targets.Reference
    baselines: Mapping[str, baselines.Baseline]
    neighbors: float
    domain: domain.Domain

    @classmethod
    def from_training_set(cls, config: Mapping[str, Any], train: Molecules) -> Problem:
        """Fits reference and baselines, and counts neighbours.

        Raises:
          ValueError: for a bad value in the config.
        """
        return cls.fitted(config, train)[0]

    @classmethod
    def fitted(cls, config: Mapping[str, Any], train: Molecules) -> tuple[Problem, Molecules]:
        """The same, and the training molecules as `to_learn` leaves them.

        Raises:
          ValueError: for a bad value in the config.
        """
        data, elements = data_set(config), config["model"]["elements"]
        target, head = data.target(config["target"]), head_of(config)
        rank = HEADS[head].rank
        if rank != target.rank:
            kinds = ("a number", "a vector", "a tensor")
            raise InputError(
                f"{target.name} is {kinds[target.rank]} and config.head = {head} gives "
                f"{kinds[rank]}: leave it at auto"
            )
        scalars = targets.isotropic_part(train.raw * target.factor, target.rank)
        to_beat = data.baselines(train.structures, scalars, elements)
        learned, linear = train, None
        if target.rank == 0:
            fit, known = baselines.LinearFit.fit(
                train.structures, train.neighbors, scalars, elements, config["model"]["cutoff"]
            )
            to_beat["linear"] = fit
            if linear_reference(config):
                linear = fit.linear
                learned = train.without(fit, target.factor, known)
        reference = targets.Reference.fit(
            target,
            elements,
            train.structures,
            learned.raw,
            kind="fitted" if data.reference == "linear" else data.reference,
            centre=not HEADS[head].about_centre,
            linear=linear,
        )
        mean = train.neighbors.n_edges.sum() / max(len(train.structures.atomic_numbers), 1)
        some = train.neighbors.take(np.arange(min(len(train.structures), domain.SAMPLE))).found()
        seen = domain.Domain.of(train.structures, some)
        return cls(config, reference, to_beat, float(mean), seen), learned

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Problem:
        """The problem a checkpoint was trained on.

        Raises:
          CheckpointError: where an earlier revision wrote it.
        """
        refuse_older(record)
        return cls(
            record["config"],
            targets.Reference.from_dict(record["reference"]),
            {k: baselines.from_dict(content) for k, content in record["baselines"].items()},
            record["neighbors"],
            domain.Domain.from_dict(record["domain"]),
        )

    def record(self) -> dict[str, Any]:
        """What `from_record` needs, and the predictor of the library; JSON-able."""
        hyper_parameters = {
            field.name: getattr(self.model, field.name)
            for field in dataclasses.fields(self.model)
            if field.name not in ("parent", "name")
        }
        return {
            "config": self.config,
            "model": hyper_parameters,
            "target": {"name": self.target.name, "unit": self.target.unit},
            "reference": self.reference.to_dict(),
            "baselines": {k: dataclasses.asdict(b) for k, b in self.baselines.items()},
            "neighbors": self.neighbors,
            "domain": self.domain.to_dict(),
        }

    @functools.cached_property
    def target(self) -> targets.Target:
        """The property that is predicted."""
        return self.data.target(self.config["target"])

    @property
    def note(self) -> str:
        """What has to be known to compare its errors with others."""
        return " ".join(filter(None, (self.data.note, self.target.note)))

    @functools.cached_property
    def data(self) -> DataSet:
        """Where the molecules come from."""
        return data_set(self.config)

    @functools.cached_property
    def model(self) -> HDGNN:
        """The network."""
        return from_section(
            self.config,
            "model",
            HDGNN,
            head=head_of(self.config),
            neighbors=self.neighbors,
            auxiliary=self.config["training"]["auxiliary"] and linear_reference(self.config),
        )

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser."""
        training = self.config["training"]
        return from_section(
            self.config,
            "optimizer",
            make_optimizer,
            steps=training["steps"],
            flat=not training["divide_state"],
        )

    def to_learn(self, molecules: Molecules) -> Molecules:
        """Less what a linear reference knows of them."""
        fit = self.baselines.get("linear")
        if self.reference.linear is None or not isinstance(fit, baselines.LinearFit):
            return molecules
        return molecules.without(fit, self.reference.factor)

    def training_targets(self, train: Molecules, learned: Molecules) -> np.ndarray:
        """[n, ...] what the network learns; [n, 2] with an auxiliary output.

        Args:
          train: the training molecules.
          learned: the same as `to_learn` leaves them.
        """
        targets = self.reference.standardise(train.structures, learned.raw)
        if not self.model.auxiliary:
            return targets
        of_atoms = self.baselines["composition"].predict(train.structures, train.neighbors)
        left = train.raw * self.reference.factor - of_atoms
        return np.stack([targets, left / left.std()], 1)

    def standardised_forces(self, molecules: Molecules) -> np.ndarray | None:
        """[atoms, 3] what the network learns of forces `to_learn`, per Å."""
        if molecules.forces is None:
            return None
        return molecules.forces * (self.reference.factor / self.reference.scale)

    @property
    def forces_weight(self) -> float:
        """Of forces in the loss; 0: they are not trained on."""
        return self.config["training"]["forces_weight"]

    @property
    def apply(self) -> step.Apply:
        """The network that is trained, with derivatives where forces are trained on."""
        return self._with_forces(self.model.apply)

    @property
    def evaluate(self) -> step.Apply:
        """What it predicts: the same with the linear reference added."""
        return self._with_forces(self.reference.completed(self.model.apply))

    def _with_forces(self, apply: step.Apply) -> step.Apply:
        if not self.forces_weight:
            return apply

        def differentiate(
            variables: Any, graph: batching.MolecularGraph, **options: Any
        ) -> Derivatives:
            return with_derivatives(lambda moved: apply(variables, moved, **options), graph)

        return differentiate

    def locate(
        self, state: step.TrainState, batch: batching.MolecularGraph, key: jax.Array
    ) -> str:
        """Where a step's first number arises that is not finite.

        Args:
          state: whose weights the step left as they were.
          batch: of the step, on the devices.
          key: of its frames.
        """
        mesh = batch.n_node.sharding.mesh
        params = jax.device_get(jax.device_put(state.params, step.replicated(mesh)))
        found = None
        for shard in range(len(batch.n_node.addressable_shards)):
            graph = jax.tree.map(
                lambda leaf, k=shard: np.asarray(leaf.addressable_shards[k].data)[0], batch
            )

            def loss(params: step.Params, graph: batching.MolecularGraph = graph) -> jax.Array:
                outputs = self.apply({"params": params}, graph, train=True, rngs={"frame": key})
                return losses.l1(outputs, graph, losses.count(graph), self.forces_weight)

            found = found or nonfinite.locate(self.model, params, graph, key, loss)
        return hosts.first_said(found) or "nothing, where each device's part is computed alone"

    def init_state(self, mesh: jax.sharding.Mesh, divide: bool = False) -> step.TrainState:
        """The state before the first step, a function of the seed alone; see `step`."""
        key = jax.random.fold_in(jax.random.key(self.config["seed"]), 0)
        params = jax.jit(self.model.init)(key, one_atom(self.model))["params"]
        return step.init_state(params, self.optimizer, mesh, divide)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """The model of a problem, compiled once for one shape of batch.

    Attributes:
      problem: what to predict.
      mesh: of devices.
      budget: of each device's batch.
    """

    problem: Problem
    mesh: jax.sharding.Mesh
    budget: batching.Budget

    @classmethod
    def from_record(cls, record: Mapping[str, Any], mesh: jax.sharding.Mesh) -> Predictor:
        """The predictor of a checkpoint."""
        return cls(Problem.from_record(record), mesh, batching.Budget(*record["budget"]))

    def record(self) -> dict[str, Any]:
        """What `from_record` needs, JSON-able."""
        return {**self.problem.record(), "budget": dataclasses.astuple(self.budget)}

    def result(
        self, name: str, molecules: Molecules, params: step.Params, final: bool = True
    ) -> SplitResult:
        """Predictions, truth and baselines in the reported unit.

        Args:
          name: of the molecules.
          molecules: a part of the split.
          params: weights.
          final: whether to show a progress bar, and to hold the baselines beside it.
        """
        problem = self.problem
        structures, target = molecules.structures, problem.target
        with progress_bar("molecules", disable=not final) as progress:
            task = progress.add_task(name, total=len(structures))
            arguments: tuple[Any, ...] = (
                self._step,
                params,
                structures,
                molecules.neighbors,
                self.budget,
                step.sharded(self.mesh),
                lambda n: progress.advance(task, n),
            )
            if molecules.forces is None:
                outputs, of_forces = accuracy.predict(*arguments), None
            else:
                found = accuracy.differentiate(*arguments)
                outputs = np.asarray(found.value)
                truth = molecules.forces * target.factor
                to_beat = {"no forces": np.zeros_like(truth)}
                if final:
                    to_beat |= {
                        k: b.forces(structures, molecules.neighbors)
                        for k, b in problem.baselines.items()
                        if isinstance(b, baselines.LinearFit)
                    }
                of_forces = SplitResult(
                    split=name,
                    ids=np.repeat(structures.ids, structures.n_atoms),
                    truth=truth,
                    prediction=np.asarray(found.forces) * problem.reference.scale,
                    baselines=to_beat,
                )
        return SplitResult(
            split=name,
            ids=structures.ids,
            truth=molecules.raw * target.factor,
            prediction=problem.reference.restore(structures, outputs),
            baselines={
                k: targets.isotropic(b.predict(structures, molecules.neighbors), target.rank)
                for k, b in problem.baselines.items()
                if final
            },
            threshold=target.threshold,
            forces=of_forces,
        )

    def rotation_error(self, molecules: Molecules, params: step.Params, seed: int) -> float:
        """Mean |Q E(x) - E(Qx)| in the reported unit, a random rotation Q for each molecule.

        Of vectors and tensors, of a component; Q E = E of a number.
        """
        rotations = symmetry.random_rotations(len(molecules.structures), seed)
        turned = dataclasses.replace(molecules, structures=molecules.structures.turned(rotations))
        here, there = (self.result("", m, params, final=False) for m in (molecules, turned))
        expected = targets.turned(here.prediction, rotations, self.problem.target.rank)
        return float(np.mean(np.abs(expected - there.prediction)))

    def liveness(self, molecules: Molecules, params: step.Params) -> dict[str, float]:
        """What of the network is alive: see `evaluation.liveness`.

        Args:
          molecules: some; the changes are those of their predictions.
          params: weights.
        """
        model = self.problem.model
        few = molecules.first(LOOKED_AT)
        neighbors = few.neighbors.found()
        budget = batching.Budget(
            int(neighbors.n_edges.sum()), len(few.structures.tags) + 1, len(few.structures) + 1
        )
        graph = batching.collate(
            few.structures, neighbors, few.raw * 0, np.arange(len(few.structures)), budget
        )
        host = jax.device_get(params)
        found = liveness.sizes(model, host, graph)

        def outputs(molecules: Molecules, params: step.Params) -> np.ndarray:
            """Of the network alone, in the reported unit."""
            whole = self.result("", molecules, params, final=False).prediction
            nothing = np.zeros_like(whole)
            known = self.problem.reference.restore(molecules.structures, nothing)
            fit = self.problem.baselines.get("linear")
            if self.problem.reference.linear and isinstance(fit, baselines.LinearFit):
                known = known + fit.energies(molecules.structures, molecules.neighbors)
            return whole - known

        here = outputs(molecules, params)
        spread = max(float(np.std(here)), 1e-12)
        alone = dataclasses.replace(molecules, neighbors=molecules.neighbors.found().none())
        others = {"surroundings": (alone, params)}
        if model.layer_norm and model.rescale and model.degree:
            others["degrees"] = molecules, liveness.without_degrees(model, params)
        for name, arguments in others.items():
            change = float(np.mean(np.abs(outputs(*arguments) - here)))
            found[f"change_without_{name}"] = change / spread
        return found

    @functools.cached_property
    def _step(self) -> Callable[..., jax.Array]:
        return step.make_predict_step(self.problem.evaluate, self.mesh)


def best_params(checkpoints: Checkpoints, problem: Problem, mesh: jax.sharding.Mesh) -> step.Params:
    """The averaged weights that were best on validation.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    return restore_weights(checkpoints, problem.model, mesh)


def best_results(
    checkpoints: Checkpoints, predictor: Predictor, names: Sequence[str], hidden: bool = False
) -> list[SplitResult]:
    """The results, on these parts of the split, of the weights that were best on validation.

    The numbers of a report, whenever they are asked for.

    Args:
      checkpoints: of the run.
      predictor: of the run.
      names: of the parts.
      hidden: whether targets may be missing.

    Raises:
      ValueError: before anything is predicted, for a part that is none or whose targets are hidden.
      CheckpointError: where the weights cannot be restored.
    """
    problem = predictor.problem
    molecules = {name: part(problem.config, name) for name in names}
    for name, found in molecules.items():
        if not hidden and np.isnan(found.raw).any():
            raise InputError(f"the targets of {name} are hidden: use --submission=FILE.npz")
    params = best_params(checkpoints, problem, predictor.mesh)
    return [predictor.result(name, found, params) for name, found in molecules.items()]


def print_results(problem: Problem, results: Sequence[SplitResult]) -> None:
    """The table at the end of training and of evaluation."""
    target, data = problem.target, problem.data
    print_table(
        results, target=target.name, unit=target.unit, paper=data.paper(target), note=problem.note
    )


def check(config: Mapping[str, Any]) -> None:
    """Refuses a config that no run can use, before any data are read.

    What only the data can tell, such as a training set larger than there is, is found later.

    Raises:
      ValueError: naming the field.
    """
    for name, hint in (("target", str), ("seed", int), ("head", str)):
        check_type(f"config.{name}", config.get(name), hint)
    if not 0 <= config["seed"] < 2**32:
        # JAX leaves out what is beyond 32 bits: another seed, the same run.
        raise InputError(f"config.seed must be at least 0 and below 2^32, not {config['seed']}")
    data, head = data_set(config), head_of(config)
    data.target(config["target"])
    model = from_section(config, "model", HDGNN, head=head)
    if data.reference == "linear" and model.max_neighbors is not None:
        raise InputError(
            "config.data.reference = linear needs config.model.max_neighbors = None: it would "
            "jump where neighbours change ranks"
        )
    if config["training"]["auxiliary"] and data.reference != "linear":
        raise InputError("config.training.auxiliary = True needs config.data.reference = linear")
    from_section(config, "optimizer", make_optimizer, steps=config["training"]["steps"])
    for z in model.elements:
        if not 0 < z < len(SYMBOLS):
            raise InputError(f"config.model.elements must be atomic numbers, not {z}")
    # Of the rule for the sphere.
    model.points()


def part(config: Mapping[str, Any], name: str) -> Molecules:
    """A part of the data set, checked, with its neighbours; see `sets`.

    Raises:
      ValueError: for an unknown target or part, or a training set larger than there is.
      QM9Error, Is2reError, StructureError: for bad data.
    """
    data, model = data_set(config), config["model"]
    structures, raw, forces = data.part(name, data.target(config["target"]))
    structures.check(model["elements"], model["tags"])
    if not config["training"]["forces_weight"]:
        forces = None
    elif forces is None:
        raise InputError(
            f"{data.title} has no forces of {config['target']}: set training.forces_weight to 0"
        )
    neighbors = neighbors_of(structures, model["cutoff"], model["max_neighbors"])
    return Molecules(structures, neighbors, raw, forces)


def linear_reference(config: Mapping[str, Any]) -> bool:
    """Whether the linear model is taken off the target first.

    Of what is no sum over atoms, such as the norm of a dipole moment, no reference ever is.
    """
    return bool(config["data"]["reference"] == "linear" and head_of(config) == "invariant")


def head_of(config: Mapping[str, Any]) -> Head:
    """The head that the config asks for; `auto` is the one made for the target.

    Raises:
      ValueError: where there is none of that name, or no such target.
    """
    head: Any = config["head"]
    if head == "auto":
        return data_set(config).target(config["target"]).head
    if head not in HEADS:
        raise InputError(f"config.head must be auto or one of {', '.join(HEADS)}, not {head!r}")
    return head
