"""Models in use are tested on one, whose programs all tests of a worker share."""

from __future__ import annotations

import pytest
from small import PLAIN, U0, predictor_of


@pytest.fixture(scope="session")
def predictor():
    """Of molecules, in meV."""
    return predictor_of(U0, **PLAIN)
