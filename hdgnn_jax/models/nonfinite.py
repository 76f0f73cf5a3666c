"""Finds the module of a network in which the first NaN or infinity arises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.hdgnn import HDGNN, Layer
from hdgnn_jax.types import Apply, Params, PyTree


class _Found(Exception):
    """Ends a forward pass; the message names the module."""


def locate(
    model: HDGNN,
    params: Params,
    graph: batching.MolecularGraph,
    key: jax.Array,
    loss: Callable[[PyTree], jax.Array],
) -> str | None:
    """The first module whose output is not finite, else the weights whose gradient is not.

    Layers run one by one without compilation, so that outputs are concrete numbers when a module
    returns. The innermost module at fault returns first.

    Args:
      model, params: the network and its weights.
      graph: padded.
      key: key of the RNG stream `frame`, as in training.
      loss: maps the weights to the loss.

    Returns:
      For example "layer 2, update/out", or "the gradient of norm/weight in layer 1"; None where
      everything is finite.
    """
    where = ""

    def watch(call: Apply, args: Any, kwargs: Any, context: Any) -> PyTree:
        found = call(*args, **kwargs)
        if not _finite(found):
            raise _Found(", ".join(filter(None, [where, "/".join(context.module.path)])))
        return found

    bound = model.bind({"params": params}, rngs={"frame": key})
    graph = jax.tree.map(jnp.asarray, graph)
    rolls = bound.rolls(graph, train=True)
    layer = Layer(model.hyper, model.hyper.points())
    try:
        with jax.disable_jit(), nn.intercept_methods(watch):
            for roll in rolls:
                where = ""
                state, rest = bound.start(graph, roll)
                for k, last in enumerate(model.lasts()):
                    where = f"layer {k + 1}"
                    of_layer = jax.tree.map(lambda leaf, k=k: leaf[k], params["stack"])
                    state, _ = layer.apply({"params": of_layer}, state, last, *rest)
                where = ""
                bound.molecule_head(*state, graph)
    except _Found as found:
        return str(found) or "the positions, or their distances"
    return _worst(jax.jit(jax.grad(loss))(params))


def _worst(gradient: Params) -> str | None:
    """Among weights whose gradient is not finite, those that the backward pass reaches first."""
    gradients = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
        if not _finite(leaf)
    }
    if not gradients:
        return None
    for name in gradients:
        if name.startswith("molecule_head/"):
            return f"the gradient of {name}"
    layers = {
        name: int(np.flatnonzero(~np.isfinite(leaf).reshape(len(leaf), -1).all(1))[-1])
        for name, leaf in gradients.items()
        if name.startswith("stack/")
    }
    if not layers:
        return f"the gradient of {next(iter(gradients))}"
    name = max(layers, key=lambda name: layers[name])
    return f"the gradient of {name.removeprefix('stack/')} in layer {layers[name] + 1}"


def _finite(tree: PyTree) -> bool:
    """Whether all numbers are finite; traced arrays, which have no numbers yet, are skipped."""
    return all(
        bool(jnp.isfinite(leaf).all())
        for leaf in jax.tree.leaves(tree)
        if not isinstance(leaf, jax.core.Tracer)
        and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
