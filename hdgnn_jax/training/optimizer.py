"""AdamW with warm-up, a decaying learning rate and gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdgnn_jax.errors import InputError

DROP = 0.3
"""The factor by which a drop multiplies the learning rate."""


def make_optimizer(
    *,
    steps: int,
    learning_rate: float,
    warmup: float,
    drops: Sequence[float] = (),
    weight_decay: float = 0.0,
    clip: float = 1.0,
    amsgrad: bool = False,
    flat: bool = False,
) -> optax.GradientTransformation:
    """The optimiser of a run.

    Args:
      steps: number of steps of the run.
      learning_rate: the highest rate.
      warmup: share of the steps that the linear warm-up takes.
      drops: shares of the steps after which the rate is multiplied by `DROP`. Empty: the rate
        follows a cosine to 0.
      weight_decay: weight decay of AdamW.
      clip: largest norm of the whole gradient.
      amsgrad: whether the second moment never falls (Reddi et al. 2018).
      flat: whether the state is one vector. Then a few operations update all weights; for a small
        network's many arrays a CPU needs more time per array than for their numbers. It does not
        work for a state that is divided among devices.

    Raises:
      InputError: naming the value that is out of range, such as a drop outside the run.
    """
    for name, value, fits in (
        ("learning_rate", learning_rate, learning_rate > 0),
        ("warmup", warmup, 0 <= warmup < 1),
        ("weight_decay", weight_decay, weight_decay >= 0),
        ("clip", clip, clip > 0),
    ):
        if not fits:
            raise InputError(f"optimizer.{name} is out of its range: {value}")
    schedule = _schedule(steps, learning_rate, warmup, drops)
    scale = optax.scale_by_amsgrad if amsgrad else optax.scale_by_adam
    chain = optax.chain(
        optax.clip_by_global_norm(clip),
        scale(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.flatten(chain) if flat else chain


class OwnRates(NamedTuple):
    """The state of an optimiser `with_own_rates`.

    Attributes:
      state: state of the optimiser itself.
      rates: factor of each weight's update. They are kept with the state, so that a resumed run
        does not need the run that they were made from.
    """

    state: optax.OptState
    rates: optax.Params


def with_own_rates(
    optimizer: optax.GradientTransformation, rates: optax.Params | None = None
) -> optax.GradientTransformation:
    """The optimiser with a factor for each weight's update; without `rates`, each starts at 1."""

    def init(params: optax.Params) -> OwnRates:
        given = jax.tree.map(jnp.ones_like, params) if rates is None else rates
        return OwnRates(optimizer.init(params), given)

    def update(
        gradient: optax.Updates, state: OwnRates, params: optax.Params | None = None
    ) -> tuple[optax.Updates, OwnRates]:
        # Frozen weights do not count in the norm by which gradients are clipped.
        moving = jax.tree.map(lambda g, rate: jnp.where(rate == 0, 0, g), gradient, state.rates)
        updates, inner = optimizer.update(moving, state.state, params)
        return optax.tree.mul(updates, state.rates), OwnRates(inner, state.rates)

    return optax.GradientTransformation(init, update)


def learning_rate_at(
    step: int,
    *,
    steps: int,
    learning_rate: float,
    warmup: float,
    drops: Sequence[float] = (),
    **others: object,
) -> float:
    """Learning rate of the update that follows `step` updates; for args see `make_optimizer`."""
    return float(_schedule(steps, learning_rate, warmup, drops)(step))


def _schedule(
    steps: int, learning_rate: float, warmup: float, drops: Sequence[float]
) -> optax.Schedule:
    """The learning rate as a function of the step; see `make_optimizer`."""
    first = max(1, round(warmup * steps))
    if first >= steps:
        raise InputError(
            f"optimizer.warmup = {warmup} leaves none of the {steps} training.steps (at least 1 of "
            "them is a warm-up)"
        )
    if drops:
        if not all(warmup < drop < 1 for drop in drops):
            raise InputError(f"optimizer.drops must lie between warmup and 1, not {tuple(drops)}")
        after = [round(drop * steps) - first for drop in drops]
        # In a short run several drops can fall on one step.
        stairs = {k: DROP ** after.count(k) for k in after}
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, learning_rate, first),
                optax.piecewise_constant_schedule(learning_rate, stairs),
            ],
            [first],
        )
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, first, steps)
