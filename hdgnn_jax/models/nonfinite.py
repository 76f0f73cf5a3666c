"""Finds the module of a network in which the first NaN or infinity arises."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.gates import FINITE
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.types import Apply, Params, PyTree


class _Call(NamedTuple):
    """The nth call of a module, by its path."""

    path: tuple[str, ...]
    n: int


def locate(
    model: HDGNN,
    params: Params,
    graph: batching.MolecularGraph,
    key: jax.Array,
    loss: Callable[[PyTree], jax.Array],
) -> str | None:
    """The first module whose output is not finite, else the weights whose gradient is not.

    The innermost module at fault returns first.

    Args:
      model, params: the network and its weights.
      graph: padded.
      key: key of the RNG stream `frame`, as in training.
      loss: maps the weights to the loss.

    Returns:
      For example "layer 2, update/out", or "the gradient of norm/weight in layer 1"; None where
      everything is finite.
    """
    model = HDGNN(model.hyper, loop=True)
    # In the order of their returns. A loop is traced more than once: a dict keeps the first of
    # equal calls.
    calls: dict[_Call, None] = {}

    def watch(call: Apply, args: Any, kwargs: Any, context: Any) -> PyTree:
        found, module = call(*args, **kwargs), context.module
        if module.path and context.method_name == "__call__":
            before = len(module.get_variable(FINITE, "all", ()))
            calls.setdefault(_Call(module.path, before))
            module.sow(FINITE, "all", _finite(found))
        return found

    @jax.jit
    def finite(params: Params, graph: batching.MolecularGraph, roll: jax.Array) -> PyTree:
        variables = {"params": params}
        with nn.intercept_methods(watch):
            return model.apply(variables, graph, roll, method="predict", mutable=[FINITE])[1]

    graph = jax.tree.map(jnp.asarray, graph)
    for roll in model.bind({}, rngs={"frame": key}).rolls(graph, train=True):
        flags = jax.device_get(finite(params, graph, roll))[FINITE]
        if found := _first(calls, flags, model.hyper.layers):
            return found
    return _worst(jax.jit(jax.grad(loss))(params))


def _first(calls: Iterable[_Call], flags: PyTree, layers: int) -> str | None:
    """The first call whose flag, `flags[path]["all"][n]`, is False; in layers there are K each."""
    for in_stack, group in itertools.groupby(calls, lambda call: call.path[0] == "stack"):
        some = list(group)
        for k in range(layers if in_stack else 1):
            for path, n in some:
                flag = functools.reduce(operator.getitem, (*path, "all", n), flags)
                if np.atleast_1d(flag)[k]:
                    continue
                if not in_stack:
                    return "/".join(path)
                return ", ".join(filter(None, (f"layer {k + 1}", "/".join(path[1:]))))
    return None


def _worst(gradient: Params) -> str | None:
    """Among weights whose gradient is not finite, those that the backward pass reaches first."""
    gradients = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
        if not np.isfinite(leaf).all()
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


def _finite(tree: PyTree) -> jax.Array:
    """Whether all numbers are finite."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
