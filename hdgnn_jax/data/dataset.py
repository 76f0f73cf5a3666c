"""The protocol of data sets. `datasets.py` lists them; CONTRIBUTING.md shows how to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from hdgnn_jax.data.baselines import Baseline, Composition
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.targets import Accuracy, ReferenceKind, Target
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import Structures


class Dataset(Protocol):
    """A data set: its targets, its parts, and the baselines to beat.

    A class that follows this protocol is a dataclass whose fields are those of `config.data`. It
    reads its files when they are first needed and keeps their content.

    Attributes:
      family: the common name of all data sets of the class.
      targets: the targets, by name.
      reference: subtracted from the targets before training; None: the default of each target.
    """

    family: ClassVar[str]
    targets: ClassVar[Mapping[str, Target]]
    reference: ReferenceKind | None

    @property
    def title(self) -> str:
        """A few words that describe the structures."""
        ...

    @property
    def note(self) -> str:
        """Caveats of a comparison with errors of others; empty without any."""
        return ""

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the parts in reports, validation first."""
        return ("validation", "test")

    @property
    def first_test(self) -> str:
        """The name of the first test part; of validation, where there is no other."""
        return self.reported[:2][-1]

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises:
          InputError: listing the known names, where it is none of them.
        """
        if name not in self.targets:
            known = ", ".join(self.targets)
            raise InputError(f"unknown target {name!r}; {self.family} has {known}")
        return self.targets[name]

    def chosen(self, names: Sequence[str]) -> list[Target]:
        """The targets of one run.

        Raises:
          InputError: where one is none of the data set, or a field has no use for any of them.
        """
        return [self.target(name) for name in names]

    @property
    def all_targets(self) -> tuple[str, ...]:
        """The names of the targets that `config.target = all` stands for."""
        return tuple(self.targets)

    def paper(self, target: Target) -> Mapping[str, Accuracy]:
        """The errors that the paper reports, by part."""
        return {}

    def digest(self) -> str:
        """A SHA-256 that changes when a part gets other structures."""
        ...

    def part(self, name: str, target: str) -> LabelledStructures:
        """The structures of a part, labelled with `target`.

        Raises:
          InputError: where the part does not exist or `train_size` is out of range.
          HDGNNError: where the data cannot be read.
        """
        ...

    def atoms(self, target: str) -> Mapping[int, float]:
        """Energies of isolated atoms that came with the data, by atomic number, as stored."""
        return {}

    def summary(self, target: str) -> list[str]:
        """Lines on what was read from a user's files, with doubts about implausible values."""
        return []

    def how_divided(self, target: str) -> str:
        """Where the parts are from, in a line; empty where they are published."""
        return ""

    def baselines(
        self, structures: Structures, values: np.ndarray, elements: Sequence[int]
    ) -> dict[str, Baseline]:
        """The baselines that a model has to beat, by name, fitted to the training values [n]."""
        return {
            "mean_predictor": Composition.fit(structures, values),
            "composition": Composition.fit(structures, values, elements),
        }


def check_part(name: str, known: Sequence[str]) -> None:
    """Checks that the data set has a part of this name.

    Raises:
      InputError: naming the parts that exist, where `name` is not one of them.
    """
    if name not in known:
        raise InputError(f"the split must be one of {', '.join(known)}, not {name!r}")


def first_rows(rows: np.ndarray, size: int | None) -> np.ndarray:
    """The first `size` training rows; all for None.

    Raises:
      InputError: where `size` is not between 1 and the number of rows.
    """
    if size is not None and not 0 < size <= len(rows):
        raise InputError(f"data.train_size must lie between 1 and {len(rows)}, not {size}")
    return rows[:size]
