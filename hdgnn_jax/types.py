"""Names of types that many modules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Config: TypeAlias = Mapping[str, Any]
"""A config: nested sections of plain values."""
Fields: TypeAlias = Mapping[str, Any]
"""Read-only named values."""
Json: TypeAlias = dict[str, Any]
"""A JSON object."""
PyTree: TypeAlias = Any
"""Arrays in nested containers; JAX gives it no type."""
Params: TypeAlias = Any
"""The weights of a network, a PyTree of nested dicts."""
Apply: TypeAlias = Callable[..., Any]
"""(variables, graph, ...) -> arrays: a network."""
