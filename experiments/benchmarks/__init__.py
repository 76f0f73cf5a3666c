"""Measures speed and memory against e3nn-jax, the machine's peak, and older revisions."""
