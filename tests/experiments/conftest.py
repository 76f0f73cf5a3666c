"""Programs are tested on one finished run."""

from runs import changed, command, config, finished, in_use, once, several

__all__ = ["changed", "command", "config", "finished", "in_use", "once", "several"]
