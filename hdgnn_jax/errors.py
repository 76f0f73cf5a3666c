"""What the project raises on purpose. A program ends with one line for these; all else is a bug."""

from __future__ import annotations


class HDGNNError(Exception):
    """What can go wrong without a bug of ours; the message says what to do."""


class InputError(HDGNNError, ValueError):
    """A value that cannot be used: an argument, a field of a config, a structure, a file."""
