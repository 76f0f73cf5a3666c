"""Compares Clebsch-Gordan products with S(r), METP and fully connected, with e3nn-jax's.

Our product turns the input to the edge's frame, multiplies there and turns back. e3nn's is its
tensor product, linear layer and gate, in the global frame.
"""

from __future__ import annotations

import e3nn_jax
import e3nn_jax.flax
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import Kernel, Pair, versus
from hdgnn_jax.models.message import TensorProductGate
from hdgnn_jax.so3 import degrees, frames, harmonics, wigner
from hdgnn_jax.types import Apply, Params, PyTree


def run(report: Report) -> dict[str, float]:
    """Times both with given geometry and harmonics, as in a layer; gradients with respect to x."""
    degree, low, channels, n_edges = (2, 1, 4, 16) if report.quick else (6, 2, 32, 2000)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n_edges, 3))
    unit = jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), jnp.float32)
    frame = frames.edge_frame(unit, jnp.zeros(n_edges))
    rows = wigner.wigner_rows(degree, frame, low)
    into, back = wigner.wigner(rows, m_max=low), wigner.wigner(rows, l_max=low)
    # All have even parity, so that all paths that rotations allow count, as in our product.
    all_degrees = e3nn_jax.Irreps([(1, (l, 1)) for l in range(degree + 1)])
    sphere = e3nn_jax.IrrepsArray(all_degrees, jnp.asarray(harmonics.harmonics(degree, unit)))
    out = [e3nn_jax.Irrep(l, 1) for l in range(low + 1)]
    gated = e3nn_jax.Irreps([(channels * (1 + (l == 0) * low), ir) for l, ir in enumerate(out)])

    pairs = {}
    for name, width in (("metp", 1), ("fully_connected", channels)):
        x = jnp.asarray(rng.normal(size=(n_edges, degrees.size(degree), width)), jnp.float32)
        module = TensorProductGate(degree, low, channels, "float32")
        weights = module.init(jax.random.key(0), wigner.rotate(into, x))
        linear = e3nn_jax.flax.Linear(gated)

        def ours(
            x: jax.Array, weights: Params, into: PyTree, back: PyTree,
            module: TensorProductGate = module,
        ) -> jax.Array:  # fmt: skip
            product: PyTree = module.apply(weights, wigner.rotate(into, x))
            return wigner.rotate_back(back, product)

        def product(
            x: jax.Array, sphere: e3nn_jax.IrrepsArray, width: int = width
        ) -> e3nn_jax.IrrepsArray:
            irreps = e3nn_jax.Irreps([(width, ir) for _, ir in all_degrees])
            parts = [
                jnp.swapaxes(x[:, degrees.block(l)], 1, 2).reshape(len(x), -1)
                for l in range(degree + 1)
            ]
            array = e3nn_jax.IrrepsArray(irreps, jnp.concatenate(parts, -1))
            return e3nn_jax.tensor_product(array, sphere, filter_ir_out=out)

        def e3nn(
            x: jax.Array, weights: Params, sphere: e3nn_jax.IrrepsArray,
            product: Apply = product, linear: e3nn_jax.flax.Linear = linear,
        ) -> jax.Array:  # fmt: skip
            mixed = linear.apply(weights, product(x, sphere))
            gates = e3nn_jax.gate(mixed, jax.nn.silu, jax.nn.silu, jax.nn.sigmoid)
            array: jax.Array = gates.array
            return array

        drawn = jax.jit(linear.init)(jax.random.key(0), jax.jit(product)(x, sphere))
        pairs[f"{name}_L{degree}"] = Pair(
            Kernel(ours, (x, weights, into, back)),
            (Kernel(e3nn, (x, drawn, sphere)),),
        )
    title = f"Products to L' = {low}: L = {degree}, {n_edges:,} edges, {channels} channels"
    return versus(report, title, pairs)
