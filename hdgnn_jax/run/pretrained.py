"""Fine-tuning: a run that starts from the weights of another (`config.init`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hdgnn_jax.config import from_section
from hdgnn_jax.data.fitted import FittedTarget, names_of
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import SYMBOLS
from hdgnn_jax.inference.weights import SHIPPED, load, network
from hdgnn_jax.models import heads
from hdgnn_jax.models.hdgnn import OF_ELEMENTS
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.run.chosen import auxiliary
from hdgnn_jax.run.settings import Training
from hdgnn_jax.training import leaves, step
from hdgnn_jax.training.record import Record
from hdgnn_jax.types import Config, Params

PACKAGE = "pretrained"
"""`config.init` for the weights that come with the package."""
MAY_DIFFER = {"elements", "heads", "neighbors", "remat", "precision", "frame", "evaluation_frame"}
"""Hyper-parameters that may differ: only the tables of elements and the heads depend on them, or no
weights do. `neighbors` is taken from the other run."""


Label = int | tuple[str, heads.Head, int]
"""The label of an index along an axis: its number, an element, or a head's output."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The run that another one starts from.

    Attributes:
      record: the record of its best checkpoint.
      params: its weights.
    """

    record: Record
    params: Params

    @classmethod
    def of(cls, config: Config) -> Pretrained | None:
        """The run that `config.init` names; None: it names none.

        Raises:
          CheckpointError: where the run cannot be read.
          InputError: where its network is another.
        """
        path = config["init"]
        if path is None:
            return None
        record, params = load(SHIPPED if path == PACKAGE else path, step.make_mesh())
        own = from_section(config, "model", HyperParameters)
        differing = [
            f"--config.model.{name}={value}"
            for name, value in dataclasses.asdict(network(record).hyper).items()
            if name not in MAY_DIFFER and getattr(own, name) != value
        ]
        if differing:
            raise InputError(f"config.init = {path} has another network: {' '.join(differing)}")
        return cls(record, jax.device_get(params))

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, with their names."""
        named = leaves.named_leaves(self.params)
        return leaves.digest_of({name: leaves.describe(leaf) for name, leaf in named.items()})

    def told(self, config: Config, fitted: Sequence[FittedTarget], hyper: HyperParameters) -> str:
        """A sentence on what a run takes from this one; arguments as in `start`."""
        of_targets = _targets(self.record.config, self.record.fitted), _targets(config, fitted)
        new = [name for name in of_targets[1] if name not in of_targets[0]]
        new += [SYMBOLS[z] for z in hyper.elements if z not in self.record.model["elements"]]
        trained = f"starts from {config['init']}, trained for {names_of(self.record.fitted)}"
        return f"{trained}; new are {', '.join(new)}" if new else trained

    def start(
        self, new: Params, config: Config, fitted: Sequence[FittedTarget], hyper: HyperParameters
    ) -> tuple[Params, Params]:
        """Its weights where the new network has the same ones, and new ones elsewhere.

        Weights of elements that it does not know, and the head's weights for targets that it does
        not predict, are new.

        Args:
          new: weights of the new network before training.
          config, fitted, hyper: those of the new run.

        Returns:
          The weights, and a factor of the learning rate for each.
        """
        settings = from_section(config, "training", Training)
        before = network(self.record).hyper
        runs = (self.record.config, self.record.fitted), (config, fitted)
        targets = [_targets(*run) for run in runs]
        scales = [
            {name: one.reference.scale for name, one in zip(names, of, strict=False)}
            for names, (_, of) in zip(targets, runs, strict=True)
        ]
        of_heads = [
            heads.columns_of_weights(list(zip(names, of.heads, strict=True)))
            for names, of in zip(targets, (before, hyper), strict=True)
        ]
        old = flatten_dict(self.params, sep="/")
        start, rates = {}, {}
        for path, value in flatten_dict(jax.device_get(new), sep="/").items():
            # The labels along an axis of the other run's array and of this one's. Weights with a
            # label in both are taken over.
            axis: int = 0
            there: Sequence[Label] = range(len(value))
            here = there
            if path.split("/")[-2] in OF_ELEMENTS:
                axis, there, here = -2, before.elements, hyper.elements
            elif path in of_heads[1]:
                axis, there, here = -1, of_heads[0].get(path, ()), of_heads[1][path]
            common = [label for label in here if label in there]
            to, source = ([of.index(label) for label in common] for of in (here, there))
            weights, known = np.array(value), np.zeros(value.shape, bool)
            if common:
                taken = np.moveaxis(old[path], axis, 0)[source]
                if axis == -1:
                    taken = taken * _ratios(common, *scales).reshape(-1, *[1] * (taken.ndim - 1))
                np.moveaxis(weights, axis, 0)[to] = taken
                np.moveaxis(known, axis, 0)[to] = True
            start[path], rates[path] = weights, _rates(path, known, settings)
        return unflatten_dict(start, sep="/"), unflatten_dict(rates, sep="/")


def _rates(path: str, known: np.ndarray, settings: Training) -> np.ndarray:
    """Factors of learning rates: 0 of frozen weights, `init_rate` of other known ones, else 1.

    Args:
      path: path of the array in the network, such as "stack/...".
      known: which of its weights are the other run's.
      settings: settings of the new run.
    """
    frozen = known.copy()
    if path.startswith("stack/"):
        # The first axis is that of the layers.
        frozen[settings.frozen_layers :] = False
    elif path.startswith("molecule_head/") or not settings.frozen_layers:
        frozen[:] = False
    return np.where(frozen, 0, np.where(known, settings.init_rate, 1)).astype("f4")


def _ratios(
    labels: Sequence[Label], old: Mapping[str, float], new: Mapping[str, float]
) -> np.ndarray:
    """Factors for outputs with these labels: each run standardises by its own scale.

    A record does not hold the scales of auxiliary outputs; their factor is 1.
    """
    names = [label[0] for label in labels if isinstance(label, tuple)]
    return np.array([old.get(name, 1.0) / new.get(name, 1.0) for name in names])


def _targets(config: Config, fitted: Sequence[FittedTarget]) -> list[str]:
    """A name for each head of a run's network: its target, and what is subtracted from it."""
    own = [one.name + " less the linear model" * bool(one.reference.linear) for one in fitted]
    return own + [f"{one.name}, the auxiliary output" for one in auxiliary(config, fitted)]
