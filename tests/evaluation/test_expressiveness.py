"""What a strictly equivariant layer cannot see, and the learned pathway can."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from equivariance import harmonics
from small import quick_key

from experiments import expressiveness as program
from hdgnn_jax.evaluation import expressiveness


@pytest.mark.parametrize("n", [2, 3, 5])
def test_n_fold_structures_differ_from_degree_n_on(n):
    """To lower degrees the turned circle is the same."""
    for seed in range(3):
        here, there = (
            harmonics(n, s.positions[1:]).sum(0) for s in expressiveness.n_fold(n, seed)
        )
        np.testing.assert_allclose(here[: n * n], there[: n * n], atol=1e-9)
        assert np.abs(here - there).max() > 0.1


@pytest.mark.parametrize("variant", ["baseline", "so2"])
def test_one_layer_of_degree_2_sees_what_it_can(variant, monkeypatch):
    """Two neighbours by all; three, every seed, by the learned pathway alone."""
    monkeypatch.setattr(jax.random, "key", quick_key)
    folds, seeds = (2, 3), 3
    pairs = [expressiveness.n_fold(n, seed) for n in folds for seed in range(seeds)]
    done = expressiveness.told_apart(program.model_of(variant, 2, 1), pairs, seed=0)
    two, three = done.reshape(len(folds), seeds)
    assert two.all()
    assert three.all() if variant == "baseline" else not three.any()


def test_program_writes_its_table_and_picture(tmp_path, monkeypatch, capsys):
    """Every row once; nothing is trained here."""
    monkeypatch.setattr(
        expressiveness, "told_apart", lambda model, pairs, **_: np.arange(len(pairs)) % 2 == 0
    )
    file, plot = tmp_path / "rates.json", tmp_path / "rates.png"
    program.run([1, 2], [2, 3, 4], 2, str(file), str(plot))
    rows = json.loads(file.read_text())
    assert [set(row) for row in rows] == [{"variant", "L", "n", "seeds", "success_rate"}] * 24
    assert {row["success_rate"] for row in rows} == {0.5}
    chains = json.loads(file.with_suffix(".chains.json").read_text())
    assert {row["layers"] for row in chains} == {1, 2, 3, 4}
    assert plot.stat().st_size
    # Nothing is left to train for a part of it, and only what is new for more.
    monkeypatch.setattr(
        expressiveness, "told_apart", lambda model, pairs, **_: np.full(len(pairs), True)
    )
    program.run([1], [3, 5], 2, str(file), None)
    more = json.loads(file.read_text())
    assert more[:24] == rows
    assert [(row["n"], row["success_rate"]) for row in more[24:]] == [(5, 1.0)] * 4
    assert json.loads(file.with_suffix(".chains.json").read_text()) == chains
    assert "n-fold structures" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--folds must be at least 2"):
        program.run([1], [1], 1, None, None)
