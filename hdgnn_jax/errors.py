"""Errors that the project raises on purpose. Programs print them as one line; others are bugs."""

from __future__ import annotations


class HDGNNError(Exception):
    """A failure that is not a bug of ours; the message says what to do."""


class InputError(HDGNNError, ValueError):
    """A value that cannot be used: an argument, a field of a config, a structure, a file."""


class CheckpointError(HDGNNError):
    """A checkpoint that cannot be used; the message says where, which step, and what to do."""
