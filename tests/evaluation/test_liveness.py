"""What has died in a network is found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from molecules import KNOWN, graph_of
from small import BUDGET, SMALL, compiled, network, parameters, predict

from hdgnn_jax.evaluation import liveness

GRAPH = graph_of(KNOWN, budget=BUDGET)
SOUND = {"change_without_degrees": 0.2, "change_without_surroundings": 0.9}


def edited(name: str, change) -> dict:
    """The stirred weights with those whose path ends in `name` changed."""

    def of_leaf(path, leaf):
        return change(leaf) if jax.tree_util.keystr(path).endswith(name) else leaf

    return jax.tree_util.tree_map_with_path(of_leaf, parameters())["params"]


def test_a_stirred_network_is_alive():
    found = liveness.sizes(network(**SMALL), parameters()["params"], GRAPH)
    attention = {f"attention_{term}" for term in range(1, 5)}
    assert {"rms_0", "rms_1", "rms_2", "gates_stuck"} | attention == found.keys()
    assert all(0 < found[name] < 1 for name in attention)
    assert liveness.dead_parts({**found, **SOUND}) == []


def test_dead_degrees_and_stuck_gates_are_named():
    model = network(**SMALL)
    quiet = liveness.without_degrees(model, parameters()["params"])
    found = liveness.sizes(model, quiet, GRAPH)
    assert found["rms_1"] < 1e-5 < found["rms_0"]
    lines = liveness.dead_parts({**found, **SOUND})
    assert [line[:8] for line in lines] == ["degree 1", "degree 2"]
    open_ = edited("['attention']['bias']", lambda leaf: jnp.full_like(leaf, 50))
    found = liveness.sizes(model, open_, GRAPH)
    assert found["gates_stuck"] == 1
    assert "stuck" in liveness.dead_parts({**found, **SOUND})[0]
    lines = liveness.dead_parts({**found, "gates_stuck": 0.0, **dict.fromkeys(SOUND, 0.001)})
    assert len(lines) == 2


def test_without_degrees_a_prediction_sees_distances_alone():
    """Turns change it a thousandth, by the sizes of what was taken away."""
    model, params = network(**SMALL), parameters()["params"]
    turned = KNOWN.turned(np.tile([0.5, 0.5, 0.1, 0.7], (len(KNOWN), 1)))
    both = [
        np.asarray(
            compiled()(
                {"params": liveness.without_degrees(model, params)}, graph_of(s, budget=BUDGET)
            )
        )[: len(KNOWN)]
        for s in (KNOWN, turned)
    ]
    scale = np.abs(both[0]).max()
    # The learned pathway makes all degrees from l = 0; the norm takes them away, but a share of
    # their squares is in what divides l = 0, and that turns a little with the sphere's points.
    np.testing.assert_allclose(*both, atol=1e-3 * scale)
    whole = [predict(s) for s in (KNOWN, turned)]
    assert np.abs(whole[0] - whole[1]).max() > 10 * np.abs(both[0] - both[1]).max()


def test_degrees_that_no_norm_holds_cannot_be_taken_away():
    model = network(**SMALL, rescale=False)
    with pytest.raises(ValueError, match="layer_norm and rescale"):
        liveness.without_degrees(model, parameters(rescale=False)["params"])
