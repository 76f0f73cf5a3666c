"""Measures speed and memory; prints tables and writes a flat JSON file.

    python -m experiments.benchmarks wigner train --json=results.json

README.md beside this file explains each key.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import platform
import sys
from typing import NoReturn

from experiments import program

GROUPS = (
    "wigner", "sphere", "products", "train", "compile", "memory", "plan", "pipeline", "scaling",
    "is2re", "predict", "quick",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as the other programs do."""

    def error(self, message: str) -> NoReturn:
        program.fail(message)


def read_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        "python -m experiments.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("groups", nargs="*", type=group, metavar="GROUP",
                        help=f"{', '.join(GROUPS)}; all by default")  # fmt: skip
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="where results go")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FOLDER", help="where figures go")
    parser.add_argument("--compare", metavar="REV", help="run this git revision too, in turns")
    parser.add_argument("--quick", action="store_true",
                        help="toy sizes, to see that everything runs")  # fmt: skip
    return parser.parse_args()


def group(name: str) -> str:
    """Checks the name of a group."""
    if name not in GROUPS:
        raise argparse.ArgumentTypeError(f"{name!r} is no benchmark; there are {', '.join(GROUPS)}")
    return name


if __name__ == "__main__":
    arguments = read_arguments()
    del sys.argv[1:]
    PROGRAM = program.Program(str(__doc__), [])
    PROGRAM.begin()

import jax

from experiments.benchmarks.compare import compare
from experiments.benchmarks.report import Report
from hdgnn_jax.training.metrics import write_atomically
from hdgnn_jax.types import Json


def run(options: argparse.Namespace) -> None:
    """Runs the groups and writes the JSON file after each."""
    jax.config.update("jax_enable_compilation_cache", False)
    if options.json and not options.json.absolute().parent.is_dir():
        raise ValueError(f"--json={options.json}: there is no folder {options.json.parent}")
    if options.plot:
        options.plot.mkdir(parents=True, exist_ok=True)
    report = Report(options.quick, options.plot)
    names = options.groups or GROUPS
    results: Json = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "quick": options.quick,
    }

    def add(more: dict[str, float]) -> None:
        results.update({key: float(value) for key, value in more.items()})
        if options.json:
            write_atomically(options.json, (json.dumps(results, indent=1) + "\n").encode())

    if options.compare:
        add(compare(options.compare, names, report))
        return
    for name in names:
        add(importlib.import_module(f"experiments.benchmarks.{name}").run(report))


def main() -> None:
    """The program."""
    try:
        run(arguments)
    # `--compare` runs these files in older revisions too, which may lack our error classes.
    except ValueError as error:
        program.fail(error)


if __name__ == "__main__":
    PROGRAM.run(main)
