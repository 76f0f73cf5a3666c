"""Spaces of `experiments.search`."""
