"""Trains other models on a run's molecules, for as long as the run took."""
