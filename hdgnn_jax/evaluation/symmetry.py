"""How far a model is from rotation invariance, and through what (paper, section 5.2).

A prediction depends on the molecule and on three arbitrary choices: the rolls of the edges' frames;
where the points of the sphere lie (aliasing); and the global axes, in which eq. 9 and 10 feed x to
a network beside x'' = D x - x, |m| <= m_max of both. To rotate the molecule alone changes all three
against it. To change one choice alone measures its share:

- `roll`: other rolls, drawn for every edge.
- `sphere`: the points turned.
- `axes`: the molecule turned, and with it frames and points.
- `rotation`: the molecule turned, and nothing with it: what a user sees.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.models import geometry
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.so3 import sphere, wigner

CHOICES = ("rotation", "roll", "sphere", "axes")


class Setting(NamedTuple):
    """The arbitrary choices.

    Attributes:
      rolls: [n, E] radians; the prediction is the mean over n.
      molecule: quaternion that turns the molecule.
      points: quaternion that turns the points of the sphere.
      along: whether the frames turn with the molecule.
    """

    rolls: jax.Array
    molecule: jax.Array
    points: jax.Array
    along: bool


class Change(NamedTuple):
    """What a choice changes: mean over rotations and molecules, standard error over both."""

    mean: float
    error: float


def random_rotations(n: int, seed: int) -> np.ndarray:
    """[n, 4] unit quaternions (w, x, y, z), uniform (Haar)."""
    return Rotation.random(n, rng=seed).as_quat(scalar_first=True).astype(np.float32)


def prediction_changes(
    model: HDGNN,
    params: Any,
    graph: batching.MolecularGraph,
    *,
    frames: int,
    rotations: np.ndarray,
    choices: tuple[str, ...] = CHOICES,
) -> dict[str, tuple[Change, Change]]:
    """For each choice, the mean absolute change of predictions and of forces.

    Args:
      model, params: any; the prediction is averaged over `frames` rolls whatever its own option.
      graph: of molecules, padded.
      frames: equal steps of roll to average over.
      rotations: [n, 4] quaternions.
      choices: of `CHOICES`.

    Returns:
      Of the standardised prediction, and of a component of -d prediction / d positions, 1/Å.

    Raises:
      ValueError: for another choice.
    """
    if unknown := set(choices) - set(CHOICES):
        raise InputError(f"choice must be one of {', '.join(CHOICES)}, not {unknown.pop()!r}")
    graph = jax.tree.map(jnp.asarray, graph)
    real = np.flatnonzero(batching.graph_mask(graph))
    owner = np.asarray(batching.graph_of_node(graph))
    run = jax.jit(functools.partial(_predict, model))
    rolls = jnp.tile(2 * np.pi * jnp.arange(frames)[:, None] / frames, (1, len(graph.senders)))
    at_rest = run(params, graph, _rest(rolls))
    changes = {}
    for choice in choices:
        values, forces = [], []
        for seed, rotation in enumerate(rotations):
            there = run(params, graph, _setting(choice, rolls, rotation, seed))
            change = [np.abs(np.asarray(a - b)) for a, b in zip(there, at_rest, strict=True)]
            values.append(change[0][real])
            forces.append([change[1][owner == k].mean() for k in real])
        changes[choice] = _summary(np.array(values)), _summary(np.array(forces))
    return changes


def state_changes(
    model: HDGNN, params: Any, graph: batching.MolecularGraph, *, rotations: np.ndarray
) -> list[dict[str, Change]]:
    """For each layer and choice, |x^k(Q) - D(Q) x^k| / |x^k| of the node states after it.

    Args: see `prediction_changes`; canonical frames.
    """
    graph = jax.tree.map(jnp.asarray, graph)
    real = np.flatnonzero(batching.graph_mask(graph))
    owner = np.asarray(batching.graph_of_node(graph))

    def sizes(x: np.ndarray) -> np.ndarray:
        """|x| of each molecule."""
        return np.array([np.linalg.norm(x[owner == k]) for k in real])

    rolls = jnp.zeros((1, len(graph.senders)))
    layers = []
    for k in range(1, model.hyper.layers + 1):
        # The model's first k layers: those after them change nothing there.
        first = {**params, "stack": jax.tree.map(lambda leaf, k=k: leaf[:k], params["stack"])}
        run = jax.jit(functools.partial(_states, model.changed(layers=k)))
        at_rest = np.asarray(run(first, graph, _rest(rolls)))
        row = {}
        for choice in CHOICES:
            there = [
                np.asarray(run(first, graph, _setting(choice, rolls, q, seed)))
                for seed, q in enumerate(rotations)
            ]
            row[choice] = _summary(np.array([sizes(x - at_rest) / sizes(at_rest) for x in there]))
        layers.append(row)
    return layers


def _rest(rolls: jax.Array) -> Setting:
    still = jnp.array([1.0, 0, 0, 0])
    return Setting(rolls, still, still, along=False)


def _setting(choice: str, rolls: jax.Array, rotation: np.ndarray, seed: int) -> Setting:
    rest, q = _rest(rolls), jnp.asarray(rotation)
    match choice:
        case "rotation":
            return rest._replace(molecule=q)
        case "roll":
            drawn = jax.random.uniform(jax.random.key(seed), rolls.shape[1:], maxval=2 * jnp.pi)
            return rest._replace(rolls=rolls + drawn)
        case "sphere":
            return rest._replace(points=q)
        case _:
            return Setting(rolls, q, q, along=True)


def _apply(
    model: HDGNN,
    params: Any,
    graph: batching.MolecularGraph,
    setting: Setting,
    roll: jax.Array,
    method: str,
) -> Any:
    """A method of the model in that setting, for one of its rolls [E]."""
    points = sphere.turn(model.hyper.points(), _full_wigner(model.hyper.degree, setting.points))
    placed = model.changed(sphere_rule=points, sphere_order=None, sphere_error=None)
    # Of the positions, so that forces too see frames that turn along.
    along = geometry.turned_rolls(graph, roll, setting.molecule)
    return placed.apply(
        {"params": params},
        geometry.turned(graph, setting.molecule),
        jnp.where(setting.along, along, roll),
        method=method,
    )


def _predict(
    model: HDGNN, params: Any, graph: batching.MolecularGraph, setting: Setting
) -> tuple[jax.Array, jax.Array]:
    """Prediction [G] and forces [N, 3], these in the axes of the graph as it was."""

    def total(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = graph._replace(nodes=graph.nodes._replace(positions=positions))

        def one(roll: jax.Array) -> jax.Array:
            return _apply(model, params, moved, setting, roll, "predict")

        values = jax.lax.map(one, setting.rolls).mean(0)
        return jnp.sum(jnp.where(batching.graph_mask(graph), values, 0)), values

    gradient, values = jax.grad(total, has_aux=True)(graph.nodes.positions)
    return values, -gradient


def _states(
    model: HDGNN, params: Any, graph: batching.MolecularGraph, setting: Setting
) -> jax.Array:
    """Node states [N, S, C], in the axes of the graph as it was."""
    x = _apply(model, params, graph, setting, setting.rolls[0], "states")[0]
    back = _full_wigner(model.hyper.degree, setting.molecule).T
    return jnp.einsum("ij,njc->nic", back, x, precision="highest")


def _full_wigner(degree: int, rotation: jax.Array) -> jax.Array:
    return wigner.block_diagonal(wigner.wigner_rows(degree, rotation))


def _summary(changes: np.ndarray) -> Change:
    """Of changes [rotations, molecules], both drawn at random and every pair measured."""
    variance = sum(
        means.var(ddof=1) / len(means) for means in (changes.mean(0), changes.mean(1))
    )
    return Change(float(changes.mean()), float(variance**0.5))
