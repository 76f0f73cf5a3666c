"""The programs: `python -m experiments.NAME`."""

import sys

from experiments import memory

# So Python calls a program whose module it still looks for: nothing is imported twice.
if sys.argv[:1] == ["-m"]:
    memory.restart()
