"""Configs: fields by dotted name; sections, each checked against the function that it is for."""

from __future__ import annotations

import inspect
import math
import pathlib
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flax.traverse_util import flatten_dict, unflatten_dict

from hdgnn_jax.errors import CheckpointError, InputError
from hdgnn_jax.types import Config, Fields, Json

T = TypeVar("T")


def with_tuples(content: Fields) -> Json:
    """`content` with tuples in place of lists: JSON stores tuples as lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}


def flatten(config: Config) -> Json:
    """A nested config, in dicts, as {dotted name: value}."""
    flat: Json = flatten_dict(config, sep=".")
    return flat


def with_fields(config: Config, fields: Fields) -> Json:
    """A copy of a nested config, in dicts, with fields or sections replaced, by dotted name."""
    flat = flatten_dict(config, keep_empty_nodes=True, sep=".")
    # A section that is replaced comes after its former fields, and so takes their place.
    new: Json = unflatten_dict({**flat, **fields}, sep=".")
    return new


def refuse_other_config(
    saved: Fields,
    asked: Fields,
    workdir: pathlib.Path,
    of_both: bool = False,
    free: Collection[str] = (),
    way: str = "choose another --workdir",
) -> None:
    """Checks that a run is not continued, or compared, with other settings than it began with.

    Args:
      saved, asked: configs, nested or flat.
      workdir: folder of the run.
      of_both: whether to ignore fields that one config lacks because it is of another revision.
      free: fields that may differ, by dotted name.
      way: what to do.

    Raises:
      CheckpointError: naming the fields that differ.
    """
    old, new = flatten(saved), flatten(asked)
    names = old.keys() & new.keys() if of_both else old.keys() | new.keys()
    differing = sorted(k for k in names - set(free) if old.get(k) != new.get(k))
    if differing:
        shown = ", ".join(f"{k} = {old.get(k)} there, {new.get(k)} here" for k in differing[:4])
        raise CheckpointError(f"{workdir} holds a run with another config ({shown}): {way}")


def from_section(config: Config, name: str, make: Callable[..., T], **given: object) -> T:
    """`make(**config[name], **given)`, after a check of the section's fields.

    Raises:
      InputError: naming the section, for a field that does not exist, one that is missing, or a
        value of the wrong type.
    """
    if not isinstance(config.get(name), Mapping):
        raise InputError(f"config.{name} must be a section with fields, not {config.get(name)!r}")
    section = with_tuples(config[name])
    try:
        inspect.signature(make).bind(**section, **given)
    except TypeError as error:
        raise InputError(f"config.{name}: {error}") from error
    hints = get_type_hints(make)
    for field, value in section.items():
        check_type(f"config.{name}.{field}", value, hints[field])
    return make(**section, **given)


def check_type(name: str, value: object, hint: object) -> None:
    """Checks that a config's value has the type `hint`, and that numbers are finite.

    Raises:
      InputError: naming the field.
    """
    kinds = list(_kinds(hint))
    if not any(fits(value) for _, fits in kinds):
        words = " or ".join(dict.fromkeys(word for word, _ in kinds))
        raise InputError(f"{name} must be {words}, not {value!r}")


def _kinds(hint: object) -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """Each kind of value that a type allows: its name, and a test whether a value is of it.

    A `Literal` allows every word here; the receiver of the word checks that it is a valid one.
    """
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        for one in inner:
            yield from _kinds(one)
    elif get_origin(hint) in (tuple, Sequence):
        ((word, fits),) = dict(_kinds(inner[0])).items()
        yield (
            f"a list, each {word}",
            lambda value: isinstance(value, tuple) and all(map(fits, value)),
        )
    elif hint is float:
        # The comparison refuses NaN too; `type` refuses True, which is an int to isinstance.
        yield "a number", lambda value: type(value) in (int, float) and abs(value) < math.inf
    elif hint is int:
        yield "a whole number", lambda value: type(value) is int
    elif hint is bool:
        yield "True or False", lambda value: type(value) is bool
    elif hint is str or get_origin(hint) is Literal:
        yield "a word", lambda value: type(value) is str
    elif hint is types.NoneType:
        yield "None", lambda value: value is None
