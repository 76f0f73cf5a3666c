"""Runs are tested on the config of one that takes seconds."""

from runs import config, once, several, shared_programs

__all__ = ["config", "once", "several", "shared_programs"]
