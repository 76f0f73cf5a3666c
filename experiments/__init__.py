"""The programs: `python -m experiments.NAME`."""

import os

# Set before jax is imported: the C++ libraries of TensorFlow and XLA read it when they are loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
