"""From a config to data, target and network: what training and evaluation share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import get_args

import jax
import numpy as np
import optax

from hdgnn_jax.config import check_type, from_section
from hdgnn_jax.data import applicability, baselines, plausible
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import FittedTarget, energy_column, potential
from hdgnn_jax.data.labelled import merged
from hdgnn_jax.data.targets import ReferenceKind
from hdgnn_jax.data.units import ENERGIES
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import NO_FORCES, neighbors_of
from hdgnn_jax.graphs.structure import SYMBOLS, StructureError
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import initial, network, shapes
from hdgnn_jax.models import heads
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.run.chosen import auxiliary, fit_targets, has_reference, head_of, targets_of
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.run.pretrained import Pretrained
from hdgnn_jax.training import step
from hdgnn_jax.training.losses import Weights
from hdgnn_jax.training.optimizer import make_optimizer, with_own_rates
from hdgnn_jax.training.record import Record, from_smiles
from hdgnn_jax.types import Apply, Config, Params, PyTree

EXACT = 1e-12
"""What a reference leaves of values is rounding below this fraction of their size."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Targets, a data set and a network for them.

    Attributes:
      config: as a nested dict.
      data: where the structures come from.
      fitted: the properties that are predicted, with their references and baselines.
      model: the network: a head for each of them, then the auxiliary ones.
      domain: domain of the training structures.
    """

    config: Config
    data: Dataset
    fitted: tuple[FittedTarget, ...]
    model: HDGNN
    domain: applicability.Domain

    @classmethod
    def prepare(
        cls, config: Config, data: Dataset, train: Examples, source: Pretrained | None = None
    ) -> tuple[Task, Examples]:
        """Fits references and baselines to the training structures, and counts their neighbours.

        Args:
          config, data: of the run.
          train: its training structures.
          source: the run whose weights it starts from.

        Returns:
          The task, and the training structures as `to_learn` leaves them.

        Raises:
          InputError: for a bad value in the config, or where nothing is left to learn.
        """
        fitted, known = fit_targets(config, data, train)
        _refuse_exact(config, fitted, train)
        some = train.first(applicability.SAMPLE)
        domain = applicability.Domain.of(train.structures, some.neighbors.found())
        mean = train.neighbors.n_edges.sum() / max(len(train.structures.atomic_numbers), 1)
        if source is not None:
            mean = network(source.record).hyper.neighbors
        task = cls(config, data, fitted, model_of(config, float(mean)), domain)
        return task, train.without_linear(fitted, known)

    @classmethod
    def of_run(
        cls,
        config: Config,
        data: Dataset,
        train: Examples,
        source: Pretrained | None,
        record: Record | None,
    ) -> tuple[Task, Examples]:
        """As `prepare`; if the run has a record, its fits are taken over."""
        if record is None:
            return cls.prepare(config, data, train, source)
        # On another machine the same fit can end in other digits.
        task = dataclasses.replace(cls.from_record(record), config=config, data=data)
        return task, task.to_learn(train)

    @classmethod
    def from_record(cls, record: Record) -> Task:
        """The task a checkpoint was trained on."""
        return cls(
            record.config,
            dataset(record.config),
            record.fitted,
            network(record),
            record.domain,
        )

    def warnings(self, train: Examples) -> list[str]:
        """Lines on what the training structures do not determine, and on other parts' methods."""
        said: dict[str, list[str]] = {}
        for one in self.fitted:
            if one.target.size == "extensive" and self.data.reference not in ("none", "tabulated"):
                given, elements = self.data.atoms(one.name), self.model.hyper.elements
                if unknown := baselines.undetermined(train.structures, elements, given):
                    symbols = ", ".join(SYMBOLS[z] for z in unknown)
                    said.setdefault(symbols, []).append(one.name)
        return [
            f"the compositions of the training structures do not determine what an atom of "
            f"{symbols} adds to {', '.join(names)}: it stays near isolated atoms, so do not "
            "compare structures of other compositions"
            for symbols, names in said.items()
        ] + self._of_other_parts(train)

    def _of_other_parts(self, train: Examples) -> list[str]:
        """Lines on parts of a user's data whose energies look like those of another method."""
        said = []
        for one in self.fitted:
            name, unit = one.name, ENERGIES.get(one.target.unit)
            if unit is None or one.target.rank or not self.data.how_divided(name):
                continue
            factor = unit * one.target.factor
            known = train.structures, train.labels[name] * factor
            for part in self.data.reported:
                other = self.data.part(part, name)
                apart = plausible.apart(*known, other.structures, other.labels[name] * factor)
                if abs(apart) > plausible.OF_METHODS:
                    said.append(
                        f"{name} of {part} is {apart:+.3g} eV an atom from that of training for "
                        "the same elements: are both of one method?"
                    )
        return said

    @property
    def note(self) -> str:
        """Caveats of a comparison with errors of others."""
        divided = self.data.how_divided(self.fitted[0].name)
        own = [one.target.note for one in self.fitted]
        return " ".join(filter(None, [divided and f"{divided}.", self.data.note, *own]))

    def examples(self, name: str) -> Examples:
        """A part of the data set; see `examples`."""
        return examples(self.config, self.data, name)

    def predictor(
        self, params: Params, budget: batching.Budget, mesh: jax.sharding.Mesh
    ) -> Predictor:
        """The network with weights."""
        return Predictor(
            self.model, params, self.fitted, budget, mesh, self.domain,
            from_smiles=from_smiles(self.config),
        )  # fmt: skip

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser."""
        return self._optimizer(None)

    def _optimizer(self, rates: Params | None) -> optax.GradientTransformation:
        training = self.config["training"]
        optimizer = from_section(
            self.config,
            "optimizer",
            make_optimizer,
            steps=training["steps"],
            flat=not training["divide_state"],
        )
        return optimizer if self.config["init"] is None else with_own_rates(optimizer, rates)

    def to_learn(self, examples: Examples) -> Examples:
        """The examples, less the parts from geometry of linear references."""
        return examples.without_linear(self.fitted, {})

    def training_targets(self, train: Examples, learned: Examples) -> np.ndarray:
        """[n, F] the values that the network's outputs learn; NaN where unknown.

        Args:
          train: the training structures.
          learned: `to_learn` of these structures.
        """
        structures, columns = train.structures, []
        for one in self.fitted:
            wanted = one.reference.standardise(structures, learned.labels[one.name])
            columns.append(wanted.reshape(len(train), -1))
        for one in auxiliary(self.config, self.fitted):
            fit = one.baselines["composition"]
            assert isinstance(fit, baselines.Composition)
            left = train.labels[one.name] * one.target.factor - fit.predict(structures)
            columns.append((left / np.nanstd(left))[:, None])
        return np.concatenate(columns, 1)

    def standardised_slopes(
        self, learned: Examples
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Standardised forces [atoms, 3], per Å, and virials [n, 3, 3] of `to_learn`.

        Virials are NaN where unknown; None: they are not trained on.
        """
        if (one := potential(self.fitted)) is None:
            return None, None
        factor, given = one.target.factor / one.reference.scale, (learned.forces, learned.virials)
        forces, virials = (None if slopes is None else slopes * factor for slopes in given)
        return forces, virials

    @property
    def weights(self) -> Weights:
        """The weights of errors in the loss."""
        training = self.config["training"]
        learned = (*self.fitted, *auxiliary(self.config, self.fitted))
        of_outputs = heads.shares(self.model.hyper.heads, [one.name for one in learned])
        return Weights(of_outputs, training["forces_weight"], training["stress_weight"])

    @property
    def apply(self) -> Apply:
        """The network that is trained, with derivatives where they are trained on."""
        apply: Apply = self.model.apply
        if not self.weights.of_slopes:
            return apply
        column = energy_column(self.fitted)

        def differentiate(
            variables: PyTree, graph: batching.MolecularGraph, **options: PyTree
        ) -> Derivatives:
            return with_derivatives(
                lambda moved: apply(variables, moved, **options), graph, column
            )

        return differentiate

    def init_state(
        self, mesh: jax.sharding.Mesh, divide: bool = False, source: Pretrained | None = None
    ) -> step.TrainState:
        """The state before the first step, a function of the seed and the source; see `step`."""
        key = jax.random.fold_in(jax.random.key(self.config["seed"]), 0)
        params = jax.jit(initial(self.model), compiler_options=step.for_one_run(mesh))(key)
        if source is None:
            return step.init_state(params, self.optimizer, mesh, divide)
        start, rates = source.start(params, self.config, self.fitted, self.model.hyper)
        return step.init_state(start, self._optimizer(rates), mesh, divide)

    def state_shapes(self, mesh: jax.sharding.Mesh, divide: bool = False) -> step.TrainState:
        """The shapes of `init_state`, of which nothing is computed."""
        state: step.TrainState = jax.eval_shape(
            lambda params: step.init_state(params, self.optimizer, mesh, divide),
            shapes(self.model),
        )
        return state


