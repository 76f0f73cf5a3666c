"""Data sets, their published splits, and targets with units."""
