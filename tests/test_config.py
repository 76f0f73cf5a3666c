"""Fields of a config by dotted name."""

from __future__ import annotations

from hdgnn_jax.config import flatten, with_fields


def test_fields_and_sections_are_replaced_in_a_copy():
    config = {"a": {"b": 1, "c": {}}, "d": 2}
    new = with_fields(config, {"a.b": {"f": 3}, "a.e": None})
    assert new == {"a": {"b": {"f": 3}, "c": {}, "e": None}, "d": 2}
    assert flatten(new) == {"a.b.f": 3, "a.e": None, "d": 2}
    for value in ({}, {"b": 4}, "x"):
        assert with_fields(config, {"a": value}) == {"a": value, "d": 2}
    assert config == {"a": {"b": 1, "c": {}}, "d": 2}
