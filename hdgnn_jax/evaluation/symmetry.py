"""Measures how far a model is from rotation invariance, and why (paper, section 5.2).

A prediction depends on the molecule and on three arbitrary choices: the rolls of the edges' frames;
the position of the points of the sphere (aliasing); and the global axes, because eq. 9 and 10 feed
x to a network beside x'' = D x - x, |m| <= m_max of both. Rotating the molecule alone changes all
three relative to it. Changing one choice alone measures its share:

- `roll`: other rolls, drawn for every edge.
- `sphere`: the points are turned.
- `axes`: the molecule is turned together with frames and points.
- `rotation`: the molecule is turned alone, as a user sees it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from hdgnn_jax.data.targets import turned
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs import batching
from hdgnn_jax.inference.batches import nobody
from hdgnn_jax.inference.predictor import Advance
from hdgnn_jax.models import geometry
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.so3 import sphere, wigner
from hdgnn_jax.types import Params, PyTree

CHOICES = ("rotation", "roll", "sphere", "axes")


class Setting(NamedTuple):
    """The arbitrary choices.

    Attributes:
      roll: [E] radians.
      molecule: the quaternion that turns the molecule.
      points: the quaternion that turns the points of the sphere.
      along: whether the frames turn with the molecule.
    """

    roll: jax.Array
    molecule: jax.Array
    points: jax.Array
    along: bool


class Change(NamedTuple):
    """The effect of a choice: mean over rotations and molecules, and its standard error."""

    mean: float
    error: float


def random_rotations(n: int, seed: int) -> np.ndarray:
    """[n, 4] unit quaternions (w, x, y, z), uniform (Haar)."""
    quaternions: np.ndarray = Rotation.random(n, rng=seed).as_quat(scalar_first=True)
    return quaternions.astype(np.float32)


def prediction_changes(
    model: HDGNN,
    params: Params,
    graph: batching.MolecularGraph,
    *,
    columns: Sequence[slice],
    energy: int = 0,
    frames: int,
    rotations: np.ndarray,
    choices: tuple[str, ...] = CHOICES,
    advance: Advance = nobody,
) -> dict[str, tuple[list[Change], Change]]:
    """For each choice, the mean absolute change of predictions and of forces.

    Args:
      model, params: any; predictions are averaged over `frames` rolls, not `evaluation_frame`.
      graph: molecules, padded.
      columns: the columns of each prediction in the outputs [G, F].
      energy: the output whose slopes are the forces.
      frames: number of equally spaced rolls to average over.
      rotations: [n, 4] quaternions.
      choices: some of `CHOICES`.
      advance: is told 1 after each setting (a progress bar); there are 1 + choices x rotations.

    Returns:
      The changes of the standardised predictions, per component where they have several, and the
      change of a component of -d output / d positions, 1/Å.

    Raises:
      InputError: for a choice that is not in `CHOICES`.
    """
    if unknown := set(choices) - set(CHOICES):
        raise InputError(f"choice must be one of {', '.join(CHOICES)}, not {unknown.pop()!r}")
    graph = jax.tree.map(jnp.asarray, graph)
    run = functools.partial(_mean_over_rolls, model, energy, params, graph, frames)
    at_rest = run(rest(graph))
    advance(1)
    changes = {}
    for choice in choices:
        found = []
        for seed, rotation in enumerate(rotations):
            there = run(_setting(choice, graph, rotation, seed))
            turn = rotation if choice in ("rotation", "axes") else np.array([1.0, 0, 0, 0])
            found.append(_changes_of_molecules(graph, columns, at_rest, there, turn))
            advance(1)
        values, forces = (np.array(of_all) for of_all in zip(*found, strict=True))
        of_each = [_summary(of_one) for of_one in np.moveaxis(values, 1, 0)]
        changes[choice] = of_each, _summary(forces)
    return changes


def _mean_over_rolls(
    model: HDGNN,
    energy: int,
    params: Params,
    graph: batching.MolecularGraph,
    frames: int,
    setting: Setting,
) -> list[np.ndarray]:
    """Averages `predict` over equally spaced rolls, on the host: one program serves all numbers."""
    angles = [2 * np.pi * k / frames for k in range(frames)]
    each = [
        predict(model, energy, params, graph, setting._replace(roll=setting.roll + angle))
        for angle in angles
    ]
    return [np.mean(jax.device_get(parts), 0) for parts in zip(*each, strict=True)]


def _changes_of_molecules(
    graph: batching.MolecularGraph,
    columns: Sequence[slice],
    at_rest: list[np.ndarray],
    there: list[np.ndarray],
    turn: np.ndarray,
) -> tuple[list[np.ndarray], list[float]]:
    """Mean absolute changes of each molecule's predictions, an array for each column, and forces.

    Args:
      graph, columns: as in `prediction_changes`.
      at_rest, there: results of `_mean_over_rolls` before and after the change.
      turn: quaternion that turns the predictions with the molecules.
    """
    real = np.flatnonzero(batching.graph_mask(graph))
    owner = np.asarray(batching.graph_of_node(graph))
    values = [
        np.abs(there[0][real, column] - _turned(at_rest[0][real, column], turn)).mean(1)
        for column in columns
    ]
    change = np.abs(there[1] - at_rest[1])
    return values, [change[owner == k].mean() for k in real]


def state_changes(
    model: HDGNN,
    params: Params,
    graph: batching.MolecularGraph,
    *,
    rotations: np.ndarray,
    advance: Advance = nobody,
) -> list[dict[str, Change]]:
    """For each layer and choice, |x^k(Q) - D(Q) x^k| / |x^k| of the node states after the layer.

    The arguments are those of `prediction_changes`; frames are canonical. `advance` is told 1 after
    each layer.
    """
    graph = jax.tree.map(jnp.asarray, graph)
    real = np.flatnonzero(batching.graph_mask(graph))
    owner = np.asarray(batching.graph_of_node(graph))

    def sizes(x: np.ndarray) -> np.ndarray:
        """|x| of each molecule."""
        return np.array([np.linalg.norm(x[owner == k]) for k in real])

    layers = []
    for k in range(1, model.hyper.layers + 1):
        # The model's first k layers; later layers do not change their states.
        first = {**params, "stack": jax.tree.map(lambda leaf, k=k: leaf[:k], params["stack"])}
        run = jax.jit(functools.partial(_states, model.changed(layers=k)))
        at_rest = np.asarray(run(first, graph, rest(graph)))
        row = {}
        for choice in CHOICES:
            there = [
                np.asarray(run(first, graph, _setting(choice, graph, q, seed)))
                for seed, q in enumerate(rotations)
            ]
            row[choice] = _summary(np.array([sizes(x - at_rest) / sizes(at_rest) for x in there]))
        layers.append(row)
        advance(1)
    return layers


def _turned(values: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Turns numbers, vectors or tensors, [n, 1, 3 or 9], with the molecules."""
    rank = {1: 0, 3: 1, 9: 2}[values.shape[1]]
    shaped = values.reshape(len(values), *(3,) * rank)
    return turned(shaped, np.tile(turn, (len(values), 1)), rank).reshape(values.shape)


