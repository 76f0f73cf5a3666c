"""Compares Wigner matrices of edges, and rotations by them, with e3nn-jax's."""

from __future__ import annotations

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.report import Report
from experiments.benchmarks.versus import Kernel, Pair, versus
from hdgnn_jax.so3 import degrees, frames, safe, wigner

M_MAX = 1


def run(report: Report) -> dict[str, float]:
    """Times both libraries from edge vectors to the rows |m| <= 1."""
    degree, n_edges, channels = (2, 64, 4) if report.quick else (6, 8000, 32)
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(n_edges, 3)), jnp.float32)
    roll = jnp.asarray(rng.uniform(0, 2 * np.pi, n_edges), jnp.float32)
    x = jnp.asarray(rng.normal(size=(n_edges, degrees.size(degree), channels)), jnp.float32)

    def ours(vectors: jax.Array) -> jax.Array:
        rotation = frames.edge_frame(safe.normalise(vectors), roll)
        return wigner.wigner_rows(degree, rotation, M_MAX)

    def e3nn(vectors: jax.Array) -> list[jax.Array]:
        matrix = frames.rotation_matrix(frames.edge_frame(safe.normalise(vectors), roll))
        return [_kept(e3nn_jax.Irrep(l, 1).D_from_matrix(matrix)) for l in range(degree + 1)]

    def turn(x: jax.Array, frame: wigner.Wigner) -> jax.Array:
        return wigner.rotate_back(frame, wigner.rotate(frame, x))

    def e3nn_turn(x: jax.Array, blocks: list[jax.Array]) -> jax.Array:
        # Blocks are applied as in IrrepsArray.transform_by_matrix, in e3nn's layout [E, C, S].
        parts = []
        for l, block in enumerate(blocks):
            turned = jnp.einsum("eij,ecj->eci", block, x[..., degrees.block(l)])
            parts.append(jnp.einsum("eij,eci->ecj", block, turned))
        return jnp.concatenate(parts, -1)

    rows, blocks = jax.jit(ours)(vectors), jax.jit(e3nn)(vectors)
    frame = wigner.wigner(rows)
    channels_first = jnp.swapaxes(x, 1, 2)
    turned = jnp.swapaxes(jax.jit(e3nn_turn)(channels_first, blocks), 1, 2)
    pairs = {
        f"wigner_L{degree}": Pair(
            Kernel(ours, (vectors,)),
            (Kernel(e3nn, (vectors,)),),
            max(float(abs(_rows_of(rows, l) - block).max()) for l, block in enumerate(blocks)),
        ),
        f"rotation_L{degree}": Pair(
            Kernel(turn, (x, frame)),
            (Kernel(e3nn_turn, (channels_first, blocks)),),
            float(abs(jax.jit(turn)(x, frame) - turned).max()),
        ),
    }
    title = f"D, and D^T D x with {channels} channels: {n_edges:,} edges, |m| <= {M_MAX}"
    results = versus(report, title, pairs)
    return results | {f"{name}_difference": pair.difference for name, pair in pairs.items()}


def _rows_of(rows: jax.Array, l: int) -> jax.Array:
    m = min(l, M_MAX)
    return rows[:, M_MAX - m : M_MAX + m + 1, degrees.block(l)]


def _kept(block: jax.Array) -> jax.Array:
    centre = block.shape[-1] // 2
    m = min(centre, M_MAX)
    return block[..., centre - m : centre + m + 1, :]
