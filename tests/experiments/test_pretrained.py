"""A run can start from the weights of another: of more elements, for other targets."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from experiments import train
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import SHIPPED, load
from hdgnn_jax.run.pretrained import Pretrained
from hdgnn_jax.run.task import Task, examples
from hdgnn_jax.training import step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.loop import StoppedError
from hdgnn_jax.training.record import Record

ELEMENTS = (9, 8, 7, 6, 1)


def started(config) -> dict[str, np.ndarray]:
    """The weights of a run before its first step."""
    data, source = dataset(config), Pretrained.of(config)
    task, _ = Task.prepare(config, data, examples(config, data, "train"), source)
    state = task.init_state(step.make_mesh(), source=source)
    return flat(state.params)


def flat(params) -> dict[str, np.ndarray]:
    return flatten_dict(jax.device_get(params), sep="/")


def test_weights_are_the_other_runs_but_for_what_it_does_not_have(finished, in_use, changed):
    _, predictor = in_use
    old = flat(predictor.params)
    new = started(
        changed(target="gap,U0", init=str(finished), **{"model.elements": (16, *ELEMENTS)})
    )
    assert new.keys() == old.keys()
    source = predictor.model.hyper.elements
    rows = [1 + ELEMENTS.index(z) for z in source]
    for path, value in new.items():
        if path.endswith("table"):
            np.testing.assert_array_equal(value[..., rows, :], old[path])
            assert (value[..., :1, :] != old[path][..., :1, :]).all()
        elif path.split("/")[-2] in ("sphere_out", "invariant_out"):
            # Those of U0 are scaled to the same structures: nothing changes.
            np.testing.assert_allclose(value[..., 1:], old[path], rtol=1e-6)
        else:
            np.testing.assert_array_equal(value, old[path])


def test_frozen_layers_stay_and_it_goes_on_without_its_source(
    finished, in_use, changed, tmp_path
):
    """Stopped and gone on with, the run ends in the same bits; its source is gone by then."""
    source = tmp_path / "source"
    source.symlink_to(finished)
    config = changed(
        target="gap", init=str(source),
        **{"training.frozen_layers": 1, "training.init_rate": 0.5, "data.train_size": 200},
    )  # fmt: skip
    train.run(config, tmp_path / "whole", report=False)
    with pytest.raises(StoppedError):
        train.run(config, tmp_path / "halves", stop=lambda step: step == 3)
    digest = Pretrained.of(config).digest
    source.unlink()
    train.run(config, tmp_path / "halves", report=False)
    for name in ("whole", "halves"):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            assert Record.of(checkpoints).course.init_digest == digest
    old = flat(in_use[1].params)
    whole, halves = (flat(Predictor.load(tmp_path / name).params) for name in ("whole", "halves"))
    for path, value in whole.items():
        np.testing.assert_array_equal(halves[path], value)
        if path.startswith("molecule_head/"):
            assert (value != old[path]).any()
        else:
            # The average of the same numbers rounds.
            np.testing.assert_allclose(value, old[path], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model.cutoff": 3.5}, r"has another network: --config.model.cutoff=3.0$"),
        ({"training.frozen_layers": 2}, "frozen_layers = 2 is more than config.model.layers = 1"),
        ({"init": None, "training.init_rate": 0.1}, "init_rate needs config.init"),
        ({"init": "nothing"}, "nothing"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(
    finished, changed, tmp_path, values, words
):
    config = changed(**{"init": str(finished), "data.cache": str(tmp_path / "none"), **values})
    with pytest.raises((ValueError, CheckpointError), match=words):
        train.run(config, tmp_path / "run")


def test_a_run_starts_from_the_packages_weights(changed):
    """Outputs are standardised anew: the old ones times the old scale are the new times the new."""
    record, params = load(SHIPPED, step.make_mesh())
    config = changed(init="pretrained", target="mu,zpve", **{"data.reference": "linear"})
    config["training"]["auxiliary"] = True
    of_record = {k: v for k, v in record.model.items() if k not in ("heads", "neighbors")}
    config["model"] = {**config["model"], **of_record}
    data, source = dataset(config), Pretrained.of(config)
    task, _ = Task.prepare(config, data, examples(config, data, "train"), source)
    new, old = flat(task.init_state(step.make_mesh(), source=source).params), flat(params)
    assert new.keys() == old.keys()
    names = [one.name for one in record.fitted]
    for k, one in enumerate(task.fitted):
        before = record.fitted[names.index(one.name)]
        path = "molecule_head/scalars/sphere_out/kernel"
        # `r2`, which is before zpve, has two columns.
        column = names.index(one.name) + (names.index(one.name) > names.index("r2"))
        np.testing.assert_allclose(
            new[path][:, k] * one.reference.scale,
            old[path][:, column] * before.reference.scale,
            rtol=1e-5,
        )
    for path in new.keys() - {p for p in new if p.startswith("molecule_head/")}:
        np.testing.assert_array_equal(new[path], old[path])
