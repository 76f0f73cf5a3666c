"""A config's wrong value is one ValueError that names the field, before any data are read."""

from __future__ import annotations

import copy
import json
import math
import sys
import warnings

import pytest
from absl import flags
from fuzz import law
from hypothesis import example, given
from hypothesis import strategies as st

from experiments import program
from experiments.configs import ablations, ase, is2re, qm9
from hdgnn_jax.config import flatten, from_section, with_fields
from hdgnn_jax.run import task
from hdgnn_jax.run.settings import Training

pytestmark = pytest.mark.slow

CONFIGS = {
    "qm9": qm9.get_config("full"),
    "quick": qm9.get_config("quick"),
    "is2re": is2re.get_config("full"),
    "shells": is2re.get_config("shells"),
    "slabs": is2re.get_config("quick"),
    "ase": ase.get_config("quick"),
    **{name: ablations.get_config(name) for name in ablations.VARIANTS},
}
# The product rule for a degree of 6 and the choice of an order take seconds; the smaller have all.
SMALL = ("quick", "ase", "slabs")
FLAT = {name: flatten(json.loads(CONFIGS[name].to_json())) for name in SMALL}
# Where the others have the same value as `quick`, the same code reads it.
FIELDS = {
    name: sorted(
        field for field, value in fields.items()
        if name == "quick" or field.startswith("data.") or FLAT["quick"].get(field, ...) != value
    )
    for name, fields in FLAT.items()
}  # fmt: skip

NEVER = (math.nan, math.inf, -math.inf, {}, {"a": 1}, [[1]], ["a"], b"x")
"""What no field can be."""
SELDOM = (None, "many", "", True, -1, 0, 1, 2.5, 10**30, [], [1, 2], [0.5])
"""What some can be."""


def config_of(name: str) -> dict:
    return json.loads(CONFIGS[name].to_json())


def check(config: dict) -> None:
    """As training begins."""
    from_section(config, "training", Training)
    task.check(config)


def refusal(config: dict) -> str | None:
    """What is said against it; anything but ValueError is a failure of the test."""
    try:
        check(config)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_configs_are_good(name, tried):
    check(config_of(name))
    tried["configs"] += 1


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(name, tried):
    config = config_of(name)
    for field in FIELDS[name]:
        for value in (*NEVER, *SELDOM):
            said = refusal(with_fields(config, {field: value}))
            tried["configs"] += 1
            if said is None:
                assert value not in NEVER, (field, value)
            else:
                assert names(field) & set(said.replace("_", " ").split()), (field, value, said)
                assert "\n" not in said


def names(field: str) -> set[str]:
    """Words by which an error may name a field: all of its last part, or the whole."""
    last = field.rpartition(".")[2]
    return {*last.split("_"), field, f"config.{field}"}


@pytest.mark.parametrize("name", SMALL)
def test_missing_and_unknown_fields_and_sections_are_refused(name, tried):
    config = config_of(name)
    for field in FIELDS[name]:
        *sections, last = field.split(".")
        without, more = copy.deepcopy(config), copy.deepcopy(config)
        inner, section = without, more
        for key in sections:
            inner, section = inner[key], section[key]
        del inner[last]
        section["nonsense"] = 1
        said = refusal(without)
        assert said is None or last in said, (field, said)
        if sections:
            said = str(refusal(more))
            assert "nonsense" in said
            assert f"config.{'.'.join(sections)}" in said
        tried["configs"] += 2
    for section in ("data", "model", "optimizer", "training"):
        for value in (None, 1, "x", [], {}):
            said = refusal(with_fields(config, {section: value}))
            tried["configs"] += 1
            if not (section == "model" and value == {}):  # All of the model's have a default.
                assert said is not None
                assert section in said


@pytest.fixture
def start(monkeypatch, capfd):
    """`start(*arguments)` as from a shell, up to the data: exit code and standard error."""
    # It sets the levels of all logs, for a process of its own.
    monkeypatch.setattr(program, "quiet", lambda: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments/train.py", *arguments])
        started = program.Program("", [program.CONFIG, program.WORKDIR])
        code = 0
        try:
            with warnings.catch_warnings():
                started.begin()
                started.run(lambda: check(program.read_config()))
        except SystemExit as end:
            code = end.code
        finally:
            flags.FLAGS.unparse_flags()
            # Each --config.FIELD is defined once it is given.
            for name in [name for name in flags.FLAGS if name.startswith("config.")]:
                delattr(flags.FLAGS, name)
        out, err = capfd.readouterr()
        assert out == ""
        return code, err

    return call


def test_any_command_line_is_good_or_one_line_that_says_why(start, tried):
    fields = st.sampled_from(FIELDS["quick"])
    values = st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            ["nan", "1e999", "-1", "0", "1", "None", "True", "2.5", "(1, 'a')", "(", "[1]", "()",
             "{}", "9" * 30, "__import__('os').system('false')", "'", "0.5,0.7", "lambda: 0"]
        ),
    )  # fmt: skip
    overrides = st.builds("--config.{}={}".format, fields, values)
    odd = st.one_of(
        st.builds("--config.{}".format, st.text(max_size=6)),
        st.builds("--config.{}=1".format, st.text("abc._-[]'0", max_size=6)),
        st.builds("--config.{}={}".format, st.sampled_from(["data", "model", ""]), values),
        st.builds("--config={}".format, st.text(max_size=8)),
        st.builds("--config=experiments/configs/qm9.py:{}".format, st.text(max_size=8)),
        st.text(max_size=8),
    )

    @law(250)
    @given(st.one_of(overrides, overrides, odd))
    @example("--config.data.train_size=\r")
    @example("--config.data.train_size=a\nb")
    def call(argument):
        tried["command lines"] += 1
        code, err = start("--config=experiments/configs/qm9.py:quick", "--workdir=run", argument)
        if code == 0:
            assert err == ""
            return
        assert code == 1, err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) > len("error: \n")
        field = argument.partition("=")[0].removeprefix("--config.")
        if field in FIELDS["quick"]:
            said = set(err.replace("_", " ").replace("=", " ").replace(":", " ").split())
            assert names(field) & said or field in err, err

    call()
