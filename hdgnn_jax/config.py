"""Config sections: each holds the arguments of one function or class, and is checked against it."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hdgnn_jax.errors import InputError
from hdgnn_jax.types import Config, Fields, Json

T = TypeVar("T")


def with_tuples(content: Fields) -> Json:
    """`content` with tuples in place of lists: JSON stores tuples as lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}


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
