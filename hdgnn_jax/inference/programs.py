"""Compiled programs of a model in use."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from hdgnn_jax.graphs import batching
from hdgnn_jax.models.forces import Derivatives, with_derivatives
from hdgnn_jax.training import step
from hdgnn_jax.types import Apply, PyTree


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled programs of a model, for any weights: one for each shape of a batch.

    Attributes:
      apply: (variables, graph, ...) -> [G, F] standardised; see `Predictor.apply`.
      differentiable: the same function, with the layers as gradients are fastest; see `HDGNN.loop`.
      mesh: devices.
      energy: column of the output that is differentiated.
    """

    apply: Apply
    differentiable: Apply
    mesh: jax.sharding.Mesh
    energy: int

    @functools.cached_property
    def predict(self) -> Callable[..., jax.Array]:
        """(params, stacked batch) -> outputs."""
        return step.make_predict_step(self.apply, self.mesh)

    @functools.cached_property
    def predict_one(self) -> Callable[..., jax.Array]:
        """`predict` for a single structure, compiled as fast as can be."""
        return step.make_predict_step(self.apply, self.mesh, step.for_one_run(self.mesh))

    @functools.cached_property
    def differentiate(self) -> Callable[..., Derivatives]:
        """(params, stacked batch) -> outputs with forces and virial."""

        def differentiate(variables: PyTree, graph: batching.MolecularGraph) -> Derivatives:
            return with_derivatives(
                lambda moved: self.differentiable(variables, moved), graph, self.energy
            )

        return step.make_predict_step(differentiate, self.mesh)

    @functools.cached_property
    def of_rolls(self) -> Callable[[int], Callable[..., jax.Array]]:
        """Number of rolls -> (params, stacked batch) -> outputs [devices, G, rolls, F]."""

        @functools.cache
        def compiled(n: int) -> Callable[..., jax.Array]:
            def of_rolls(variables: PyTree, graph: batching.MolecularGraph) -> PyTree:
                rolls = self.apply(variables, graph, n, method="of_rolls")
                return jax.numpy.moveaxis(rolls, 0, 1)

            return step.make_predict_step(of_rolls, self.mesh)

        return compiled
