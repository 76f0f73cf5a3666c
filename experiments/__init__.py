"""The programs: `python -m experiments.NAME`."""

import os
import sys

from experiments import memory

# So Python calls a program whose module it still looks for: nothing is imported twice.
if sys.argv[:1] == ["-m"]:
    # jax sets 1 where it is not set.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    memory.restart()
