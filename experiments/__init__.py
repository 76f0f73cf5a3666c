"""The programs: `python -m experiments.NAME`."""

import os

# TensorFlow's and XLA's C++ libraries read it when they are loaded, which jax's import does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
