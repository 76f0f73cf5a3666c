"""What a checkpoint says beside its arrays survives JSON to the bit, and is of this version."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from molecules import CUTOFF, KNOWN
from small import SMALL, network

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.baselines import AdsorbateMean, Composition, LinearFit
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import ALL_TARGETS, TARGETS, Reference
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs.batching import Budget
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import Memory
from hdgnn_jax.training.record import VERSION, Course, Record
from hdgnn_jax.training.step import StepMetrics

ELEMENTS = (1, 6, 7, 8, 9)


@pytest.fixture(scope="module")
def record() -> Record:
    """With digits that no short decimal has."""
    rng = np.random.default_rng(0)
    neighbors, values = find_neighbors(KNOWN, CUTOFF), rng.normal(size=len(KNOWN))
    (fit,), _ = LinearFit.fit(KNOWN, neighbors, values[:, None], ELEMENTS, CUTOFF)
    metrics = StepMetrics(jnp.float32(0.1), jnp.float32(3), jnp.bool_(False), jnp.int32(7))
    return Record(
        config={"target": "U0", "model": {"cutoff": CUTOFF, "attention": [1.0, 0.0]}},
        model=network(**SMALL).hyper.to_dict(),
        fitted=(
            FittedTarget(
                TARGETS["U0"],
                "invariant",
                Reference(
                    27211.386245988, Composition(ELEMENTS, tuple(rng.normal(size=5).tolist()), 0.1),
                    1 / 3, linear=fit.linear,
                ),
                {
                    "mean_predictor": Composition.fit(KNOWN, values),
                    "composition": Composition.fit(KNOWN, values, ELEMENTS),
                    "adsorbate_mean": AdsorbateMean.fit(KNOWN, values),
                    "linear": fit,
                },
            ),
            FittedTarget(
                TARGETS["mu"], "dipole", Reference(1.0, Composition((), (), 0.0), 2.0), {}
            ),
        ),
        errors={"U0": 1 / 7, "mu": 0.1},
        domain=Domain.of(KNOWN, neighbors),
        budget=Budget(160, 48, 9),
        split_digest="ab",
        course=Course(1 / 3, 2, [5, 9], 4),
        memory=Memory([metrics], [(3, 17)], [0.1, 0.2]),
    )  # fmt: skip


def test_a_record_survives_json(record):
    content = json.loads(json.dumps(record.to_dict()))
    again = Record.from_dict(content)
    for field in dataclasses.fields(Record):
        if field.name != "memory":
            assert getattr(again, field.name) == getattr(record, field.name), field.name
    assert again.to_dict() == record.to_dict()
    assert json.loads(json.dumps(again.to_dict())) == content
    assert network(**again.model) == network(**SMALL)
    # Of a target the name is enough: it has one unit, which is there for readers.
    assert again.fitted[0].target is ALL_TARGETS["U0"]
    units = {one["name"]: one["unit"] for one in content["targets"]}
    assert units == {"U0": "meV", "mu": "D"}


@pytest.mark.parametrize(
    ("version", "when"), [(None, "an earlier"), (1, "an earlier"), (VERSION + 1, "a later")]
)
def test_another_version_is_refused_by_name(record, version, when):
    """Before anything else of it is read; the first version did not write its own number."""
    message = (
        f"{when} version of hdgnn_jax wrote this run .its record is of version {version or 1}, "
        f"not {VERSION}.: train again, or use that version"
    )
    with pytest.raises(CheckpointError, match=message):
        Record.from_dict({} if version is None else {"version": version})
    content = record.to_dict()
    del content["version"]
    with pytest.raises(CheckpointError, match="an earlier version"):
        Record.from_dict(content)


def test_the_best_and_the_latest_of_checkpoints(record, tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step, mae in ((5, 1.0), (12, 2.0)):
            of_step = dataclasses.replace(record, course=Course(float(step)))
            checkpoints.save(step, {"w": jnp.ones(2)}, of_step.to_dict(), mae)
        assert Record.of(checkpoints).course.seconds == 12
        assert Record.of(checkpoints, "latest").course.seconds == 12
        assert Record.of(checkpoints, "best").course.seconds == 5
    with (
        Checkpoints(tmp_path / "nothing") as checkpoints,
        pytest.raises(CheckpointError, match="holds no checkpoint"),
    ):
        Record.of(checkpoints)
