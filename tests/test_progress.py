"""The bar fits a terminal of 80 columns and cuts nothing off."""

from __future__ import annotations

import jax
import pytest

from hdgnn_jax import progress as module
from hdgnn_jax.progress import progress_bar

LONGEST = "loss 12.3456, MAE 1.234e+04"


@pytest.mark.parametrize("done", [0, 1, 400_000, 515_625])
@pytest.mark.parametrize("description", ["compiling", LONGEST])
def test_count_rate_and_time_left_stay_whole(monkeypatch, capsys, done, description):
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar("molecules") as progress:
        task = progress.add_task(description, total=515_625, per=64)
        progress.advance(task, done)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) <= 80
    assert line.startswith(f"{description} ")
    assert f" {done}/515625 " in line
    assert " molecules/s left " in line
    assert line.rstrip()[-1] in "0123456789-"


def test_slow_work_has_a_rate_too(capsys):
    with progress_bar("settings") as progress:
        task = progress.add_task("points", total=2)
        progress.tasks[task].finished_speed = 0.25
    assert " 0.25 settings/s left " in capsys.readouterr().err


def test_a_log_has_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    with progress_bar("molecules") as progress:
        task = progress.add_task("x", total=3)
        progress.advance(task)
        monkeypatch.setattr(module, "EVERY", 60.0)
        progress.update(task, completed=2)
        monkeypatch.setattr(module, "EVERY", 0.0)
        progress.update(task, completed=3)
    lines = capsys.readouterr().err.splitlines()
    assert [n in line for n, line in zip((" 1/3 ", " 3/3 "), lines, strict=True)] == [True, True]


def test_of_several_processes_the_second_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with progress_bar("molecules") as progress:
        progress.advance(progress.add_task("x", total=1))
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_it_is_text_too(capsys, monkeypatch):
    """rich's widgets fail where %%capture collects the output of a cell."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with progress_bar("molecules") as progress:
        progress.advance(progress.add_task("x", total=1))
    assert " 1/1 " in capsys.readouterr().err
