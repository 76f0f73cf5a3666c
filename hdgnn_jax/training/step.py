"""The training step: one compiled program over a mesh of devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hdgnn_jax import cpu
from hdgnn_jax.graphs import batching
from hdgnn_jax.training import losses
from hdgnn_jax.types import Apply, Params, PyTree

AXIS = "data"


class TrainState(flax.struct.PyTreeNode):
    """All that changes from step to step; batch and random numbers are functions of `step`.

    Attributes:
      step: number of steps taken.
      params: weights being trained.
      ema: exponential moving average of the weights, used for evaluation.
      opt_state: state of the optimiser.
    """

    step: jax.Array
    params: Params
    ema: Params
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """Metrics of a step on the whole batch.

    Attributes:
      loss: see `losses.l1`.
      gradient_norm: norm of the gradient of the loss.
      skipped: True where one of them is not finite, so that the step changed no weight.
      culprit: id of a graph whose outputs are not finite; -1 without one.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    skipped: jax.Array
    culprit: jax.Array


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, for data parallelism."""
    cpu.tune()
    return jax.make_mesh(
        (len(devices or jax.devices()),), (AXIS,), devices=devices,
        axis_types=(jax.sharding.AxisType.Auto,),
    )  # fmt: skip


def for_one_run(mesh: Mesh) -> dict[str, int] | None:
    """Options of the compiler for a program that will run once on these devices."""
    return cpu.FOR_ONE_RUN if mesh.devices.flat[0].platform == "cpu" else None


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(tree: Params, mesh: Mesh, divide: bool) -> Params:
    """The sharding of each array of a state: whole on each device, or divided among them (FSDP).

    An array is divided along its longest axis whose size is a multiple of the number of devices;
    arrays without such an axis are copied.
    """

    def of_leaf(leaf: jax.Array) -> NamedSharding:
        sizes = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
        if not (divide and any(sizes)):
            return replicated(mesh)
        # Axes after the divided one are not named: shardings must equal those of the compiler,
        # which omits them.
        return NamedSharding(mesh, PartitionSpec(*[None] * int(np.argmax(sizes)), AXIS))

    return jax.tree.map(of_leaf, tree)


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def init_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, divide: bool = False
) -> TrainState:
    """The state before the first step: whole on every device, or divided among them."""

    @jax.jit
    def fresh(params: Params) -> TrainState:
        # Copies, because the step donates its input's buffers, which nothing else may share.
        own, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
        return TrainState(jnp.zeros((), jnp.int32), own, ema, optimizer.init(params))

    state = fresh(params)
    placed: TrainState = jax.device_put(state, shardings(state, mesh, divide))
    return placed


def make_train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    ema_decay: float,
    weights: losses.Weights,
    divide: bool = False,
) -> jax.stages.Wrapped:
    """The jitted training step.

    Each device computes its part of the batch. Losses and gradients are summed over devices and
    divided by the numbers of labels and atoms in the whole batch, so the number of devices
    does not change them. A step whose loss or gradient is not finite only increments `step`.

    Args:
      apply: (variables, graph, train, rngs) -> outputs [G, F], or their `Derivatives` where
        derivatives are trained on.
      optimizer: the run's optimiser.
      mesh: the devices.
      key: the root of the run's random numbers; step k uses fold_in(key, k).
      ema_decay: decay of the average, reached gradually as (1 + k) / (10 + k).
      weights: weights of errors in the loss.
      divide: whether the state is divided among the devices, see `shardings`. Weights are then
        gathered for the step and their gradient is scattered; the optimiser updates only a
        device's own part.

    Returns:
      (state, stacked batch) -> (state, metrics). The buffers of the given state are donated.
    """

    def train_step(
        state: TrainState, batch: batching.MolecularGraph
    ) -> tuple[TrainState, StepMetrics]:
        placed = shardings(state, mesh, divide)
        gradient = _gradient(apply, mesh, placed.params, key, weights)
        loss, grads, culprit = gradient(state.params, state.step, batch)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        new, old = (params, ema, opt_state), (state.params, state.ema, state.opt_state)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        metrics = StepMetrics(loss, norm, ~good, culprit)
        result: tuple[TrainState, StepMetrics] = jax.lax.with_sharding_constraint(
            (TrainState(state.step + 1, *kept), metrics), (placed, replicated(mesh))
        )
        return result

    return jax.jit(train_step, donate_argnums=0)


def _gradient(
    apply: Apply,
    mesh: Mesh,
    placed: Params,
    key: jax.Array,
    weights: losses.Weights,
) -> Callable[..., tuple[jax.Array, Params, jax.Array]]:
    """A function (params, step, stacked batch) -> loss, gradient and culprit of the whole batch.

    `placed` has the shardings of the weights and of the gradient.
    """
    specs = jax.tree.map(lambda sharding: sharding.spec, placed)

    def shard_gradient(
        params: Params, step: jax.Array, batch: batching.MolecularGraph
    ) -> tuple[jax.Array, Params, jax.Array]:
        graph = jax.tree.map(lambda leaf: leaf[0], batch)
        counts = jax.lax.psum(losses.count(graph), AXIS)

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            # The derivative of all_gather is a sum over devices whose result is scattered.
            whole = jax.tree.map(_gathered, params, specs)
            rngs = {"frame": jax.random.fold_in(key, step)}
            outputs = apply({"params": whole}, graph, train=True, rngs=rngs)
            culprit = losses.not_finite(outputs, graph, weights)
            return losses.l1(outputs, graph, counts, weights), culprit

        (value, culprit), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        # Gradients of undivided weights are summed as one vector, in one exchange between devices.
        whole, place = jax.flatten_util.ravel_pytree(
            jax.tree.map(lambda leaf, s: None if AXIS in s else leaf, gradient, specs)
        )
        summed = jax.tree.map(
            lambda leaf, total: leaf if total is None else total,
            gradient,
            place(jax.lax.psum(whole, AXIS)),
            is_leaf=lambda leaf: leaf is None,
        )
        return jax.lax.psum(value, AXIS), summed, jax.lax.pmax(culprit, AXIS)

    return jax.shard_map(
        shard_gradient,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=(PartitionSpec(), specs, PartitionSpec()),
        check_vma=False,
    )


def _gathered(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    """The whole array, gathered from the parts of all devices."""
    if AXIS not in spec:
        return leaf
    gathered: jax.Array = jax.lax.all_gather(leaf, AXIS, axis=list(spec).index(AXIS), tiled=True)
    return gathered


def compilations(jitted: Apply) -> int:
    """The number of argument shapes for which a jitted function was compiled."""
    count: int = jitted._cache_size()  # type: ignore[attr-defined]  # JAX's, of no type
    return count


def make_predict_step(
    apply: Apply, mesh: Mesh, options: dict[str, int] | None = None
) -> Callable[[Params, batching.MolecularGraph], PyTree]:
    """A function (params, stacked batch) -> the outputs of `apply`, with a first axis of devices.

    Every device, and so every process, has all outputs.

    Args:
      apply: (variables, graph) -> arrays.
      mesh: the devices.
      options: of the compiler.
    """

    def shard_predict(params: Params, batch: batching.MolecularGraph) -> PyTree:
        found = apply({"params": params}, jax.tree.map(lambda leaf: leaf[0], batch))
        return jax.tree.map(lambda leaf: leaf[None], found)

    predict = jax.shard_map(
        shard_predict,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    return jax.jit(predict, out_shardings=replicated(mesh), compiler_options=options)
