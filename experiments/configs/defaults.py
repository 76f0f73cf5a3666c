"""Makes sections of a config from the defaults of dataclasses."""

from __future__ import annotations

import dataclasses
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict, config_dict


def section(kind: type, leave_out: tuple[str, ...] = ()) -> ConfigDict:
    """A field for each attribute of a dataclass, at its default; a config then says what differs.

    Args:
      kind: the dataclass; every attribute that is not left out has a default.
      leave_out: attributes that something else gives.
    """
    made, hints = ConfigDict(), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in leave_out:
            continue
        hint = hints[field.name]
        kinds: set[Any] = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
        # A ConfigDict holds a field to the type of its first value, unless that is a placeholder.
        if len(kinds) > 1:
            others = kinds - {NoneType}
            made[field.name] = config_dict.placeholder(others.pop() if len(others) == 1 else object)
        if field.default is not None:
            made[field.name] = field.default
    return made
