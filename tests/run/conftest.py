"""Runs are tested on the config of one that takes seconds."""

from runs import config, once

__all__ = ["config", "once"]
