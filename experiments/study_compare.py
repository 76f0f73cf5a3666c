"""The statistics of a study: differences from the baseline over paired seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import scipy.stats

from experiments.study_plan import BASELINE

PAPER = {
    "baseline": 554, "linear": 632, "fully_tp": 591, "unrestricted": 883, "softmax": 562,
    "equal_weights": 564, "learned_weights": 567, "no_layer_norm": 577, "extra_linear": 568,
    "unshared_mlp": 555, "nn_of_rotated": 572,
}  # fmt: skip
"""Test MAE on IS2RE (ID), meV: Tables 3 to 5 of An et al. 2024, one run each."""

LEVEL = 0.05
"""A difference counts where its p-value is smaller."""


def half_width(values: Sequence[float]) -> float:
    """Half width of the 95 % interval of the mean (Student) of two values or more."""
    n = len(values)
    return float(scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One variant on one target.

    Attributes:
      variant: name of the variant.
      maes: test errors, one for each seed.
      difference: mean error minus that of the baseline.
      margin: half width of the 95 % interval of `difference`.
      percent: `difference` and `margin` in percent of the baseline's mean.
      p: p-value of no difference, with Holm's correction over the variants.
      paper: the paper's difference from its baseline, in percent of that baseline.
    """

    variant: str
    maes: tuple[float, ...]
    difference: float = 0.0
    margin: float = 0.0
    percent: tuple[float, float] = (0.0, 0.0)
    p: float = 1.0
    paper: float | None = None

    @property
    def mean(self) -> float:
        """The mean error over seeds."""
        return float(np.mean(self.maes))

    @property
    def spread(self) -> float:
        """Half width of the 95 % interval of the mean (Student)."""
        return half_width(self.maes)

    @property
    def verdict(self) -> str:
        """Whether the sign agrees with the paper's, and whether the interval misses its size."""
        if self.paper is None or self.variant == BASELINE:
            return ""
        sign = "undecided"
        if self.p < LEVEL:
            sign = "agrees" if (self.paper > 0) == (self.difference > 0) else "contradicts"
        here, margin = self.percent
        return sign + (", not the paper's size" if abs(self.paper - here) > margin else "")


def compare(
    maes: Mapping[str, Sequence[float]], paper: Mapping[str, float] = MappingProxyType({})
) -> list[Comparison]:
    """Compares every variant with the first, by analysis of variance with seeds as blocks.

    Runs of one seed see the same molecules in the same order, so their errors rise and fall
    together. The residuals, after subtracting the means of variants and of seeds, are pooled. For
    two variants this is the paired t-test.

    Args:
      maes: for each variant its errors, one for each seed; at least two variants and two seeds.
      paper: errors in the paper, by variant.
    """
    table = np.array(list(maes.values()))
    variants, seeds = table.shape
    means = table.mean(1)
    left = table - means[:, None] - table.mean(0) + table.mean()
    freedom = (variants - 1) * (seeds - 1)
    error = np.sqrt((left**2).sum() / freedom * 2 / seeds)
    margin = float(scipy.stats.t.ppf(0.975, freedom) * error)
    raw = 2 * scipy.stats.t.sf(np.abs(means[1:] - means[0]) / error, freedom)
    first, *others = maes
    return [Comparison(first, tuple(maes[first]))] + [
        Comparison(
            name,
            tuple(maes[name]),
            float(mean - means[0]),
            margin,
            (float(100 * (mean / means[0] - 1)), float(100 * margin / means[0])),
            float(p),
            100 * (paper[name] / paper[first] - 1) if name in paper else None,
        )
        for name, mean, p in zip(others, means[1:], holm(raw), strict=True)
    ]


def holm(raw: np.ndarray) -> np.ndarray:
    """[n] p-values with Holm's correction for n tests."""
    order = np.argsort(raw)
    corrected = np.empty(len(raw))
    rising = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    corrected[order] = np.minimum(1, rising)
    return corrected


def verdict(p: Iterable[float], differences: Iterable[float]) -> str:
    """`holds`, `contradicted` or `undecided`: a hypothesis by which all differences are positive.

    Args:
      p: a p-value for each difference, corrected for their number.
      differences: any unit.
    """
    sure = [(each < LEVEL, d > 0) for each, d in zip(p, differences, strict=True)]
    if any(small and not positive for small, positive in sure):
        return "contradicted"
    return "holds" if all(small for small, _ in sure) else "undecided"
