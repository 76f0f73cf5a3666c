"""A plan says what does not fit, and finds what does."""

from __future__ import annotations

import jax
import pytest

from hdgnn_jax import cpu
from hdgnn_jax.errors import InputError
from hdgnn_jax.training import chips, plan

V5E = chips.CHIPS["TPU v5 lite"]


@pytest.mark.parametrize("tries", [3, 20])
@pytest.mark.parametrize("capacity", [3, 40, 1000, 10_000_000])
def test_the_largest_batch_is_bracketed(capacity, tries):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > capacity:
            raise plan.TooLargeError("too large")
        return (size + 5) / (capacity + 5)

    fits, fails = plan.largest_batch(attempt, 16, 4, 100_000, tries)
    assert len(tried) <= tries
    assert all(size % 4 == 0 and size <= 100_000 for size in tried)
    assert fits <= capacity
    assert fails is None or fails > capacity
    if tries == 20:
        assert fits in (0, 100_000) or fits >= capacity / (1 + 2 * plan.ENOUGH) - 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (298.50G) exceeds available HBM (15.75G).",
            "298.5 GiB of memory, and TPU v5e has 15.8 GiB",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.30G of 15.75G hbm.",
            "20.3 GiB of memory, and TPU v5e has 15.8 GiB",
        ),
        ("RESOURCE_EXHAUSTED: something new", "more memory, and TPU v5e has 15.8 GiB"),
    ],
)
def test_what_does_not_fit_is_a_sentence_with_the_fields_that_lower_it(text, words):
    said = str(plan._overflow(text, V5E))
    assert said.startswith("a step needs ")
    assert words in said
    for field in ("training.batch_size", "model.remat=True", "model.channels"):
        assert field in said


def test_a_compiler_that_stops_is_one_line():
    class Lowered:
        def compile(self, options):
            raise jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes\nat x.cc")

    with pytest.raises(plan.CompilerError, match=r"for TPU v5e \(INTERNAL: Couldn't") as error:
        plan.plan(Lowered(), V5E, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("topology", ["v5e", "v7:2x2", "gpu", "h100:0", "h100", ""])
def test_an_unknown_topology_is_one_line(topology, monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"unknown topology|libtpu, the compiler") as error:
        chips.devices_of(topology)
    assert "\n" not in str(error.value)


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"hdgnn_jax\[tpu-plan\]\""):
        chips.devices_of("v5e:2x2")
    with pytest.raises(InputError, match=r"pip install \"jax\[cuda12\]\""):
        chips.devices_of("h100:1")


def test_this_machine_has_memory_and_speed():
    assert chips.measured_product(64) > 0
    assert chips.measured_bandwidth(2**16) > 0
    assert cpu.resident() > 2**20
