"""Programs are tested on one finished run."""

from runs import changed, command, config, finished, once, several

__all__ = ["changed", "command", "config", "finished", "once", "several"]
