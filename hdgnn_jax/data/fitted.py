"""Targets with the references and baselines fitted to them; a network has one head for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.data.baselines import Baseline, LinearFit, from_dict
from hdgnn_jax.data.targets import ALL_TARGETS, Reference, Target
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.models import heads
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.models.linear import energies_of
from hdgnn_jax.models.repulsion import Repulsion
from hdgnn_jax.types import Apply, Fields, Json, PyTree


@dataclasses.dataclass(frozen=True)
class FittedTarget:
    """A target as a network learns it.

    Attributes:
      target: the property.
      head: the network's head that predicts it.
      reference: turns the network's output into the property; fitted on the training structures.
      baselines: the baselines to beat, by name; fitted on them too.
    """

    target: Target
    head: Head
    reference: Reference
    baselines: Mapping[str, Baseline]

    @property
    def name(self) -> str:
        """The name of the target."""
        return self.target.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value."""
        return (3,) * HEADS[self.head].rank

    @property
    def linear(self) -> LinearFit | None:
        """The linear model whose geometry part the reference subtracts; None without one."""
        fit = self.baselines.get("linear")
        return fit if self.reference.linear and isinstance(fit, LinearFit) else None

    def to_dict(self) -> Json:
        """A JSON-able dict, exact."""
        return {
            "name": self.name,
            "unit": self.target.unit,
            "head": self.head,
            "reference": self.reference.to_dict(),
            "baselines": {k: dataclasses.asdict(b) for k, b in self.baselines.items()},
        }

    @classmethod
    def from_dict(cls, content: Fields) -> FittedTarget:
        """The inverse of `to_dict`, also after a pass through JSON."""
        return cls(
            ALL_TARGETS[content["name"]],
            content["head"],
            Reference.from_dict(content["reference"]),
            {k: from_dict(b) for k, b in content["baselines"].items()},
        )


def columns(fitted: Sequence[FittedTarget]) -> list[slice]:
    """The columns of each target in the network's output [G, F]; auxiliary outputs follow."""
    return heads.columns([one.head for one in fitted])


def names_of(fitted: Sequence[FittedTarget]) -> str:
    """The names of the targets, separated by commas."""
    return ", ".join(one.name for one in fitted)


def potential(fitted: Sequence[FittedTarget]) -> FittedTarget | None:
    """The target that is the potential energy of the atoms; None without one."""
    return next((one for one in fitted if one.target.potential), None)


def energy_column(fitted: Sequence[FittedTarget]) -> int:
    """The column of the potential energy in the network's output.

    Raises:
      InputError: where no target is a potential energy.
    """
    for one, column in zip(fitted, columns(fitted), strict=True):
        if one.target.potential:
            start: int = column.start
            return start
    raise InputError(f"{names_of(fitted)}: none is a potential energy")


def values_of(
    fitted: Sequence[FittedTarget], structures: Structures, outputs: np.ndarray
) -> dict[str, np.ndarray]:
    """Turns outputs [n, F] of `completed` into values [n, ...] in reported units, by target."""
    return {
        one.name: one.reference.restore(
            structures, outputs[:, column].reshape(len(outputs), *one.shape)
        )
        for one, column in zip(fitted, columns(fitted), strict=True)
    }


def completed(
    apply: Apply, fitted: Sequence[FittedTarget], repulsion: Repulsion | None = None
) -> Apply:
    """Adds linear references and repulsion to a network's predictions; nothing else adds them.

    Args:
      apply: the network: (variables, graph, ...) -> [..., G, F], standardised.
      fitted: the targets.
      repulsion: acts on atoms that are nearer than in training; in the unit of the potential.

    Returns:
      A function like `apply` that gives the sum, in one compiled program.
    """
    places = dict(zip((one.name for one in fitted), columns(fitted), strict=True))
    linear = [(one, one.reference.linear) for one in fitted if one.reference.linear]
    linear_columns = np.array([places[one.name].start for one, _ in linear], int)
    scales = np.array([one.reference.scale for one, _ in linear])
    energy = potential(fitted)

    def complete(
        variables: PyTree, graph: batching.MolecularGraph, *arguments: PyTree, **options: PyTree
    ) -> jax.Array:
        outputs: jax.Array = apply(variables, graph, *arguments, **options)
        if linear:
            known = energies_of([model for _, model in linear], graph)
            outputs = outputs.at[..., linear_columns].add(known / jnp.asarray(scales, known.dtype))
        if repulsion is not None and energy is not None:
            added = repulsion.energies(graph)[:, None] / energy.reference.scale
            outputs = outputs.at[..., places[energy.name]].add(added)
        return outputs

    return complete