def _refuse_exact(config: Config, fitted: Sequence[FittedTarget], train: Examples) -> None:
    """Refuses targets of which references leave nothing but rounding."""
    twice = auxiliary(config, fitted)
    for one in fitted:
        rows = train.labelled(one.name)
        values = train.labels[one.name][rows] * one.target.factor
        left = one.reference.scale
        fit = one.baselines.get("composition")
        if one in twice and isinstance(fit, baselines.Composition):
            left = min(left, np.std(values - fit.predict(train.structures.take(rows))))
        if left <= EXACT * np.sqrt(np.mean(values**2)):
            raise InputError(
                f"a reference gives {one.name} of all training structures ({len(rows):,}) exactly, "
                "so nothing is left to learn: train on more structures, or set "
                "config.data.reference to none"
            )


def check(config: Config) -> None:
    """Refuses a config that no run can use, before any data are read.

    Errors that only the data show, such as a training set larger than there is, are found later.

    Raises:
      InputError: naming the field.
    """
    if "init" not in config:
        raise InputError("config.init is missing: None lets the run start from new weights")
    for name, hint in (("target", str), ("seed", int), ("head", str), ("init", str | None)):
        check_type(f"config.{name}", config.get(name), hint)
    if not 0 <= config["seed"] < 2**32:
        # JAX ignores bits beyond 32: another seed would give the same run.
        raise InputError(f"config.seed must be at least 0 and below 2^32, not {config['seed']}")
    data, chosen = dataset(config), targets_of(config)
    model = from_section(
        config, "model", HyperParameters, heads=tuple(head_of(config, one) for one in chosen)
    )
    if model.neighborhood != "cutoff":
        _check_partial(config, NO_FORCES[model.neighborhood])
    if data.reference not in (None, *get_args(ReferenceKind)):
        kinds = ", ".join(get_args(ReferenceKind))
        raise InputError(f"config.data.reference must be one of {kinds}, not {data.reference!r}")
    if data.reference == "linear" and model.max_neighbors is not None:
        raise InputError(
            "config.data.reference = linear needs config.model.max_neighbors = None: it would "
            "jump where neighbours change ranks"
        )
    if config["training"]["auxiliary"] and data.reference != "linear":
        raise InputError("config.training.auxiliary = True needs config.data.reference = linear")
    if config["init"] is None:
        for name, usual in (("init_rate", 1), ("frozen_layers", 0)):
            if config["training"][name] != usual:
                raise InputError(f"config.training.{name} needs config.init, a run to start from")
    if config["training"]["frozen_layers"] > model.layers:
        raise InputError(
            f"config.training.frozen_layers = {config['training']['frozen_layers']} is more than "
            f"config.model.layers = {model.layers}"
        )
    from_section(config, "optimizer", make_optimizer, steps=config["training"]["steps"])
    for z in model.elements:
        if not 0 < z < len(SYMBOLS):
            raise InputError(f"config.model.elements must be atomic numbers, not {z}")
    # Checks the rule for the sphere.
    model.points()


