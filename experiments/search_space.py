"""The space of a search: the fields of a config that vary, their values, and draws from it."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any, get_type_hints

import numpy as np

from experiments import program
from hdgnn_jax.config import check_type, flatten, from_section, with_fields
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import check
from hdgnn_jax.training import step
from hdgnn_jax.training.optimizer import make_optimizer
from hdgnn_jax.types import Config, Fields, Json

Values = list[Any] | Json
"""The values of a field: choices, or an object with the ends of a range."""
Space = Fields
"""The content of the file: {field: [choices] or {"low": .., "high": .., "log": true}}."""

SECTIONS = {"model": HyperParameters, "optimizer": make_optimizer, "training": Training}
OURS = (
    "target", "seed", "training.steps", "training.validate_every", "training.first_validation",
    "training.validation_size",
)  # fmt: skip
"""Fields that the search sets itself, or that must be equal for errors to be comparable."""
OF_DATA = ("data.train_size", "data.reference")
"""The only fields of `data` that may vary: others change the structures of validation."""
DRAWS = 200
"""Number of draws after which a space is refused."""


def read(path: str | pathlib.Path, config: Config) -> Space:
    """The space in a file, checked against the config.

    Raises:
      InputError: where the file is not JSON, a field does not exist, or no run can use a value.
      OSError: where the file does not exist.
    """
    space = program.read_json(path, dict)
    if not space:
        raise InputError(f'{path} must hold an object, as {{"model.channels": [32, 64]}}')
    refuse_space(space, config)
    return space


def refuse_space(space: Space, config: Config) -> None:
    """Checks the config, and all fields and values of the space.

    Raises:
      InputError: naming the field that cannot be used.
    """
    refuse(config)
    known = flatten(config)
    for name, values in space.items():
        if name not in known:
            raise InputError(f"the space has {name}, and the config has no such field")
        if name in OURS or (name.startswith("data.") and name not in OF_DATA):
            raise InputError(f"the space has {name}, which must be the same for all candidates")
        _refuse_shape(name, values)
        for value in _ends(values):
            _refuse_type(name, value)
    # Values are checked after all types, since a value may need another value of another field.
    for name, values in space.items():
        for value in _ends(values):
            _refuse_value(name, value, space, config)


def draw(space: Space, rng: np.random.Generator) -> Json:
    """Draws a value of each field uniformly from its choices or its range.

    A range with `log` is uniform on the logarithmic scale. A range of whole numbers gives whole
    numbers; other values are rounded to three digits, so that they are easy to read and type.
    """
    return {name: _draw(values, rng) for name, values in space.items()}


def candidates(space: Space, config: Config, n: int) -> list[Json]:
    """The fields that each candidate changes; the first changes none, it is the config as it is.

    The k-th candidate is a function of the space, the config and k, so a larger n only adds
    candidates. A candidate that no run can use, or that exists already, is drawn again.

    Raises:
      InputError: where none of `DRAWS` draws can be used.
    """
    usual = flatten(config)
    found: list[Json] = [{}]
    while len(found) < n:
        rng = np.random.default_rng([config["seed"], len(found)])
        for _ in range(DRAWS):
            drawn = draw(space, rng)
            changed = {name: value for name, value in drawn.items() if value != usual[name]}
            reason = f"candidate {found.index(changed)} is the same" if changed in found else None
            reason = reason or why_not(with_fields(config, changed))
            if reason is None:
                found.append(changed)
                break
        else:
            raise InputError(
                f"{DRAWS} draws gave no candidate {len(found)} (the last: {reason}): "
                "widen the space, or ask for fewer --candidates"
            )
    return found


def refuse(config: Config) -> None:
    """Makes the checks of `train.run` that need no data.

    Raises:
      InputError: naming the field that is wrong.
    """
    settings = from_section(config, "training", Training)
    check(config)
    batching.deal(np.zeros((1, settings.batch_size), int), step.make_mesh().size)


def why_not(config: Config) -> str | None:
    """Why no run can use a config; None if a run can."""
    try:
        refuse(config)
    except ValueError as error:
        return str(error)
    return None


def _ends(values: Values) -> list[Any]:
    """The choices, or both ends of a range."""
    return values if isinstance(values, list) else [values["low"], values["high"]]


def _refuse_shape(name: str, values: object) -> None:
    if isinstance(values, list) and values:
        return
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {
        "low", "high", "log"
    }:  # fmt: skip
        raise InputError(
            f"{name} must have a list of choices or an object with low, high and perhaps log, "
            f"not {json.dumps(values)}"
        )
    low, high, log = values["low"], values["high"], values.get("log", False)
    for end in (low, high):
        check_type(f"an end of {name}", end, float)
    check_type(f"log of {name}", log, bool)
    if low >= high or (log and low <= 0):
        least = "0 < low < high" if log else "low < high"
        raise InputError(f"the range of {name} must have {least}, not {low} and {high}")


def _refuse_type(name: str, value: object) -> None:
    section, _, field = name.partition(".")
    if section in SECTIONS:
        hint = get_type_hints(SECTIONS[section])[field]
        check_type(f"{name} in the space", tuple(value) if isinstance(value, list) else value, hint)


def _refuse_value(name: str, value: object, space: Space, config: Config) -> None:
    """Refuses a value that works neither with the config's other values nor with drawn ones."""

    def others() -> Iterable[Json]:
        yield {}
        rng = np.random.default_rng(config["seed"])
        for _ in range(DRAWS):
            yield draw(space, rng)

    reason = None
    for fields in others():
        new = why_not(with_fields(config, {**fields, name: value}))
        if new is None:
            return
        # The reason with the config's own values is the most helpful.
        reason = reason or new
    raise InputError(f"no run can use {name} = {json.dumps(value)} of the space: {reason}")


def _draw(values: Values, rng: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[rng.integers(len(values))]
    low, high = values["low"], values["high"]
    whole = type(low) is type(high) is int
    top = high + 1 if whole else high
    if values.get("log"):
        value = math.exp(rng.uniform(math.log(low), math.log(top)))
    else:
        value = rng.uniform(low, top)
    # Rounding may slightly leave the range.
    return min(max(math.floor(value) if whole else float(f"{value:.3g}"), low), high)
