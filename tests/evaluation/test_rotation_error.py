"""Each arbitrary choice is measured alone: what does not depend on it changes nothing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equivariance import turn
from molecules import KNOWN, graph_of
from scipy.spatial.transform import Rotation
from small import BUDGET, EXACT, SMALL, network, parameters, predict

from hdgnn_jax.evaluation import symmetry
from hdgnn_jax.models.heads import columns

ROTATIONS = symmetry.random_rotations(2, seed=0)
FINE = EXACT["sphere_order"]
ROLLS_ALONE = {"pathway": "nn_of_rotated", "m_max": 2, "sphere_order": FINE}
"""A sphere without aliasing and nothing but D x: the rolls are all there is."""


@functools.cache
def changes(frames=1, choices=symmetry.CHOICES, **options):
    """Relative to the predictions' size, and that of the forces to 1."""
    model, params = network(**{**SMALL, **options}), parameters(**options)["params"]
    graph = jax.tree.map(jnp.asarray, graph_of(KNOWN, budget=BUDGET))
    found = symmetry.prediction_changes(
        model, params, graph, columns=[slice(0, 1)], frames=frames, rotations=ROTATIONS,
        choices=choices,
    )  # fmt: skip
    # By the program that is compiled already.
    at_rest = symmetry.predict(model, 0, params, graph, symmetry.rest(graph))[0]
    size = np.abs(at_rest[: len(KNOWN), 0]).mean()
    return {choice: (value.mean / size, force.mean) for choice, ((value,), force) in found.items()}


def test_rotation_is_what_turning_the_molecules_does():
    """By hand: mean |E(x) - E(Q x)| over the same rotations."""
    options = {"sphere_order": FINE}
    there = [
        predict(turn(Rotation.from_quat(q, scalar_first=True).as_matrix(), KNOWN), **options)
        for q in ROTATIONS
    ]
    here = predict(KNOWN, **options)
    expected = np.abs(np.array(there) - here).mean() / np.abs(here).mean()
    np.testing.assert_allclose(changes(**options)["rotation"][0], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "still"),
    [
        # All three at once, and still the fine sphere makes no difference.
        ({"sphere_order": FINE}, {"sphere"}),
        # Eq. 9 and 10 in the edge's frame alone.
        (ROLLS_ALONE, {"sphere", "axes"}),
        ({"pathway": "so2"}, {"roll", "axes"}),
    ],
)
def test_a_choice_that_does_not_enter_changes_nothing(options, still):
    for choice, (value, force) in changes(**options).items():
        assert (value < 1e-5) == (choice in still), choice
        assert (force < 1e-4) == (choice in still), choice


def test_vectors_and_tensors_are_compared_with_the_turned():
    """A strict model turns them with the molecule, to the sphere's error."""
    heads = ("invariant", "dipole_vector", "polarizability")
    options = {**EXACT, "heads": heads}
    found = symmetry.prediction_changes(
        network(**{**SMALL, **options}), parameters(**options)["params"],
        graph_of(KNOWN, budget=BUDGET), columns=columns(heads), frames=1, rotations=ROTATIONS,
        choices=("rotation", "axes"),
    )  # fmt: skip
    for values, _ in found.values():
        assert all(value.mean < 1e-4 for value in values)


def test_averaged_frames_make_the_error_fall():
    one, four, sixteen = (
        changes(frames=n, choices=("rotation",), **ROLLS_ALONE)["rotation"][0] for n in (1, 4, 16)
    )
    assert sixteen < four < one
    assert sixteen < one / 3


def test_states_of_each_layer():
    """The first sees no axes: its x is degree 0. Nothing strict changes on a fine sphere."""
    graph, params = graph_of(KNOWN, budget=BUDGET), parameters()["params"]
    layers = symmetry.state_changes(network(**SMALL), params, graph, rotations=ROTATIONS)
    assert len(layers) == SMALL["layers"]
    assert layers[0].pop("axes").mean < 1e-5
    assert all(1e-3 < change.mean < 2 for layer in layers for change in layer.values())
    exact = network(**{**SMALL, **EXACT})
    strict = symmetry.state_changes(exact, params, graph, rotations=ROTATIONS)
    assert all(layer[choice].mean < 1e-4 for layer in strict for choice in symmetry.CHOICES)


def test_rotations_are_uniform():
    """The first moments of Haar measure: the mean matrix vanishes."""
    rotations = Rotation.from_quat(symmetry.random_rotations(4000, 0), scalar_first=True)
    assert np.abs(rotations.as_matrix().mean(0)).max() < 0.05


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="choice must be one of rotation"):
        changes(choices=("mirror",))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    yield
    changes.cache_clear()
    jax.clear_caches()
