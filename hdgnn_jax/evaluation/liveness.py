"""Checks that parts of a network contribute: its states, gates, degrees and surroundings."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models.gates import ATTENTION, GATES, STATES
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.types import Fields, Params, PyTree

DEAD = 0.01
"""Below this share of the usual size, a state or a change of predictions counts as nothing."""
STUCK = 0.5
"""A layer with a larger share of stuck gates learns little."""
NORMS = ("norm", "message_norm")


def without_degrees(model: HDGNN, params: Params) -> PyTree:
    """The weights, changed so that no degree l >= 1 reaches a layer or the head.

    Only their sizes still act, through their share in the size by which the norm divides l = 0.

    Raises:
      InputError: for a model without the norms that these degrees pass through.
    """
    if not (model.hyper.layer_norm and model.hyper.rescale):
        raise InputError("degrees can be taken away where layer_norm and rescale are on")
    stack = dict(params["stack"])
    for name in NORMS:
        weight = stack[name]["weight"]  # [K, L + 1, C]
        stack[name] = {**stack[name], "weight": jnp.asarray(weight).at[:, 1:].set(0)}
    return {**params, "stack": stack}


def sizes(model: HDGNN, params: Params, graph: batching.MolecularGraph) -> dict[str, float]:
    """Root mean square of each degree of the states, the share of stuck gates, and attention.

    Args:
      model, params: any.
      graph: with little padding, since padding is counted too.

    Returns:
      `rms_L` for each degree L, the smallest over layers; `gates_stuck`, the share of gates below
      0.01 or above 0.99, for the worst kind of gate and layer, 0 without gates; `attention_N`, the
      mean weight of term N of eq. 11 over edges, channels and layers.
    """

    seen = jax.device_get(seen_inside(model, params, jax.tree.map(jnp.asarray, graph)))
    size = model.hyper.degree + 1
    rms = np.concatenate([leaf.reshape(-1, size) for leaf in _leaves(seen, STATES)])
    stuck = [float(leaf.max()) for leaf in _leaves(seen, GATES)]
    attention = np.mean([leaf.mean((0, 1)) for leaf in _leaves(seen, ATTENTION)], 0)
    return {
        **{f"rms_{l}": float(value) for l, value in enumerate(rms.min(0))},
        "gates_stuck": max(stuck, default=0.0),
        **{f"attention_{n}": float(value) for n, value in enumerate(attention, start=1)},
    }


def dead_parts(found: Mapping[str, float]) -> list[str]:
    """A line for each part of the network that contributes nothing.

    Args:
      found: the values from `sizes`, and `change_without_degrees` and
        `change_without_surroundings`: mean absolute changes over the spread of the predictions.
    """
    lines = [
        f"degree {name.removeprefix('rms_')} of the state has died out (rms {value:.2g})"
        for name, value in found.items()
        if name.startswith("rms_") and value < DEAD
    ]
    if found["gates_stuck"] > STUCK:
        lines.append(f"{found['gates_stuck']:.0%} of a layer's gates are stuck open or closed")
    for name, what in (("degrees", "degrees l >= 1 (directions)"), ("surroundings", "neighbours")):
        if found.get(f"change_without_{name}", 1.0) < DEAD:
            lines.append(f"{what} do not change the predictions")
    return lines


@functools.partial(jax.jit, static_argnums=0)
def seen_inside(model: HDGNN, params: Params, graph: batching.MolecularGraph) -> PyTree:
    """What the layers store in the collections of `models.gates`; frames are canonical."""
    rolls = jnp.zeros(graph.senders.shape)
    kept = [STATES, GATES, ATTENTION]
    return model.apply({"params": params}, graph, rolls, method="predict", mutable=kept)[1]


def _leaves(seen: Fields, name: str) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(seen.get(name, {}))]
