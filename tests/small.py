"""A model small enough to compile many times, with parameters that are in no way special."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.extend.random import define_prng_impl
from molecules import CUTOFF, KNOWN, graph_of

from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import TARGETS, Reference, Target
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.inference.weights import shapes
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.training import step

SMALL = {
    "cutoff": CUTOFF,
    "degree": 2,
    "layers": 2,
    "channels": 4,
    "hidden": 8,
    "invariant_channels": 8,
    "edge_channels": 8,
    "n_gaussians": 16,
    "neighbors": 4.0,
}
PLAIN = {**SMALL, "degree": 1, "product_degree": 1, "layers": 1, "tensor_product": "none"}
"""For what any network shows that depends on rolls: compiled in two thirds of the time."""
EXACT = {"attention": (0.0, 0.0, 0.0, 1.0), "sphere_order": 65}
"""Options that leave only what is equivariant, on a sphere without aliasing (to rounding)."""
BUDGET = batching.Budget(n_edge=144, n_node=40, n_graph=len(KNOWN) + 1)
"""Holds the known molecules: one shape, so one compilation for all of them in any order."""


GOLDEN = np.uint32(0x9E3779B9)


def _mixed(x: jax.Array) -> jax.Array:
    """Of 32 bits, each depends on all that come in (the finaliser of a hash)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """[shape] random bits: counters by the golden ratio, mixed."""
    counter = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32).reshape(shape)
    return _mixed(_mixed(key[0]) + GOLDEN * counter)


quick_key = functools.partial(
    jax.random.key,
    impl=define_prng_impl(
        key_shape=(1,),
        seed=lambda seed: jnp.asarray(seed, jnp.uint32)[None],
        split=lambda key, shape: _bits(key, 32, (*shape, 1)),
        random_bits=_bits,
        fold_in=lambda key, data: _mixed(_mixed(key) ^ (GOLDEN * (data + np.uint32(1)))),
        name="quick",
        tag="qck",
    ),
)
"""`quick_key(seed)`, for initial weights: programs with JAX's own take twice as long to compile."""


def silu(x: np.ndarray) -> np.ndarray:
    """In NumPy, for the oracles."""
    return x * scipy.special.expit(x)


def stirred(init: Callable[..., Any], *arguments: Any, seed: int = 0) -> Any:
    """Random parameters of the right shapes, biases too; nothing is computed to get them."""
    return drawn(jax.eval_shape(init, jax.random.key(0), *arguments), seed)


def drawn(leaves: Any, seed: int = 0) -> Any:
    """Random parameters of these shapes."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        # Products keep the variance: [.., in, out], and [.., paths, in, out] of tensor products.
        inputs = {"kernel": leaf.shape[-2:-1], "weight_": leaf.shape[-3:-1]}
        name = path[-1].key.rstrip("0123456789")
        fan_in = np.prod(inputs.get(name, ()))
        return jax.device_put(rng.normal(size=leaf.shape, scale=fan_in**-0.5).astype(leaf.dtype))

    # Inside a trace they would be tracers, and stay in the cache of `parameters`.
    with jax.ensure_compile_time_eval():
        return jax.tree_util.tree_map_with_path(draw, leaves)


def network(**fields: Any) -> HDGNN:
    """The network with these hyper-parameters."""
    return HDGNN(HyperParameters(**fields))


@functools.cache
def parameters(**options: Any) -> Any:
    """Stirred ones of the small model with these options."""
    return {"params": drawn(shapes(network(**{**SMALL, **options})))}


@functools.cache
def compiled(**options: Any) -> Callable[..., jax.Array]:
    """The evaluation of the small model with these options: `(params, graph) -> [G, F]`."""
    return jax.jit(network(**{**SMALL, **options}).apply)


def predict(structures: Structures, **options: Any) -> np.ndarray:
    """[n] of the small model, in the shape `BUDGET`."""
    graph = graph_of(structures, budget=BUDGET)
    return np.asarray(compiled(**options)(parameters(**options), graph))[: len(structures), 0]


def fitted(target: Target, reference: Reference) -> tuple[FittedTarget]:
    """The target alone, with its usual head."""
    return (FittedTarget(target, target.head, reference, {}),)


U0 = fitted(
    TARGETS["U0"],
    Reference(
        1000.0, Composition((1, 6, 7, 8, 9), (-13.0, -38.0, -54.0, -75.0, -99.0), 3.0), 50.0
    ),
)
"""In meV, with energies of atoms in its reference."""
BARE = Reference(1000.0, Composition((), (), 0.0), 100.0)
"""Nothing is added to what the network predicts."""


def predictor_of(
    targets: tuple[FittedTarget, ...], devices: int | None = 1, **options: Any
) -> Predictor:
    """A predictor of these, by the small model with these options; `devices`: None is all."""
    heads = tuple(one.head for one in targets)
    model = network(**{**SMALL, "heads": heads, **options})
    params = drawn(shapes(model))
    mesh = step.make_mesh() if devices is None else step.make_mesh(jax.devices()[:devices])
    return Predictor(model, params, targets, batching.Budget(160, 48, 9), mesh)


def also(predictor: Predictor, **fields: Any) -> Predictor:
    """With other fields, none of which is part of a program: what is compiled serves both."""
    other = dataclasses.replace(predictor, **fields)
    other.__dict__["programs"] = predictor.programs
    return other


def loss_of(**options: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """`(params, graph) -> (loss, gradient)` of the small model in training, over real graphs."""
    model = network(**{**SMALL, "frame": "canonical", **options})

    def loss(params, graph):
        predictions = model.apply(params, graph, train=True)
        return jnp.sum(jnp.where(batching.graph_mask(graph)[:, None], predictions, 0) ** 2)

    return jax.jit(jax.value_and_grad(loss))


def rms(state: np.ndarray, l: int) -> float:
    """Of degree l of a state [N, S, C]."""
    return float(np.sqrt(np.mean(np.square(state[:, l * l : (l + 1) ** 2]))))
