"""Edges that a frame must serve: the poles and the other axes, then random ones."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def directions():
    """[14, 3] unit vectors in float64; the first two are +y and -y."""
    axes = np.array([[0, 1, 0], [0, -1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]], float)
    vectors = np.concatenate([axes, np.random.default_rng(0).normal(size=(8, 3))])
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="session")
def rolls(directions):
    """[14] radians."""
    return np.random.default_rng(1).uniform(0, 2 * np.pi, len(directions))
