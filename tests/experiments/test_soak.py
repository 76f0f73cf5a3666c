"""The soak samples what it promises, and leaves nothing behind."""

from __future__ import annotations

import pytest

from experiments import soak
from hdgnn_jax.errors import InputError

pytestmark = pytest.mark.slow


def test_a_run_is_sampled_until_the_time_is_over(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(soak, "EVERY", 2)
    after = soak.Watch.after

    def until_step_7(self, step):
        if step == 7:
            self.until = 0
        return after(self, step)

    monkeypatch.setattr(soak.Watch, "after", until_step_7)
    found = soak.soak(config, tmp_path / "soak", minutes=60)
    assert found["step"] == [0, 2, 4, 6]
    assert {len(column) for column in found.values()} == {4}
    (row,) = soak.of_runs(found)
    assert 100 < row["before_mib"] <= row["most_mib"]
    assert row["compilations"] > 0
    soak.show(found)
    soak.draw(tmp_path / "soak.png", found)
    # Before there is an interval between two samples.
    soak.draw(tmp_path / "short.png", {name: column[:2] for name, column in found.items()})
    assert (tmp_path / "soak.png").stat().st_size
    assert "Soak" in capsys.readouterr().out
    assert list((tmp_path / "soak").iterdir()) == []


def test_runs_too_short_to_time_a_step_are_refused_at_once(config, tmp_path):
    with pytest.raises(InputError, match=r"a soak needs training.steps of 40 or more"):
        soak.soak(config, tmp_path / "soak", minutes=60)
    assert not (tmp_path / "soak").exists()
