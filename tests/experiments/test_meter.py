"""The meter's command, on a trained and on an untrained model."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from experiments import symmetry
from hdgnn_jax.graphs import batching
from hdgnn_jax.training import step


@pytest.fixture
def few(monkeypatch):
    """One point on each curve: every one is a compilation."""
    monkeypatch.setattr(symmetry, "FRAMES", (2,))
    monkeypatch.setattr(symmetry, "SPHERES", 1)


@pytest.mark.usefixtures("few")
def test_a_trained_model_is_measured_against_its_own_errors(several, tmp_path, capsys):
    """With a row for each of its targets."""
    file, plot = tmp_path / "symmetry.json", tmp_path / "symmetry.png"
    symmetry.run(several, None, 4, 2, str(file), str(plot))
    found = json.loads(file.read_text())
    targets = json.loads((several / "report" / "summary.json").read_text())["targets"]
    errors = {name: (row["unit"], row["mae"]) for name, row in targets.items()}
    assert list(errors) == ["gap", "mu", "U0"]
    assert errors == {
        name: (row["unit"], row["test_mae"]) for name, row in found["targets"].items()
    }
    assert (found["unit"], found["test_mae"]) == errors["gap"]
    for row in found["choices"].values():
        assert row["mad"] > 0
        assert row["forces_mad"] > 0
        assert list(row["targets"]) == list(errors)
        assert row["mad"] == row["targets"]["gap"]["mad"]
    assert found["choices"]["rotation"]["mad"] < found["test_mae"]
    assert len(found["layers"]) == 1
    assert plot.stat().st_size
    (layer,) = found["attention"]["layers"]
    assert len(layer["mean"]) == len(found["attention"]["terms"]) == 4
    # Nothing is nearer than a tenth of the cutoff.
    assert all(of_term[0] is None and any(of_term) for of_term in layer["by_distance"])
    out = capsys.readouterr().out
    assert "Rotation error of gap" in out
    assert "MAD of each target" in out
    assert "a4 (product)" in out


def test_the_error_of_one_target_is_read_too(finished):
    summary = json.loads((finished / "report" / "summary.json").read_text())
    assert symmetry.errors_of(summary) == {"U0": summary["mae"]}


def test_an_untrained_model_has_no_error_to_compare_with(config, monkeypatch):
    """Its weights are those that training would start from."""
    given = []
    monkeypatch.setattr(symmetry, "PARTS", ((lambda *of: given.extend(of) or {}, lambda of: None),))
    assert symmetry.run(None, config, 2, 2, None, None)["test_mae"] is None
    task, params, graph, _ = given
    start = task.init_state(step.make_mesh()).params
    jax.tree.map(np.testing.assert_array_equal, params, start)
    assert int(batching.graph_mask(graph).sum()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, 4, 2), "give --workdir=DIR"),
        ((None, None, 1, 2), "--molecules and --rotations must be at least 2"),
    ],
)
def test_a_call_that_says_nothing_to_measure_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        symmetry.run(*arguments, None, None)
