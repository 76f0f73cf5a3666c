"""The library's parts import one another in one direction only (so3 and graphs nothing of ours)."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

import hdgnn_jax

ROOT = pathlib.Path(hdgnn_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A folder or file at the top, and what else of ours it may import. A new one states its place.
MAY_IMPORT = {
    "__init__": {"graphs", "models"},
    "errors": set(),
    "types": set(),
    "config": set(),
    "cpu": set(),
    "files": set(),
    "progress": set(),
    "so3": set(),
    "graphs": set(),
    "models": {"graphs", "so3"},
    # The linear model, which is a function of the network's graph, is fitted there.
    "data": {"config", "graphs", "models", "progress"},
    # What a checkpoint says of its data and target.
    "training": {"config", "cpu", "data", "files", "graphs"},
    "inference": {"data", "graphs", "models", "training"},
    "evaluation": {"data", "graphs", "inference", "models", "so3"},
    # From a config to a report: the one part that no other imports.
    "run": {
        "config", "data", "evaluation", "graphs", "inference", "models", "progress", "training"
    },
}  # fmt: skip
EVERYWHERE = {"errors", "types"}
FLAGS = {"absl", "argparse", "ml_collections"}
# Functions of 51 to 80 lines: one formula, layout or format whose parts mean nothing alone.
KERNELS = {
    ("hdgnn_jax/data/polarizability.py", "_features"),
    ("hdgnn_jax/data/torch_pickle.py", "_read"),
    ("hdgnn_jax/graphs/batching.py", "collate"),
    ("hdgnn_jax/models/geometry.py", "edge_geometry"),
    ("hdgnn_jax/models/message.py", "__call__"),
    ("hdgnn_jax/models/pathways.py", "__call__"),
    ("hdgnn_jax/training/step.py", "make_train_step"),
}
NETWORK = {"aiohttp", "ftplib", "http", "httpx", "requests", "socket", "urllib", "urllib3"}


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: pathlib.Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            names |= {f"{dots}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def path(request):
    return request.param


def test_parts_use_only_those_below_them(path):
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("hdgnn_jax.")}
    assert ours <= {part_of(path), *EVERYWHERE, *MAY_IMPORT[part_of(path)]}


def test_the_parts_have_an_order():
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())
    assert sorted(order) == sorted(MAY_IMPORT)
    assert not any("run" in below for below in MAY_IMPORT.values())


def test_nothing_is_allowed_that_no_file_needs():
    needed = {part: set() for part in MAY_IMPORT}
    for path in FILES:
        ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("hdgnn_jax.")}
        needed[part_of(path)] |= ours - {part_of(path), *EVERYWHERE}
    assert needed == MAY_IMPORT


def test_library_is_imported_by_full_names_and_knows_no_program_flags_or_network(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & {"", "experiments", "tests", *FLAGS, *NETWORK}


def test_flax_modules_live_in_models_and_rotations_know_no_graphs(path):
    names = imports_of(path)
    if part_of(path) != "models":
        assert not [name for name in names if name.startswith("flax.linen")]
    if part_of(path) == "so3":
        assert not [name for name in names if name.split(".")[0] in {"flax", "jraph"}]


def test_only_the_geometry_sees_frames(path):
    """EdgeGeometry is the only door to them, outside of so3."""
    if part_of(path) != "so3" and "hdgnn_jax.so3.frames" in imports_of(path):
        assert path.relative_to(ROOT).as_posix() == "models/geometry.py"


@pytest.mark.parametrize("folder", ["hdgnn_jax", "experiments"])
def test_files_and_functions_fit_a_few_screens(folder):
    longer = set()
    for path in sorted((ROOT.parent / folder).rglob("*.py")):
        text, name = path.read_text(), path.relative_to(ROOT.parent).as_posix()
        assert len(text.splitlines()) <= 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                assert size <= 80, (name, node.name, size)
                # A benchmark reads from top to bottom.
                if size > 50 and not name.startswith("experiments/benchmarks/"):
                    longer.add((name, node.name))
    assert longer == {kernel for kernel in KERNELS if kernel[0].startswith(folder)}
