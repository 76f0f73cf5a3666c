"""The training step: one compiled program over a mesh of devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hdgnn_jax.graphs import batching
from hdgnn_jax.training import losses

Params = Any
Apply = Callable[..., Any]
AXIS = "data"


class TrainState(flax.struct.PyTreeNode):
    """All that changes from step to step; batch and random numbers are functions of `step`.

    Attributes:
      step: steps taken.
      params: weights being trained.
      ema: their exponential moving average, used for evaluation.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Params
    ema: Params
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """Of the whole batch.

    Attributes:
      loss, gradient_norm: means over the real graphs.
      skipped: whether either is not finite, and the step changed no weight.
      culprit: id of a graph whose outputs are not finite; -1 where there is none.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    skipped: jax.Array
    culprit: jax.Array


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, for data parallelism."""
    return jax.make_mesh(
        (len(devices or jax.devices()),), (AXIS,), devices=devices,
        axis_types=(jax.sharding.AxisType.Auto,),
    )  # fmt: skip


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state: a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def init_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device."""
    # Copies: the step gives its input's buffers away, which nothing else may share.
    own, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
    state = TrainState(jnp.zeros((), jnp.int32), own, ema, optimizer.init(params))
    return jax.device_put(state, replicated(mesh))


def make_train_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    ema_decay: float,
    forces_weight: float = 0.0,
) -> jax.stages.Wrapped:
    """The jitted step.

    Each device takes its part of the batch; losses and gradients are summed over devices and
    divided by the number of real graphs and atoms in the whole batch, so that the number of devices
    does not change them. A step whose loss or gradient is not finite changes nothing but the count
    of steps.

    Args:
      apply: (variables, graph, train, rngs) -> outputs [G, ...], or their `Derivatives` where
        forces weigh anything.
      optimizer: of the run.
      mesh: of devices.
      key: the root of the run's random numbers; step k uses fold_in(key, k).
      ema_decay: of the average, reached gradually as (1 + k) / (10 + k).
      forces_weight: see `losses.l1`.

    Returns:
      (state, stacked batch) -> (state, metrics). The state passed in is given up.
    """

    def shard_gradient(params: Params, step: jax.Array, batch: batching.MolecularGraph):
        graph = jax.tree.map(lambda leaf: leaf[0], batch)
        counts = jax.lax.psum(losses.count(graph), AXIS)

        def loss(params: Params) -> tuple[jax.Array, jax.Array]:
            rngs = {"frame": jax.random.fold_in(key, step)}
            outputs = apply({"params": params}, graph, train=True, rngs=rngs)
            culprit = losses.not_finite(outputs, graph, forces_weight)
            return losses.l1(outputs, graph, counts, forces_weight), culprit

        (value, culprit), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return *jax.lax.psum((value, gradient), AXIS), jax.lax.pmax(culprit, AXIS)

    gradient = jax.shard_map(
        shard_gradient,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )

    def train_step(state: TrainState, batch: batching.MolecularGraph):
        loss, grads, culprit = gradient(state.params, state.step, batch)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        new, old = (params, ema, opt_state), (state.params, state.ema, state.opt_state)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        return TrainState(state.step + 1, *kept), StepMetrics(loss, norm, ~good, culprit)

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
    )


def compilations(jitted: Callable[..., Any]) -> int:
    """How many shapes of arguments a jitted function was compiled for."""
    return jitted._cache_size()  # type: ignore[attr-defined]


def make_predict_step(
    apply: Apply, mesh: Mesh
) -> Callable[[Params, batching.MolecularGraph], Any]:
    """(params, stacked batch) -> what `apply` gives, an axis of devices first.

    Args:
      apply: (variables, graph) -> arrays.
      mesh: of devices.
    """

    def shard_predict(params: Params, batch: batching.MolecularGraph) -> Any:
        found = apply({"params": params}, jax.tree.map(lambda leaf: leaf[0], batch))
        return jax.tree.map(lambda leaf: leaf[None], found)

    predict = jax.shard_map(
        shard_predict,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    return jax.jit(predict, in_shardings=(replicated(mesh), sharded(mesh)))
