"""Several models at once: models of one property are an ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hdgnn_jax.graphs.neighbors import Neighborhoods
from hdgnn_jax.inference import batches
from hdgnn_jax.inference.predictor import Advance, Predictor


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A property of several structures, by one or more models.

    Attributes:
      unit: unit of value and spread.
      value: [n, ...] mean over models and rolls.
      spread: [n, ...] standard deviation over them; None where there is only one.
      of: numbers of models and rolls that the spread is over, in words.
    """

    unit: str
    value: np.ndarray
    spread: np.ndarray | None
    of: str


def predict_all(
    prepared: Sequence[tuple[Predictor, Neighborhoods]],
    rolls: int = 1,
    advance: Advance = batches.nobody,
) -> dict[str, Prediction]:
    """Predictions by property: models of one property are an ensemble.

    Args:
      prepared: models, each with the same structures, which it has prepared.
      rolls: number of rolls of the edge frames. If more than 1, mean and spread are over them too,
        instead of the model's own evaluation frames.
      advance: told the number of structures after each batch of each model.
    """
    units: dict[str, str] = {}
    values: dict[str, list[np.ndarray]] = {}
    for predictor, graphs in prepared:
        if rolls == 1:
            own = {name: of_one[None] for name, of_one in predictor(graphs, advance).items()}
        else:
            own = predictor.of_rolls(graphs, rolls, advance)
        for one in predictor.fitted:
            units[one.name] = one.target.unit
            values.setdefault(one.name, []).append(own[one.name])
    found = {}
    for name, members in values.items():
        together, counts = np.concatenate(members), {"models": len(members), "rolls": rolls}
        found[name] = Prediction(
            units[name],
            together.mean(0),
            together.std(0, ddof=1) if len(together) > 1 else None,
            " x ".join(f"{n} {what}" for what, n in counts.items() if n > 1),
        )
    return found
