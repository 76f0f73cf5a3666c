"""Programs are tested on one finished run."""

from runs import changed, command, config, finished, in_use, once, several, shared_programs

__all__ = [
    "changed", "command", "config", "finished", "in_use", "once", "several", "shared_programs",
]  # fmt: skip
