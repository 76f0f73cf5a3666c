"""The notebooks run, on made-up molecules, and lie in the repository as they ran."""

from __future__ import annotations

import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_FILE, LARGEST_IMAGE = 250_000, 60_000
"""Bytes; of an image, before it is written as text."""
FIRST = """
import shortened
from hdgnn_jax.run.task import Task
shortened.shorten()
examples = Task.examples
Task.examples = lambda self, name: examples(self, name).first(500)
"""
"""The network is compiled as in other tests. A report predicts the first of each part; of all, in
batches of 16, it would take a minute."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_runs(path, config, finished, tmp_path, monkeypatch):
    """That of predictions with the finished run; to train is the quick start's."""
    for name, value in {
        "HDGNN_CACHE": config["data"]["cache"],
        "HDGNN_RUN": finished,
        "HDGNN_STEPS": 4,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
        "PYTHONPATH": ROOT / "tests",
        "TMPDIR": tmp_path,
        "IPYTHONDIR": tmp_path,
        "JUPYTER_CONFIG_DIR": tmp_path,
    }.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
    for cell in notebook.cells:
        # Eight frames of each, with forces, take a second as programs are compiled here.
        cell.source = cell.source.replace("random_rotations(32,", "random_rotations(4,")
    # In the root, the kernel imports what is tested here.
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()


@each_notebook
def test_a_notebook_holds_small_outputs_and_no_paths(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST_FILE
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    images = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert images
    assert max(map(len, images)) * 3 / 4 < LARGEST_IMAGE
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(o.name == "stdout" for o in outputs if o.output_type == "stream")
    words = [o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs]
    sources = [cell.source for cell in notebook.cells]
    for said in words + sources:
        assert not re.search(r"(?<![\w.)\]/])/[\w.-]+/|[A-Z]:\\|\x1b", said)
