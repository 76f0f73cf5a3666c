"""Rotations and the sphere: pure functions of arrays, no Flax and no graphs."""
