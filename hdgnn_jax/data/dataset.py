"""What every data set offers. `datasets.py` lists them; CONTRIBUTING.md shows how to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from hdgnn_jax.data.baselines import Baseline, Composition
from hdgnn_jax.data.labelled import LabelledStructures
from hdgnn_jax.data.targets import Accuracy, ReferenceKind, Target, find_target
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import Structures


class Dataset(Protocol):
    """A data set: its targets, its parts, and what there is to beat.

    A class of this kind is a dataclass whose fields are those of `config.data`. It reads its files
    when they are first needed and keeps what it has read.

    Attributes:
      family: what all data sets of the class are called.
      targets: by name.
      reference: taken off the targets before training; None: the usual one of each target.
    """

    family: ClassVar[str]
    targets: ClassVar[Mapping[str, Target]]
    reference: ReferenceKind | None

    @property
    def title(self) -> str:
        """What the structures are, in a few words."""
        ...

    @property
    def note(self) -> str:
        """What has to be known to compare errors with others'; empty where there is nothing."""
        return ""

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the parts in reports, validation first."""
        return ("validation", "test")

    def target(self, name: str) -> Target:
        """The target of that name.

        Raises:
          InputError: where there is none.
        """
        return find_target(name, self.targets, self.family)

    def paper(self, target: Target) -> Mapping[str, Accuracy]:
        """The paper's errors, by part."""
        return {}

    def digest(self) -> str:
        """A SHA-256 that changes when other structures are in a part."""
        ...

    def part(self, name: str, target: str) -> LabelledStructures:
        """The structures of a part, with that label.

        Raises:
          InputError: for a part that there is not, or a training size that is none.
          HDGNNError: where the data cannot be had.
        """
        ...

    def baselines(
        self, structures: Structures, values: np.ndarray, elements: Sequence[int]
    ) -> dict[str, Baseline]:
        """What a model has to beat, by name, fitted to the training values [n]."""
        return {
            "mean_predictor": Composition.fit(structures, values),
            "composition": Composition.fit(structures, values, elements),
        }


def check_part(name: str, known: Sequence[str]) -> None:
    """Refuses a part that there is not.

    Raises:
      InputError: naming those that there are.
    """
    if name not in known:
        raise InputError(f"the split must be one of {', '.join(known)}, not {name!r}")


def first_rows(rows: np.ndarray, size: int | None) -> np.ndarray:
    """The first `size` training rows; all for None.

    Raises:
      InputError: where there are not so many.
    """
    if size is not None and not 0 < size <= len(rows):
        raise InputError(f"data.train_size must lie between 1 and {len(rows)}, not {size}")
    return rows[:size]
