"""A command prints what it was asked for: no chatter, and a mistake is one line and exit code 1."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import subprocess
import sys
import warnings

import pytest
from absl import flags

from experiments import (
    console,
    evaluate,
    expressiveness,
    plan,
    predict,
    prepare,
    program,
    scaling,
    soak,
    train,
)
from experiments.peer import __main__ as peer
from hdgnn_jax.errors import HDGNNError

QUICK = "--config=experiments/configs/qm9.py:quick"


@pytest.fixture
def call(monkeypatch, capfd):
    """`call(module, *arguments)` as from a shell: exit code and what was printed."""

    def start(module, *arguments):
        monkeypatch.setattr(sys, "argv", [str(module.__file__), *arguments])
        try:
            module.PROGRAM.begin()
            module.PROGRAM.run(module.main)
        except SystemExit as end:
            return end.code, *capfd.readouterr()
        return 0, *capfd.readouterr()

    names = (None, "absl", "jax", "hdgnn_jax")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        yield start
    flags.FLAGS.unparse_flags()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    ours = logging.getLogger("hdgnn_jax")
    ours.handlers, ours.propagate = [], True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([QUICK, "--config.foo=1"], "the config has no field foo"),
        ([QUICK, "--config.model.foo=1"], "the config has no field foo"),
        ([QUICK, "--config.model.chanels=3"], 'no field chanels. Did you mean "channels"'),
        ([QUICK, "--config.model.channels=many"], "config.model.channels=many: invalid literal"),
        ([QUICK, "--config.target=energy"], "unknown target 'energy'; QM9 has mu"),
        (["--config=experiments/configs/qm9.py:fast"], "variants full and quick, not 'fast'"),
        (["--config=nowhere.py"], "nowhere.py: there is no file nowhere.py"),
        (["--config=nowhere.py", "--config.foo=1"], "nowhere.py: there is no file nowhere.py"),
        ([], "--config is missing"),
        ([QUICK, "--json=numbers.json"], "this command has no --json"),
        ([QUICK, "--bogus=1"], "Unknown command line flag 'bogus'"),
        ([QUICK, "--workdir=other"], "--workdir is given 2 times"),
        ([QUICK, "runs/quick"], "unexpected argument 'runs/quick'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(call, tmp_path, arguments, message):
    code, out, err = call(train, f"--workdir={tmp_path / 'run'}", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("module", "arguments"), [(train, [QUICK]), (peer, [])])
def test_a_missing_folder_is_one_line(call, module, arguments):
    code, out, err = call(module, *arguments)
    assert (code, out) == (1, "")
    assert err == "error: --workdir is missing: DIR, folder of the run\n"


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("smiles", "--systems=100"), ("slabs", "--output=x"), ("molecules", "--bad=skip"),
        ("qm9", "--processes=2"), ("extxyz", "--name=x"), ("is2re", "--seed=0"),
    ],
)  # fmt: skip
def test_prepare_refuses_flags_that_it_would_not_read(call, word, flag):
    name = flag.split("=")[0]
    assert call(prepare, word, flag) == (1, "", f"error: prepare {word} has no {name}\n")


@pytest.mark.parametrize(
    ("arguments", "again"),
    [(["extxyz", "--source=x", "--output=y"], "starts anew"), (["smiles"], "goes on from what")],
)
def test_interrupted_preparations_say_whether_they_go_on(call, monkeypatch, arguments, again):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.signal, "signal", lambda *_: None)
    for name in ("extxyz", "of_smiles"):
        monkeypatch.setattr(prepare, name, interrupted)
    code, _, err = call(prepare, *arguments)
    assert code == 1
    assert f"error: stopped; the same command {again}" in err


def test_compiled_programs_are_kept_where_a_folder_can_be_written(monkeypatch, tmp_path):
    def folder(cache, **named):
        monkeypatch.setattr(os, "environ", {"HDGNN_CACHE": str(cache), **named})
        program.keep_compiled()
        return os.environ.get(program.PROGRAMS)

    kept = folder(tmp_path)
    assert os.path.dirname(kept) == str(tmp_path / "programs")
    assert os.path.isdir(kept)
    for own in ("elsewhere", ""):
        assert folder(tmp_path, JAX_COMPILATION_CACHE_DIR=own) == own
    (tmp_path / "file").touch()
    assert folder(tmp_path / "file") is None


def test_the_oldest_compiled_programs_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"HDGNN_CACHE": str(tmp_path)})
    monkeypatch.setattr(program, "LARGEST", 250)
    for k, name in enumerate(("used", "old", "new")):
        file = tmp_path / "programs" / "one" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (k, k))
    os.utime(tmp_path / "programs" / "one" / "used", (9, 0))
    program.keep_compiled()
    assert {path.name for path in (tmp_path / "programs" / "one").iterdir()} == {"used", "new"}


def test_a_traceback_is_shown_on_demand(call, tmp_path):
    folder = f"--workdir={tmp_path / 'nowhere'}"
    code, _, err = call(evaluate, folder)
    assert (code, err.count("\n")) == (1, 1)
    with pytest.raises(HDGNNError, match="nowhere"):
        call(evaluate, folder, "--traceback")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json=nowhere/numbers.json"], "--json=nowhere/numbers.json: its folder does not exist"),
        (["--plot=picture.gif"], "--plot=picture.gif must end in .png"),
        (["--degrees=2,a"], "--degrees must be numbers with commas, not ['2', 'a']"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(call, arguments, message):
    code, out, err = call(expressiveness, *arguments)
    assert (code, out) == (1, "")
    assert message in err


def test_a_damaged_file_of_results_is_named(call, tmp_path):
    file = tmp_path / "rates.json"
    file.touch()
    code, out, err = call(expressiveness, f"--json={file}")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file} is not JSON")
    assert err.count("\n") == 1


def test_a_page_that_cannot_be_written_is_said_before_the_work(call, tmp_path):
    code, out, err = call(scaling, f"--workdir={tmp_path}", "--page=nowhere/page.md")
    assert (code, out) == (1, "")
    assert err == "error: --page=nowhere/page.md: its folder does not exist\n"


@pytest.mark.parametrize(
    ("module", "function", "arguments", "then"),
    [
        (expressiveness, "run", [], "starts anew"),
        (expressiveness, "run", ["--json=rates.json"], "goes on from what was saved"),
        (soak, "soak", [QUICK, "--workdir=soak"], "starts anew"),
    ],
)
def test_ctrl_c_says_what_comes_next(call, monkeypatch, module, function, arguments, then):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, function, stopped)
    assert call(module, *arguments) == (1, "", f"error: stopped; the same command {then}\n")


def test_the_value_of_a_flag_may_be_the_next_word(call, tmp_path):
    words = ["--workdir", str(tmp_path), "--config", "qm9:quick", "--config.seed", "many"]
    code, _, err = call(train, *words)
    assert code == 1
    assert "config.seed=many: invalid literal" in err
    workdir, config, seed = sys.argv[1:]
    assert (workdir, seed) == (f"--workdir={tmp_path}", "--config.seed=many")
    assert re.fullmatch(r"--config=.*configs.qm9.py:quick", config)


HELP = """
import os, runpy, sys
import experiments.program

