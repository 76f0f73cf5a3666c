"""Fault tests say how many cases they tried."""

from __future__ import annotations

import collections

import pytest
from runs import command, config, finished, once

__all__ = ["command", "config", "finished", "once"]


@pytest.fixture
def tried():
    """A counter of cases by kind; `pytest_runtest_call` puts it into the test's report."""
    return collections.Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Once the test has passed, as `record_property("tried KIND", n)`: those travel with xdist."""
    result = yield
    for kind, count in item.funcargs.get("tried", {}).items():
        item.user_properties.append((f"tried {kind}", count))
    return result
