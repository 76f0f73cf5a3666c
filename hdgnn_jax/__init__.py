"""HDGNN, the Hybrid Directional Graph Neural Network (ICLR 2024), in JAX and Flax."""

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