def rest(graph: batching.MolecularGraph) -> Setting:
    """Canonical frames; nothing is turned."""
    still = jnp.array([1.0, 0, 0, 0])
    return Setting(jnp.zeros(graph.senders.shape), still, still, along=False)


def _setting(
    choice: str, graph: batching.MolecularGraph, rotation: np.ndarray, seed: int
) -> Setting:
    at_rest, q = rest(graph), jnp.asarray(rotation)
    match choice:
        case "rotation":
            return at_rest._replace(molecule=q)
        case "roll":
            key, shape = jax.random.key(seed), graph.senders.shape
            return at_rest._replace(roll=jax.random.uniform(key, shape, maxval=2 * jnp.pi))
        case "sphere":
            return at_rest._replace(points=q)
        case _:
            return Setting(at_rest.roll, q, q, along=True)


def _apply(
    model: HDGNN, params: Params, graph: batching.MolecularGraph, setting: Setting, method: str
) -> PyTree:
    """Calls a method of the model in the given setting."""
    points = sphere.turn(model.hyper.points(), _full_wigner(model.hyper.degree, setting.points))
    placed = model.changed(sphere_rule=points, sphere_order=None, sphere_error=None)
    # The rolls depend on the positions, so that forces also take account of frames that turn.
    along = geometry.turned_rolls(graph, setting.roll, setting.molecule)
    return placed.apply(
        {"params": params},
        geometry.turned(graph, setting.molecule),
        jnp.where(setting.along, along, setting.roll),
        method=method,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def predict(
    model: HDGNN, energy: int, params: Params, graph: batching.MolecularGraph, setting: Setting
) -> tuple[jax.Array, jax.Array]:
    """Predictions [G, F], and forces [N, 3] in the axes of the graph before it is turned."""

    def total(positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = graph._replace(nodes=graph.nodes._replace(positions=positions))
        values: jax.Array = _apply(model, params, moved, setting, "predict")
        return jnp.sum(jnp.where(batching.graph_mask(graph), values[:, energy], 0)), values

    gradient, values = jax.grad(total, has_aux=True)(graph.nodes.positions)
    return values, -gradient


def _states(
    model: HDGNN, params: Params, graph: batching.MolecularGraph, setting: Setting
) -> jax.Array:
    """Node states [N, S, C] in the axes of the graph before it is turned."""
    x = _apply(model, params, graph, setting, "states")[0]
    back = _full_wigner(model.hyper.degree, setting.molecule).T
    return jnp.einsum("ij,njc->nic", back, x, precision="highest")


def _full_wigner(degree: int, rotation: jax.Array) -> jax.Array:
    return wigner.block_diagonal(wigner.wigner_rows(degree, rotation))


def _summary(changes: np.ndarray) -> Change:
    """Mean and standard error of changes [rotations, molecules], both drawn at random."""
    variance = sum(
        means.var(ddof=1) / len(means) for means in (changes.mean(0), changes.mean(1))
    )
    return Change(float(changes.mean()), float(variance**0.5))
