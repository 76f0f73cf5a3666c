"""The space of a search: which fields of a config vary, between what, and what is drawn of it."""

from __future__ import annotations

import copy
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

import numpy as np

from experiments import train
from hdgnn_jax.config import check_type, from_section
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.run.settings import Training
from hdgnn_jax.run.task import check
from hdgnn_jax.training import step
from hdgnn_jax.training.optimizer import make_optimizer

Space = Mapping[str, Any]
"""As in its file: {field: [choices] or {"low": .., "high": .., "log": true}}."""

SECTIONS = {"model": HyperParameters, "optimizer": make_optimizer, "training": Training}
OURS = (
    "target", "seed", "training.steps", "training.validate_every", "training.first_validation",
    "training.validation_size",
)  # fmt: skip
"""The search sets these itself, or its errors could not be compared."""
OF_DATA = ("data.train_size", "data.reference")
"""Any other field of the section changes which structures are validated on."""
DRAWS = 200
"""So often a candidate is drawn before the space is given up."""


def read(path: str | pathlib.Path, config: Mapping[str, Any]) -> Space:
    """The space in a file, checked against the config.

    Raises:
      ValueError: naming the field, for one that there is not, or a value that no run can use.
      OSError: where there is no such file.
    """
    try:
        space = json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(space, dict) or not space:
        raise InputError(f'{path} must hold an object, as {{"model.channels": [32, 64]}}')
    refuse_space(space, config)
    return space


def refuse_space(space: Space, config: Mapping[str, Any]) -> None:
    """Refuses a space with a field or a value that is of no use, and such a config.

    Raises:
      ValueError: naming the field.
    """
    refuse(config)
    known = train.flatten(config)
    for name, values in space.items():
        if name not in known:
            raise InputError(f"the space has {name}, and the config has no such field")
        if name in OURS or (name.startswith("data.") and name not in OF_DATA):
            raise InputError(f"the space has {name}, which must be the same for all candidates")
        _refuse_shape(name, values)
        for value in _ends(values):
            _refuse_type(name, value)
    # Once all types are right: a value may need another value of another field.
    for name, values in space.items():
        for value in _ends(values):
            _refuse_value(name, value, space, config)


def draw(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """A value of each field: any choice as likely as another, any part of a range as its length.

    On the logarithmic scale, if the range asks for it. A range of whole numbers gives whole ones;
    others have three digits, to be read and typed.
    """
    return {name: _draw(values, rng) for name, values in space.items()}


def candidates(space: Space, config: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The fields that each candidate changes: of the first none, it is the config as it is.

    Those of the k-th are a function of the space, the config and k: more candidates are the same
    and others. What no run can use, and what is there already, is drawn again.

    Raises:
      ValueError: where the config, or each of `DRAWS` draws, is of no use.
    """
    refuse(config)
    usual = train.flatten(config)
    found: list[dict[str, Any]] = [{}]
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


def with_fields(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config with these values, by dotted name."""
    new = copy.deepcopy(dict(config))
    for name, value in fields.items():
        *sections, last = name.split(".")
        section = new
        for key in sections:
            section = section[key]
        section[last] = value
    return new


def refuse(config: Mapping[str, Any]) -> None:
    """Refuses what `train.run` would, before any data are read.

    Raises:
      ValueError: naming the field.
    """
    settings = from_section(config, "training", Training)
    check(config)
    batching.deal(np.zeros((1, settings.batch_size), int), step.make_mesh().size)


def why_not(config: Mapping[str, Any]) -> str | None:
    """Why no run can use a config; None where one can."""
    try:
        refuse(config)
    except ValueError as error:
        return str(error)
    return None


def _ends(values: Any) -> Sequence[Any]:
    """The choices, or both ends of a range."""
    return values if isinstance(values, list) else [values["low"], values["high"]]


def _refuse_shape(name: str, values: Any) -> None:
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


def _refuse_type(name: str, value: Any) -> None:
    section, _, field = name.partition(".")
    if section in SECTIONS:
        hint = get_type_hints(SECTIONS[section])[field]
        check_type(f"{name} in the space", tuple(value) if isinstance(value, list) else value, hint)


def _refuse_value(name: str, value: Any, space: Space, config: Mapping[str, Any]) -> None:
    """A value is of use if it is beside the config's other values, or beside any that are drawn."""

    def others() -> Iterable[dict[str, Any]]:
        yield {}
        rng = np.random.default_rng(config["seed"])
        for _ in range(DRAWS):
            yield draw(space, rng)

    reason = None
    for fields in others():
        new = why_not(with_fields(config, {**fields, name: value}))
        if new is None:
            return
        # That of the config's own values says most.
        reason = reason or new
    raise InputError(f"no run can use {name} = {json.dumps(value)} of the space: {reason}")


def _draw(values: Any, rng: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[rng.integers(len(values))]
    low, high = values["low"], values["high"]
    whole = type(low) is type(high) is int
    top = high + 1 if whole else high
    if values.get("log"):
        value = math.exp(rng.uniform(math.log(low), math.log(top)))
    else:
        value = rng.uniform(low, top)
    # Rounding may leave the range by a hair.
    return min(max(math.floor(value) if whole else float(f"{value:.3g}"), low), high)
