"""The text of a compiled program gives what XLA counts, and what it does not: loops and tiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hdgnn_jax.training import compiled, hlo, step

TURNS = 7


def program(function, *arguments):
    made = jax.jit(function).lower(*arguments).compile()
    return compiled.read(made.as_text()), made.cost_analysis()


def stack(x, kernels, unroll):
    def layer(x, kernel):
        return jnp.tanh(jnp.dot(x, kernel, precision="highest")), None

    return jax.lax.scan(layer, x, kernels, unroll=unroll)[0]


def test_a_loop_counts_as_often_as_it_turns():
    given = jnp.ones((64, 32)), jnp.ones((TURNS, 32, 32))
    looped, xla = program(lambda x, k: stack(x, k, 1), *given)
    written_out, _ = program(lambda x, k: stack(x, k, True), *given)
    (loop,) = [run for run in looped.runs if run.operation.kind == "while"]
    assert looped.turns(loop.operation, loop.inside) == TURNS
    assert looped.unknown_loops == 0
    flop = 2 * 64 * 32 * 32
    assert [product[:2] for product in looped.products] == [(flop, TURNS)]
    assert [product[:2] for product in written_out.products] == TURNS * [(flop, 1)]
    assert looped.moved(repeated=False) == pytest.approx(xla["bytes accessed"], rel=0.01)


def test_bytes_are_those_that_xla_counts():
    def function(x, places, kernel):
        rows = jnp.sin(x)[places] @ kernel
        return jnp.zeros_like(x).at[places].add(rows).sum(0), jnp.cumsum(x, 0)

    given = jnp.ones((300, 16)), jnp.zeros(500, int), jnp.ones((16, 16))
    text, xla = program(function, *given)
    # A scatter is a loop here, which XLA counts as one turn.
    assert text.moved(repeated=False) == pytest.approx(xla["bytes accessed"], rel=0.1)


def test_exchanges_between_devices_are_found():
    mesh = step.make_mesh()
    given = jax.ShapeDtypeStruct((mesh.size, 100), np.float32, sharding=step.sharded(mesh))
    placed = NamedSharding(mesh, PartitionSpec())
    made = jax.jit(lambda x: x.sum(0), out_shardings=placed).lower(given).compile()
    assert compiled.read(made.as_text()).exchanges == {"all-reduce": (1, 400)}


@pytest.mark.parametrize(
    ("text", "logical", "tiled", "on_chip"),
    [
        ("f32[5,64]{1,0:T(8,128)}", 5 * 64 * 4, 8 * 128 * 4, False),
        ("f32[64,5]{0,1:T(8,128)S(1)}", 5 * 64 * 4, 8 * 128 * 4, True),
        ("bf16[3,16,200]{2,1,0:T(8,128)(2,1)}", 3 * 16 * 200 * 2, 3 * 16 * 256 * 2, False),
        ("s32[]{:T(128)}", 4, 512, False),
        ("f32[7,3]{1,0}", 84, 84, False),
        ("pred[10]{0}", 10, 10, False),
    ],
)
def test_arrays_are_padded_to_tiles(text, logical, tiled, on_chip):
    (array,) = hlo.arrays_of(text)
    assert (array.bytes, array.tiled, array.on_chip) == (logical, tiled, on_chip)


TPU = """HloModule jit_f, is_scheduled=true

%body.1 (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %g = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %convolution.1 = f32[8,128]{1,0:T(8,128)S(1)} convolution(%g, %g), dim_labels=bf_io->bf, operand_precision={highest,highest}, backend_config={"window_config":{"estimated_cycles":"640"}}
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%g, %convolution.1, %g)
}

%condition.1 (q: (s32[], f32[8,128])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %limit = s32[]{:T(128)} get-tuple-element(%q), index=2
  %counter = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

ENTRY %main.1 (x: f32[8,128]) -> f32[8,128] {
  %zero = s32[]{:T(128)} constant(0)
  %six = s32[]{:T(128)} constant(6)
  %x = f32[8,128]{1,0:T(8,128)} parameter(0), metadata={op_name="batch.x"}
  %copied = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%zero, %x, %six)
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}) while(%tuple.1), condition=%condition.1, body=%body.1
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501
"""As libtpu writes it: a loop whose limit is among what it carries, copies that are started."""