for name in sys.argv[2:]:
    if os.fork():
        assert os.wait()[1] == 0, name
        continue
    sys.stdout = open(f"{sys.argv[1]}/{name}", "w")
    sys.argv[1:] = ["--help"]
    try:
        runpy.run_module(f"experiments.{name}", None, "__main__", True)
    except SystemExit as end:
        assert not end.code
    print("IMPORTED", *sys.modules)
    break
"""
HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "scipy", "ase"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([QUICK], "--topology is missing"),
        ([QUICK, "--topology=v9:2x2"], "unknown topology 'v9:2x2': it must be cpu, h100:1"),
        ([QUICK, "--topology=cpu", "--atoms=18"], "--atoms and --edges must be given together"),
        ([QUICK, "--topology=cpu", "--atoms=0"], "--atoms"),
        ([QUICK, "--topology=cpu", "--json=nowhere/plan.json"], "its folder does not exist"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(call, arguments, message):
    code, out, err = call(plan, *arguments)
    assert (code, out) == (1, "")
    assert (err.startswith("error: "), err.count("\n")) == (True, 1)
    assert message in err


def test_help_says_how_to_call_a_command_and_imports_nothing_that_takes_seconds(tmp_path):
    """Each in a process of its own, which one interpreter forks."""
    command = [sys.executable, "-c", HELP, str(tmp_path), *console.NAMES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in console.NAMES:
        out, _, modules = (tmp_path / name).read_text().rpartition("IMPORTED ")
        assert "hdgnn_jax" in modules.split(), name
        assert not HEAVY & set(modules.split()), name
        assert out.startswith(f"usage: python -m experiments.{name} "), name
        assert re.search(rf"\n\n    python -m experiments\.{name}( \S|\n)", out), name
        if name != "benchmarks":  # which is for developers
            assert "\n\nFlags\n" in out, name
            assert "\n\nExit codes: 0" in out, name


def test_help_ends_without_a_word_where_nobody_reads_on():
    """As of `--help | head -0`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "--help"], stdout=write, stderr=subprocess.PIPE,
        cwd=pathlib.Path(train.__file__).parents[1], text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_prints_its_progress_in_80_columns_and_nothing_else(command, finished):
    lines = command.stderr.splitlines()
    assert all(len(line) <= 80 for line in lines)
    patterns = [
        r"loss \d\.\d{4}, MAE \S+ .* 12/12",
        r"validation .* 10000/10000",
        r"test .* 10831/10831",
    ]
    # A bar that takes a minute, on a slow machine, has lines before its last.
    counts = [re.search(r" (\d+)/(\d+) .* left ", line) for line in lines]
    ends = [line for line, n in zip(lines, counts, strict=True) if not n or n[1] == n[2]]
    for line, pattern in zip(filter(str.strip, ends), patterns, strict=True):
        assert re.fullmatch(rf"{pattern} +\d+ structures/s left 0:00:00", line.strip())
    first, *table, last = command.stdout.splitlines()
    assert first.startswith("HDGNN, ")
    assert "Mean absolute error of U0 [meV]" in "".join(table)
    assert last.endswith(f"compilations; report in {finished / 'report'}")


def test_predict_needs_no_output(call, tmp_path):
    """It prints a table then."""
    code, out, err = call(predict, f"--workdir={tmp_path}", "smiles:C")
    assert (code, out) == (1, "")
    assert "no checkpoint" in err
