"""The library's parts import one another in one direction only (so3 and graphs nothing of ours)."""

from __future__ import annotations

import ast
import pathlib

import pytest

import hdgnn_jax

ROOT = pathlib.Path(hdgnn_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A folder or file at the top, and what else of ours it may import. A new one states its place.
MAY_IMPORT = {
    "__init__": {"graphs", "models"},
    "errors": set(),
    "so3": set(),
    "graphs": set(),
    "progress": set(),
    "models": {"graphs", "so3"},
    # The linear model, which is a function of the network's graph, is fitted there.
    "data": {"graphs", "models", "progress"},
    "training": {"graphs"},
    "evaluation": {"graphs", "models", "so3"},
    "predict": {"data", "evaluation", "graphs", "models", "training"},
    "calculator": {"data", "graphs", "predict"},
    "export": {"data", "graphs", "models", "predict"},
    "relaxation": {"graphs", "predict"},
    "selftest": {"calculator", "data", "graphs", "models", "predict"},
}
FLAGS = {"absl", "argparse", "ml_collections"}
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
    assert ours <= {part_of(path), "errors", *MAY_IMPORT[part_of(path)]}


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
