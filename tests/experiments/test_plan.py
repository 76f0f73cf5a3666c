"""A run is planned without its chips and without its data."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import plan, scaling
from experiments.configs.qm9 import get_config
from hdgnn_jax.errors import InputError
from hdgnn_jax.run import planned
from hdgnn_jax.training import chips, step
from hdgnn_jax.training import plan as plans

MEAN = planned.Structured(18, 190)
SLOW = chips.Chip("a chip", 1e12, 1e12, 1e11, 1e11)
PLAIN = {"pathway": "none", "tensor_product": "depthwise", "squeeze_excite": False}
"""Fields of a model that is compiled in half the time: no program here is in the cache."""


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """This machine's speed is not measured in tests, and the cache stays as it is."""
    monkeypatch.setattr(plan, "devices_of", lambda name: (jax.devices("cpu"), SLOW))
    kept = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", kept)


def plain(config):
    return {**config, "model": {**config["model"], **PLAIN}}


def test_a_plan_is_of_the_step_that_training_takes(changed, capsys):
    """The same shapes and memory as the step of a run on these data, with all that it fits."""
    config = plain(changed(**{"training.batch_size": 64}))
    found = plan.run(config, "cpu")
    train = planned.examples(config, planned.dataset(config), "train")
    mesh = step.make_mesh()
    task, _ = planned.Task.prepare(config, planned.dataset(config), train)
    batch = planned.batch_of_data(task, train, mesh.size)
    state = task.init_state(mesh)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    arrays += sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(batch.graph))
    # The compiler leaves out what the network does not look at.
    assert found["memory"]["arguments"] == arrays - np.asarray(batch.graph.nodes.tags).nbytes
    assert found["chips"] == mesh.size == 4
    assert found["batch"]["padded_edges"] == batch.budget.n_edge
    assert found["batch"]["edges"] <= found["batch"]["padded_edges"]
    assert found["collectives"].keys() == {"all-reduce"}
    assert found["collectives"]["all-reduce"]["bytes"] >= arrays / 8
    assert found["structures_per_second"] > 64 / found["step_seconds"] * 0.99
    assert found["unknown_loops"] == 0
    parts = {one["array"]: one["number"] for one in found["arguments"]}
    assert parts["weights"] == parts["averaged weights"] == len(jax.tree.leaves(state.params))
    json.dumps(found)
    out = capsys.readouterr().out
    assert "structures/s" in out
    assert "Not a measurement" in out


def test_without_data_the_sizes_are_given(changed, tmp_path):
    """Of a state that is divided among the chips: it is gathered and scattered."""
    config = plain(
        changed(**{"target": "relaxed_energy", "model.max_neighbors": 12,
                   "training.batch_size": 64, "training.divide_state": True})
    )  # fmt: skip
    config["data"] = {
        "set": "is2re", "name": "nowhere", "cache": str(tmp_path), "validation_size": 10
    }  # fmt: skip
    with pytest.raises(InputError, match=r"prepare is2re .*; or plan without data: --atoms"):
        plan.run(config, "cpu")
    found = plan.run(config, "cpu", MEAN)
    assert found["batch"]["edges"] == 190 * 16
    assert found["batch"]["padded_edges"] == 190 * 16
    assert {"all-reduce", "all-gather", "reduce-scatter"} <= found["collectives"].keys()


def test_what_does_not_fit_names_the_fields(changed, monkeypatch, capsys):
    tiny = chips.Chip("a chip", 3e5, 1e12, 1e11, 1e11, 1e9)
    monkeypatch.setattr(plan, "devices_of", lambda name: (jax.devices("cpu"), tiny))
    config = plain(changed(**{"training.batch_size": 64}))
    with pytest.raises(plans.TooLargeError, match=r"and a chip has .*: lower training.batch_size"):
        plan.run(config, "cpu", MEAN, tries=1)
    out = capsys.readouterr().out
    assert out.count("training.batch_size = ") == 1
    assert "none fits" in out


def test_the_page_on_scaling_keeps_what_was_planned(tmp_path, monkeypatch):
    """Small configs; what cannot be planned is named, and a second call plans nothing anew."""
    small = {
        "model": {
            "layers": 1, "degree": 1, "product_degree": 1, "channels": 4, "hidden": 8, **PLAIN,
        },
        "training": {"batch_size": 8, "steps": 100},
    }  # fmt: skip

    def config(work):
        full = json.loads(get_config("full").to_json())
        return {**full, **{name: full[name] | fields for name, fields in small.items()}}

    def devices_of(name):
        if name == "h100:1":
            raise InputError("no compiler")
        return jax.devices("cpu")[: int(name[-1])], chips.Chip("TPU", 1e12, 1e12, 1e11, 1e11, 1e9)

    monkeypatch.setattr(scaling.Work, "config", config)
    monkeypatch.setattr(scaling, "devices_of", devices_of)
    monkeypatch.setattr(scaling, "TOPOLOGIES", ("v5e:4", "v5e:1", "h100:1"))
    work = scaling.Work("QM9", "qm9.py:full", MEAN, 2, 4)
    rows = [scaling.row(work, *column, tmp_path) for column in work.columns()]
    assert [row.get("chips") for row in rows] == [4, 4, 1, None]
    assert [row.get("state") for row in rows] == ["whole", "divided", "whole", None]
    assert {row["batch"]["structures"] for row in rows[:-1]} == {2}
    for row in rows[:-1]:
        assert row["hours"] * 3600 * row["structures_per_second"] == pytest.approx(800)
        assert 0 < scaling.kept(row) <= 1
        assert (scaling.kept(row) == 1) == (row["chips"] == 1)
    monkeypatch.setattr(scaling.planned, "Planner", None)
    assert rows == [scaling.row(work, *column, tmp_path) for column in work.columns()]
    assert dataclasses.replace(work, changed=("remat", True)).columns() == [("v5e:4", False)]
    scaling.write({work: rows}, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| 4 TPU | divided | 2 |" in text
    assert "h100:1, whole: no compiler" in text
    assert (tmp_path / "page.png").stat().st_size > 1000
