"""Two systems far apart: extensive properties add up, an intensive one of two alike is one's."""

from __future__ import annotations

import copy

import jax
import numpy as np
import pytest
from small import stirred

from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.inference.predictor import one_atom
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training import step

SIZED = [name for name, target in TARGETS.items() if target.size != "neither"]
MESH = step.make_mesh(jax.devices()[:1])


@pytest.mark.parametrize("reference", [None, "linear"])
@pytest.mark.parametrize("name", SIZED)
def test_two_systems_far_apart(config, name, reference):
    config = copy.deepcopy(config)
    config["target"], config["data"]["reference"] = name, reference
    data = dataset(config)
    molecules = examples(config, data, "train").first(60)
    task, _ = Task.fitted(config, data, molecules)
    params = stirred(task.model.init, one_atom(task.model))["params"]
    predictor = task.predictor(params, Budget(400, 80, 9), MESH)

    first = [molecules.structures[k] for k in range(8)]
    extensive = TARGETS[name].size == "extensive"
    second = first[::-1] if extensive else first
    both = Structures.pack(
        Structure(
            np.concatenate([a.atomic_numbers, b.atomic_numbers]),
            np.concatenate([a.positions, b.positions + 30]),
        )
        for a, b in zip(first, second, strict=True)
    )
    one = predictor(Structures.pack(first))
    expected = one + one[::-1] if extensive else one
    found = predictor(both)
    # Float32 of sums that are larger than what is left of them.
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-4 * task.reference.scale)


def test_what_the_compositions_leave_open_is_said(config):
    data = dataset(config)
    molecules = examples(config, data, "train").first(60)
    task, _ = Task.fitted(config, data, molecules)
    assert task.warnings(molecules) == []
    (said,) = task.warnings(molecules.take(np.zeros(5, int)))
    assert "do not determine what an atom of" in said
