"""Two systems far apart: extensive properties add up, an intensive one of two alike is one's."""

from __future__ import annotations

import copy

import jax
import numpy as np
import pytest
from small import drawn

from hdgnn_jax.data.baselines import element_counts
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.inference.weights import shapes
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training import step

SIZED = [name for name, target in TARGETS.items() if target.size != "neither"]
MESH = step.make_mesh(jax.devices()[:1])


@pytest.mark.parametrize("reference", [None, "linear"])
def test_two_systems_far_apart(config, reference):
    config = copy.deepcopy(config)
    config["target"], config["data"]["reference"] = ",".join(SIZED), reference
    data = dataset(config)
    molecules = examples(config, data, "train").first(60)
    task, _ = Task.prepare(config, data, molecules)
    params = drawn(shapes(task.model))
    predictor = task.predictor(params, Budget(400, 80, 9), MESH)

    def joined(first: list[Structure], second: list[Structure]) -> Structures:
        return Structures.pack(
            Structure(
                np.concatenate([a.atomic_numbers, b.atomic_numbers]),
                np.concatenate([a.positions, b.positions + 30]),
            )
            for a, b in zip(first, second, strict=True)
        )

    few = [molecules.structures[k] for k in range(8)]
    one = predictor(Structures.pack(few))
    others, alike = predictor(joined(few, few[::-1])), predictor(joined(few, few))
    for fitted in task.fitted:
        alone = one[fitted.name]
        extensive = fitted.target.size == "extensive"
        expected = alone + alone[::-1] if extensive else alone
        found = (others if extensive else alike)[fitted.name]
        # Float32 of sums that are larger than what is left of them.
        scale = fitted.reference.scale
        np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("name", "reference", "n"),
    [("U0", None, 1), ("U0", None, 3), ("U0", "linear", 1), ("U0", "linear", 3), ("gap", None, 1)],
)
def test_values_that_the_composition_gives_exactly_are_refused(config, name, reference, n):
    config = copy.deepcopy(config)
    config["target"], config["data"]["reference"] = name, reference
    data = dataset(config)
    molecules = examples(config, data, "train").first(60)
    counts = element_counts(molecules.structures, config["model"]["elements"])
    rows = np.sort(np.unique(counts, axis=0, return_index=True)[1])[:n]
    message = rf"a reference gives {name} of all training structures \({n}\) exactly"
    with pytest.raises(InputError, match=message):
        Task.prepare(config, data, molecules.take(rows))


def test_what_the_compositions_leave_open_is_said(config):
    data = dataset(config)
    molecules = examples(config, data, "train").first(60)
    task, _ = Task.prepare(config, data, molecules)
    assert task.warnings(molecules) == []
    (said,) = task.warnings(molecules.take(np.zeros(5, int)))
    assert "do not determine what an atom of" in said