def test_a_program_for_a_tpu_is_read():
    text, size = compiled.read(TPU), 8 * 128 * 4
    assert [o.place for o in text.parameters] == ["batch.x"]
    assert text.unknown_loops == 0
    assert text.products == [(2 * 8 * 128 * 8, 6, 6)]
    assert text.cycles == 6 * 640
    # The copy reads memory; the products read their two operands, and write on the chip.
    compares = 6 * (512 + 2 * 512)
    assert text.moved() == size + 6 * 2 * size + compares
    assert text.moved(on_chip=True) - text.moved() == size + 6 * size


def test_an_array_that_is_fetched_in_parts_is_read_once():
    """A slice that is started names the whole array first, then the part that it writes."""
    whole, part = "f32[16,3]{1,0:T(8,128)}", "f32[8,3]{1,0:T(8,128)S(1)}"
    text = compiled.read(f"""HloModule m

ENTRY %main (a: f32[16,3]) -> f32[8,3] {{
  %a = {whole} parameter(0)
  %one = (({whole}), {part}, s32[]{{:S(2)}}) slice-start(%a), slice={{[0:8], [0:3]}}
  %two = (({whole}), {part}, s32[]{{:S(2)}}) slice-start(%a), slice={{[8:16], [0:3]}}
  ROOT %c = {part} slice-done(%one)
}}
""")
    assert text.moved() == 16 * 128 * 4
    assert text.moved(padded=False) == 16 * 3 * 4
    assert text.moved(on_chip=True) == 2 * 16 * 128 * 4


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("(f32[4]{0}, f32[4]{0}, u32[]) copy-start(%a)", 16),
        ("((f32[4]{0}, f32[6]{0}), f32[8]{0}, f32[12]{0}) all-gather-start(%a, %b)", 80),
        ("((f32[9]{0}, s32[]), f32[2]{0}, s32[]) dynamic-slice-start(%a, %i)", 8),
        ("(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%a)", 16),
        ("(f32[4]{0}, f32[6]{0}) all-reduce-start(%a, %b)", 40),
    ],
)
def test_what_begins_writes_its_results_alone(line, written):
    operation = hlo._operation("x", line)
    assert sum(array.bytes for array in operation.written) == written


@pytest.mark.parametrize(
    ("result", "first", "second", "attributes", "flop"),
    [
        # A batch of 46 products of [3, 5] with [5, 7].
        ("46,3,7", "46,3,5", "46,5,7",
         "window={size=46 stride=45 lhs_dilate=46}, dim_labels=0bf_0io->0bf", 46 * 3 * 5 * 7),
        # One number along the axis, so that each window meets one of its own.
        ("9,4,8", "1,4,6", "9,6,8",
         "window={size=9 pad=8_8 rhs_reversal=1}, dim_labels=0bf_0io->0bf", 9 * 4 * 6 * 8),
        # A window of three along ten numbers, padded by one at each end.
        ("10,4,8", "10,4,6", "3,6,8", "window={size=3 pad=1_1}, dim_labels=0bf_0io->0bf",
         (3 * 8 + 2 * 2) * 4 * 6 * 8),
        ("4,8", "4,6", "6,8", "dim_labels=bf_io->bf", 4 * 6 * 8),
    ],
)  # fmt: skip
def test_products_are_counted_without_what_windows_miss(result, first, second, attributes, flop):
    """The compiler for TPUs writes products as convolutions, batches among them."""
    text = compiled.read(f"""HloModule m

ENTRY %main (a: f32[{first}], b: f32[{second}]) -> f32[{result}] {{
  %a = f32[{first}] parameter(0)
  %b = f32[{second}] parameter(1)
  ROOT %c = f32[{result}] convolution(%a, %b), {attributes}, operand_precision={{high,high}}
}}
""")
    assert text.products == [(2 * flop, 1, 3)]
