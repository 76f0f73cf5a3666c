"""Measures the quality of a trained model."""