def _check_partial(config: Config, no_forces: str) -> None:
    """Refuses settings that a network that does not see all pairs within its cutoff cannot have."""
    for name in ("forces_weight", "stress_weight"):
        if config["training"][name]:
            raise InputError(
                f"config.training.{name} needs config.model.neighborhood = cutoff: {no_forces}"
            )
    for one in targets_of(config):
        if has_reference(config, one):
            raise InputError(
                f"config.data.reference = linear for {one.name} needs config.model.neighborhood = "
                "cutoff: it sees pairs that the network does not see. Take another reference, and "
                "config.training.auxiliary = False"
            )


def model_of(config: Config, neighbors: float) -> HDGNN:
    """The network that the config describes.

    Args:
      config: nested.
      neighbors: mean number of neighbours of an atom in the training structures.
    """
    chosen = targets_of(config)
    twice = [one for one in chosen if has_reference(config, one)]
    if not config["training"]["auxiliary"]:
        twice = []
    outputs = tuple(head_of(config, one) for one in (*chosen, *twice))
    hyper: HyperParameters = from_section(
        config, "model", HyperParameters, heads=outputs, neighbors=neighbors
    )
    return HDGNN(hyper)


def examples(config: Config, data: Dataset, name: str) -> Examples:
    """A part of the data set that `config.data` describes, checked, with its neighbours.

    Raises:
      InputError: for an unknown target or part, a training set larger than there is, or targets of
        different structures.
      QM9Error, Is2reError, StructureError: for bad data.
    """
    chosen, model = targets_of(config), from_section(config, "model", HyperParameters)
    labelled = merged({one.name: data.part(name, one.name) for one in chosen})
    structures, forces = labelled.structures, labelled.forces
    there = np.unique(structures.atomic_numbers).tolist()
    structures.refuse(structures.reasons_against(there, model.tags))
    # All that can be left against them is their elements.
    for place, reason in structures.reasons_against(model.elements).items():
        all_ = str(tuple(there)).replace(" ", "")
        how = f'set --config.model.elements="{all_}" for those of {data.title}'
        raise StructureError(f"{reason}: {how}", structures.name(place))
    if not config["training"]["forces_weight"]:
        forces = None
    elif forces is None and name == "train":
        names = ", ".join(one.name for one in chosen)
        raise InputError(f"{data.title} has no forces of {names}: set training.forces_weight to 0")
    virials = labelled.virials if config["training"]["stress_weight"] else None
    if config["training"]["stress_weight"] and virials is None and name == "train":
        raise InputError(
            f"{data.title} has no stress of {', '.join(one.name for one in chosen)}: set "
            "training.stress_weight to 0"
        )
    neighbors = neighbors_of(structures, model.cutoff, model.max_neighbors, model.neighborhood)
    return Examples(structures, neighbors, labelled.labels, forces, virials)
