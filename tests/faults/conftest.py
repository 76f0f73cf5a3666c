"""Faults are tried on one finished run."""

from runs import changed, command, config, finished, once

__all__ = ["changed", "command", "config", "finished", "once"]
