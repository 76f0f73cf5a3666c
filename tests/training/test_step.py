"""One step is one compiled program, the same on any number of devices and after any restart."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from molecules import CUTOFF, random_molecules
from small import network

from hdgnn_jax.data.loader import Loader, prefetch
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.training import loop, losses, step
from hdgnn_jax.training.checkpoint import Checkpoints
from hdgnn_jax.training.metrics import MetricWriter
from hdgnn_jax.training.optimizer import make_optimizer

MOLECULES = random_molecules(44, 1)
NEIGHBORS = find_neighbors(MOLECULES, CUTOFF)
TARGETS = np.random.default_rng(0).normal(size=(44, 1))
STEPS, EMA = 20, 0.9
WEIGHTS = losses.Weights(np.ones(1))
KEY = jax.random.key(5)
SMALL = {
    "cutoff": CUTOFF, "degree": 1, "product_degree": 1, "layers": 1, "channels": 4, "hidden": 8,
    "invariant_channels": 8, "edge_channels": 8, "n_gaussians": 16,
}  # fmt: skip


def linear(variables, graph, *, train=False, rngs=None):
    """Weights per element, summed over atoms, and the noise of the step: compiles in no time.

    Of four devices each can hold a quarter of one table's rows, of the other's columns, and all of
    the bias. Powers of two keep sums exact in any order.
    """
    weights, powers = variables["params"], 0.5 ** np.arange(8, dtype=np.float32)
    z = graph.nodes.atomic_numbers
    atoms = sum(weights[k][z] @ powers[: weights[k].shape[1]] for k in ("w", "v"))
    sums = jax.ops.segment_sum(atoms, batching.graph_of_node(graph), graph.n_node.shape[0])
    return (sums + weights["b"] + jax.random.normal(rngs["frame"]))[:, None]


APPLY = {"linear": linear, "hdgnn": network(**SMALL).apply}


@functools.cache
def loader(devices: int, n_budgets: int = 1) -> Loader:
    return Loader(MOLECULES, NEIGHBORS, TARGETS, 16, 0, STEPS, devices, n_budgets)


@functools.cache
def mesh(devices: int) -> jax.sharding.Mesh:
    return step.make_mesh(jax.devices()[:devices])


@functools.cache
def optimizer() -> optax.GradientTransformation:
    return make_optimizer(steps=STEPS, learning_rate=3e-3, warmup=0.2, weight_decay=1e-3)


@functools.cache
def train_step(model: str, devices: int, divide: bool = False):
    return step.make_train_step(
        APPLY[model], optimizer(), mesh(devices), KEY, EMA, WEIGHTS, divide=divide
    )


@functools.cache
def params(model: str):
    if model == "linear":
        tables = {"w": (12, 5), "v": (10, 8)}
        return {"b": jnp.zeros(1)} | {
            name: jnp.linspace(-1, 1, rows * columns).reshape(rows, columns)
            for name, (rows, columns) in tables.items()
        }
    return jax.jit(network(**SMALL).init)(jax.random.key(0), whole_batch(0))["params"]


def whole_batch(k: int) -> batching.MolecularGraph:
    """Batch k as one graph."""
    return jax.tree.map(lambda leaf: leaf[0], loader(1).batch(k))


def fresh(model: str, devices: int, divide: bool = False) -> step.TrainState:
    return step.init_state(params(model), optimizer(), mesh(devices), divide)


def batches(devices: int, start: int = 0, stop: int = STEPS, n_budgets: int = 1):
    make = loader(devices, n_budgets).batch
    return prefetch(make, start, stop, step.sharded(mesh(devices)))


@functools.cache
def course(model: str, devices: int, divide: bool = False) -> tuple[list, list]:
    """Parameters and averages before and after every step, on the host, and the metrics."""
    state = fresh(model, devices, divide)
    states, metrics = [jax.device_get((state.params, state.ema))], []
    for batch in batches(devices):
        state, metric = train_step(model, devices, divide)(state, batch)
        states.append(jax.device_get((state.params, state.ema)))
        metrics.append(jax.device_get(metric))
    return states, metrics


@pytest.mark.parametrize("model", APPLY)
def test_four_devices_train_as_one_does(model):
    one, four = (np.array([m.loss for m in course(model, n)[1]]) for n in (1, 4))
    np.testing.assert_allclose(four, one, rtol=1e-5)
    norms = ([m.gradient_norm for m in course(model, n)[1]] for n in (1, 4))
    np.testing.assert_allclose(*norms, rtol=1e-4)
    assert len(set(one)) == STEPS


def test_a_state_divided_among_devices_trains_as_a_copied_one(tmp_path):
    """Each device holds a quarter of what can be divided; saved, it restores onto one device.

    `test_hosts.py` has a network.
    """
    (whole, metrics), (parts, of_parts) = (course("linear", 4, d) for d in (False, True))
    for name, tolerance in (("loss", 1e-5), ("gradient_norm", 1e-4)):
        here, there = (np.array([getattr(m, name) for m in ms]) for ms in (of_parts, metrics))
        np.testing.assert_allclose(here, there, rtol=tolerance)
    assert distance(parts[-1][1], whole[-1][1]) < 1e-5
    assert step.compilations(train_step("linear", 4, True)) == 1

    state = fresh("linear", 4, divide=True)
    for batch in batches(4, 0, 2):
        state, _ = train_step("linear", 4, True)(state, batch)
    held = [
        (leaf.nbytes, leaf.addressable_shards[0].data.nbytes) for leaf in jax.tree.leaves(state)
    ]
    total, here = map(sum, zip(*held, strict=True))
    assert here < 0.3 * total
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, {}, None)
        restored = checkpoints.restore(fresh("linear", 1)).state
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((restored, state)))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("n_budgets", [1, 3])
def test_there_is_one_compilation_for_each_budget(monkeypatch, devices, n_budgets):
    monkeypatch.setattr("hdgnn_jax.data.loader.WORTH", 0)
    jitted = step.make_train_step(linear, optimizer(), mesh(devices), KEY, EMA, WEIGHTS)
    state = fresh("linear", devices)
    for batch in batches(devices, n_budgets=n_budgets):
        state, _ = jitted(state, batch)
    assert step.compilations(jitted) == len(loader(devices, n_budgets).budgets) == n_budgets


@pytest.mark.parametrize("devices", [1, 4])
def test_the_loss_is_the_mean_error_over_the_molecules_of_the_batch(devices):
    states, metrics = course("linear", devices)
    for k in range(STEPS):
        graph = whole_batch(k)
        rngs = {"frame": jax.random.fold_in(KEY, k)}
        outputs = linear({"params": states[k][0]}, graph, rngs=rngs)
        error = np.abs(np.asarray(outputs) - graph.globals.target)[:16].mean()
        np.testing.assert_allclose(metrics[k].loss, error, rtol=1e-5)


def test_the_average_follows_its_formula():
    states, _ = course("linear", 4)
    average = states[0][0]["w"]
    for k, (now, kept) in enumerate(states[1:]):
        decay = min(EMA, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * now["w"]
        np.testing.assert_allclose(kept["w"], average, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_state_is_given_up_and_the_weights_it_came_from_are_not(devices):
    state, (batch,) = fresh("linear", devices), batches(devices, 0, 1)
    after, _ = train_step("linear", devices)(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, params("linear"))))


def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_same_run_to_the_bit(tmp_path):
    whole = course("linear", 4)

    def go_on(state, start, stop, checkpoints):
        with MetricWriter(tmp_path, start) as writer:
            return loop.Loop(
                train_step=train_step("linear", 4), steps=stop, log_every=3,
                validate_at={stop}, validate=lambda ema: {"validation_mae": 0.0},
                write=writer.write,
                save=lambda state, at, mae, memory: checkpoints.save(at, state, {}, mae),
                show=lambda *shown: None, max_skipped=0, records=lambda k: [],
            ).train(state, batches(4, start, stop))  # fmt: skip

    assert 0 < (7 * 16) % len(MOLECULES) < len(MOLECULES)
    for start, stop in ((0, 7), (7, STEPS)):
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            state = fresh("linear", 4)
            state = checkpoints.restore(state).state if start else state
            assert int(state.step) == start
            state = go_on(state, start, stop, checkpoints)
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.ema), whole[0][-1])


@functools.cache
def gradients(**options):
    """Loss and gradients of one batch in one frame."""

    def loss(params):
        model = network(**SMALL, **options, frame="canonical")
        outputs = model.apply({"params": params}, graph, train=True)
        return losses.l1(outputs, graph, losses.count(graph), WEIGHTS)

    graph = whole_batch(0)
    return jax.jit(jax.value_and_grad(loss))(params("hdgnn"))


def distance(a, b) -> float:
    """Length of the difference over the length of b."""
    a, b = jax.device_get((a, b))
    difference = optax.tree.norm(jax.tree.map(np.subtract, a, b))
    return float(difference / optax.tree.norm(b))


def test_bfloat16_products_leave_float32_gradients_near_the_exact_ones():
    (loss, gradient), (expected, whole) = gradients(precision="bfloat16"), gradients()
    assert loss != expected
    np.testing.assert_allclose(loss, expected, rtol=2e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}
    assert distance(gradient, whole) < 0.1


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_molecule():
    """On four devices, of which one has the molecule."""
    state = fresh("linear", 4)
    (batch,) = batches(4, 0, 1)
    # Copies: the step gives its input's buffers away.
    before = jax.tree.map(np.array, jax.device_get(state))
    bad = int(np.asarray(batch.globals.id)[2, 1])
    target = np.array(batch.globals.target)
    target[2, 1] = np.inf
    spoilt = batch._replace(globals=batch.globals._replace(target=target))
    state, metrics = train_step("linear", 4)(state, jax.device_put(spoilt, step.sharded(mesh(4))))
    assert bool(metrics.skipped)
    assert int(metrics.culprit) == bad
    assert int(state.step) == 1
    for name in ("params", "ema", "opt_state"):
        here, there = jax.device_get(getattr(state, name)), getattr(before, name)
        jax.tree.map(np.testing.assert_array_equal, here, there)
    # The first step that counts warms up from a rate of 0.
    for good in (batch, *batches(4, 1, 2)):
        state, metrics = train_step("linear", 4)(state, good)
        assert not bool(metrics.skipped)
        assert int(metrics.culprit) == -1
    assert np.abs(np.asarray(state.params["w"]) - before.params["w"]).max() > 0
