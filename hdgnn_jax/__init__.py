"""HDGNN, the Hybrid Directional Graph Neural Network (ICLR 2024), in JAX and Flax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdgnn_jax.graphs.batching import Budget, MolecularGraph, collate
    from hdgnn_jax.graphs.neighbors import Neighbors, find_neighbors
    from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
    from hdgnn_jax.models.hdgnn import HDGNN
    from hdgnn_jax.models.hyperparameters import HyperParameters

__all__ = [
    "HDGNN",
    "Budget",
    "HyperParameters",
    "MolecularGraph",
    "Neighbors",
    "Structure",
    "StructureError",
    "Structures",
    "collate",
    "find_neighbors",
]

_HOMES = ("graphs.structure", "graphs.neighbors", "graphs.batching", "models.hdgnn")
"""Modules that hold these names; the slowest to import come last."""


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for: JAX and Flax take seconds (PEP 562)."""
    if name in __all__:
        for home in _HOMES:
            found = getattr(import_module(f"{__name__}.{home}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
