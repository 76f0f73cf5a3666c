"""From a config to data, target and network: what training and evaluation share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from hdgnn_jax.config import check_type, from_section
from hdgnn_jax.data import applicability, baselines, targets
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighborhoods, neighbors_of
from hdgnn_jax.graphs.structure import SYMBOLS
from hdgnn_jax.inference.predictor import Predictor, one_atom
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.training import step
from hdgnn_jax.training.optimizer import make_optimizer
from hdgnn_jax.training.record import Record
from hdgnn_jax.types import Apply, Config, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Examples(Neighborhoods):
    """Structures with their neighbours and the value of one target.

    Attributes:
      values: [n, ...] of the target, as stored; NaN where it is not known.
      forces: [atoms, 3], in the stored unit per Å; None where there are none or their weight is 0.
    """

    values: np.ndarray
    forces: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Examples:
        """Those at `rows`, in that order."""
        few = super().take(rows)
        forces = None if self.forces is None else self.forces[self.structures.atoms_of(rows)]
        return Examples(few.structures, few.neighbors, self.values[rows], forces)

    def first(self, n: int) -> Examples:
        """The first n, or all where there are fewer."""
        return self.take(np.arange(min(n, len(self))))

    def without(
        self, fit: baselines.LinearFit, factor: float, known: np.ndarray | None = None
    ) -> Examples:
        """The same, less what a linear model gives for their geometry.

        Args:
          fit: in the reported unit.
          factor: reported unit per stored unit.
          known: [n] its energies, where they are known already.
        """
        at = self.structures, self.neighbors
        known = fit.energies(*at) if known is None else known
        forces = None if self.forces is None else self.forces - fit.forces(*at) / factor
        return dataclasses.replace(self, values=self.values - known / factor, forces=forces)


@dataclasses.dataclass(frozen=True)
class Task:
    """A target, a data set and a network for them.

    Attributes:
      config: as a nested dict.
      data: where the structures come from.
      target: the property that is predicted.
      model: the network.
      reference: fitted on the training structures.
      baselines: by name, fitted on the training structures too.
      domain: of the training structures.
    """

    config: Config
    data: Dataset
    target: targets.Target
    model: HDGNN
    reference: targets.Reference
    baselines: Mapping[str, baselines.Baseline]
    domain: applicability.Domain

    @classmethod
    def fitted(
        cls, config: Config, data: Dataset, train: Examples
    ) -> tuple[Task, Examples]:
        """Fits reference and baselines to the training structures, and counts their neighbours.

        Returns:
          The task, and the training structures as `to_learn` leaves them.

        Raises:
          InputError: for a bad value in the config.
        """
        elements, head = config["model"]["elements"], head_of(config)
        target = data.target(config["target"])
        if (rank := HEADS[head].rank) != target.rank:
            kinds = ("a number", "a vector", "a tensor")
            raise InputError(
                f"{target.name} is {kinds[target.rank]} and config.head = {head} gives "
                f"{kinds[rank]}: leave it at auto"
            )
        given = data.atoms(target.name)
        if unknown := [SYMBOLS[z] for z in sorted(given) if z not in elements]:
            raise InputError(
                f"there are energies of isolated atoms of {', '.join(unknown)}, which "
                "config.model.elements has not"
            )
        scalars = targets.isotropic_part(train.values * target.factor, target.rank)
        to_beat = data.baselines(train.structures, scalars, elements)
        learned, linear = train, None
        if target.rank == 0:
            at, cutoff = (train.structures, train.neighbors), config["model"]["cutoff"]
            atoms = targets.isolated_atoms(target, elements, train.structures, scalars, given)
            fit, known = baselines.LinearFit.fit(*at, scalars, elements, cutoff, target.size, atoms)
            to_beat["linear"] = fit
            if linear_reference(config):
                linear, learned = fit.linear, train.without(fit, target.factor, known)
        reference = targets.Reference.fit(
            target,
            elements,
            train.structures,
            learned.values,
            kind="fitted" if data.reference == "linear" else data.reference,
            given=given,
            centre=not HEADS[head].about_centre,
            linear=linear,
        )
        some = train.take(np.arange(min(len(train), applicability.SAMPLE)))
        domain = applicability.Domain.of(train.structures, some.neighbors.found())
        mean = train.neighbors.n_edges.sum() / max(len(train.structures.atomic_numbers), 1)
        model = model_of(config, float(mean))
        return cls(config, data, target, model, reference, to_beat, domain), learned

    @classmethod
    def from_record(cls, record: Record) -> Task:
        """The task a checkpoint was trained on."""
        return cls(
            record.config,
            dataset(record.config),
            record.target,
            HDGNN(HyperParameters(**record.model)),
            record.reference,
            record.baselines,
            record.domain,
        )

    def warnings(self, train: Examples) -> list[str]:
        """What the training structures cannot teach."""
        said, unknown = [], []
        if self.target.size == "extensive" and self.data.reference not in ("none", "tabulated"):
            given = self.data.atoms(self.target.name)
            unknown = baselines.undetermined(train.structures, self.model.hyper.elements, given)
        if unknown:
            symbols = ", ".join(SYMBOLS[z] for z in unknown)
            said.append(
                f"the compositions of the training structures do not determine what an atom of "
                f"{symbols} adds to {self.target.name}: it stays near isolated atoms, so do not "
                "compare structures of other compositions"
            )
        return said

    @property
    def note(self) -> str:
        """What has to be known to compare its errors with others."""
        divided = self.data.how_divided(self.target.name)
        return " ".join(filter(None, (divided and f"{divided}.", self.data.note, self.target.note)))

    def examples(self, name: str) -> Examples:
        """A part of the data set; see `examples`."""
        return examples(self.config, self.data, name)

    def predictor(
        self, params: Params, budget: batching.Budget, mesh: jax.sharding.Mesh
    ) -> Predictor:
        """The network with weights."""
        return Predictor(self.model, params, self.reference, self.target, budget, mesh, self.domain)

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

    def to_learn(self, examples: Examples) -> Examples:
        """Less what a linear reference knows of them."""
        fit = self.baselines.get("linear")
        if self.reference.linear is None or not isinstance(fit, baselines.LinearFit):
            return examples
        return examples.without(fit, self.reference.factor)

    def training_targets(self, train: Examples, learned: Examples) -> np.ndarray:
        """[n, ...] what the network learns; [n, 2] with an auxiliary output.

        Args:
          train: the training structures.
          learned: the same as `to_learn` leaves them.
        """
        wanted = self.reference.standardise(train.structures, learned.values)
        if not self.model.hyper.auxiliary:
            return wanted
        of_atoms = self.baselines["composition"].predict(train.structures, train.neighbors)
        left = train.values * self.reference.factor - of_atoms
        return np.stack([wanted, left / left.std()], 1)

    def standardised_forces(self, learned: Examples) -> np.ndarray | None:
        """[atoms, 3] what the network learns of forces `to_learn`, per Å."""
        if learned.forces is None:
            return None
        return learned.forces * (self.reference.factor / self.reference.scale)

    @property
    def forces_weight(self) -> float:
        """Of forces in the loss; 0: they are not trained on."""
        return self.config["training"]["forces_weight"]

    @property
    def apply(self) -> Apply:
        """The network that is trained, with derivatives where forces are trained on."""
        apply: Apply = self.model.apply
        if not self.forces_weight:
            return apply

        def differentiate(
            variables: PyTree, graph: batching.MolecularGraph, **options: PyTree
        ) -> Derivatives:
            return with_derivatives(lambda moved: apply(variables, moved, **options), graph)

        return differentiate

    def init_state(self, mesh: jax.sharding.Mesh, divide: bool = False) -> step.TrainState:
        """The state before the first step, a function of the seed alone; see `step`."""
        key = jax.random.fold_in(jax.random.key(self.config["seed"]), 0)
        params = jax.jit(self.model.init)(key, one_atom(self.model))["params"]
        return step.init_state(params, self.optimizer, mesh, divide)


def check(config: Config) -> None:
    """Refuses a config that no run can use, before any data are read.

    What only the data can tell, such as a training set larger than there is, is found later.

    Raises:
      InputError: naming the field.
    """
    for name, hint in (("target", str), ("seed", int), ("head", str)):
        check_type(f"config.{name}", config.get(name), hint)
    if not 0 <= config["seed"] < 2**32:
        # JAX leaves out what is beyond 32 bits: another seed, the same run.
        raise InputError(f"config.seed must be at least 0 and below 2^32, not {config['seed']}")
    data, head = dataset(config), head_of(config)
    data.target(config["target"])
    model = from_section(config, "model", HyperParameters, head=head)
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


def examples(config: Config, data: Dataset, name: str) -> Examples:
    """A part of the data set that `config.data` describes, checked, with its neighbours.

    Raises:
      InputError: for an unknown target or part, or a training set larger than there is.
      QM9Error, Is2reError, StructureError: for bad data.
    """
    target, model = data.target(config["target"]), config["model"]
    labelled = data.part(name, target.name)
    structures, forces = labelled.structures, labelled.forces
    structures.check(model["elements"], model["tags"])
    if not config["training"]["forces_weight"]:
        forces = None
    elif forces is None and name == "train":
        raise InputError(
            f"{data.title} has no forces of {target.name}: set training.forces_weight to 0"
        )
    neighbors = neighbors_of(structures, model["cutoff"], model["max_neighbors"])
    return Examples(structures, neighbors, labelled.labels[target.name], forces)


def model_of(config: Config, neighbors: float) -> HDGNN:
    """The network that the config describes.

    Args:
      config: nested.
      neighbors: mean number of neighbours of an atom in the training structures.
    """
    auxiliary = config["training"]["auxiliary"] and linear_reference(config)
    hyper: HyperParameters = from_section(
        config, "model", HyperParameters, head=head_of(config), neighbors=neighbors,
        auxiliary=auxiliary, readout=dataset(config).target(config["target"]).readout,
    )  # fmt: skip
    return HDGNN(hyper)


def linear_reference(config: Config) -> bool:
    """Whether the linear model is taken off the target first.

    Of what is no sum over atoms, such as the norm of a dipole moment, no reference ever is.
    """
    return bool(config["data"]["reference"] == "linear" and head_of(config) == "invariant")


def head_of(config: Config) -> Head:
    """The head that the config asks for; `auto` is the one made for the target.

    Raises:
      InputError: where there is none of that name, or no such target.
    """
    head: Any = config["head"]
    if head == "auto":
        return dataset(config).target(config["target"]).head
    if head not in HEADS:
        raise InputError(f"config.head must be auto or one of {', '.join(HEADS)}, not {head!r}")
    return head
