"""Truth and predictions of one part of a data set."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from hdgnn_jax.data.targets import Accuracy


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """Truth and predictions on one split, all in the unit in which the target is reported.

    Attributes:
      split: "train", "validation", "test", ...
      ids: [n] int64, the number of each structure in its data set.
      truth: [n] float64, or [n, ...] for vectors and tensors, whose errors are per component.
      prediction: the model's predictions, of the same shape.
      baselines: predictions to beat, of the same shape, by name (e.g. `mean_predictor`).
      threshold: `accuracy` also gives the share of errors below this; None: it does not.
      forces: the forces on every atom, in the unit per Å, with the ids of their structures; None
        where the model was not trained on forces.
      stress: the stress of every structure with a known one, in the unit per Å^3; None as above.
    """

    split: str
    ids: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    baselines: Mapping[str, np.ndarray]
    threshold: float | None = None
    forces: SplitResult | None = None
    stress: SplitResult | None = None

    @property
    def slopes(self) -> dict[tuple[str, str], SplitResult]:
        """The results of forces and stress, by name and by the divisor of their unit."""
        found = {("forces", "Å"): self.forces, ("stress", "Å^3"): self.stress}
        return {name: result for name, result in found.items() if result is not None}

    @property
    def mae(self) -> float:
        """Mean absolute error of the model."""
        return self.accuracy().mae

    @property
    def rmse(self) -> float:
        """Root mean square error of the model."""
        return float(np.sqrt(np.mean((self.prediction - self.truth) ** 2)))

    def accuracy(self, baseline: str | None = None) -> Accuracy:
        """The accuracy of the model, or of a baseline."""
        answer = self.prediction if baseline is None else self.baselines[baseline]
        error = np.abs(answer - self.truth)
        within = None if self.threshold is None else float(np.mean(error < self.threshold))
        return Accuracy(float(np.mean(error)), within)


def format_mae(mae: float) -> str:
    """A mean absolute error with 4 significant digits; all commands print it in this way.

    >>> format_mae(12.3), format_mae(0.0123456), format_mae(1234.56)
    ('12.30', '0.01235', '1235')
    """
    rounded = float(f"{mae:.4g}")
    return f"{rounded:.0f}" if rounded >= 1000 else f"{rounded:#.4g}"


def component_names(shape: tuple[int, ...]) -> list[str]:
    """The suffixes of the columns of a value of the given shape.

    >>> component_names(()), component_names((3,))
    ([''], ['_x', '_y', '_z'])
    """
    return ["_" * bool(shape) + "".join(xyz) for xyz in itertools.product("xyz", repeat=len(shape))]
