"""A trained model as one StableHLO program that JAX runs without this package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import export

from hdgnn_jax.data.fitted import FittedTarget, columns, energy_column
from hdgnn_jax.data.targets import isotropic
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.covalent import BOND, COVALENT_RADII
from hdgnn_jax.graphs.structure import CLOSEST_ATOMS, SYMBOLS
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.models.forces import with_derivatives
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.types import Json, PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Array(NamedTuple):
    """An argument or a result of the program."""

    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


INPUTS = {
    "atomic_numbers": Array("int32", ("atoms",), "of all structures end to end"),
    "positions": Array("float32", ("atoms", 3), "Å; a structure near the origin keeps its digits"),
    "tags": Array("int32", ("atoms",), "0 bulk, 1 surface, 2 adsorbate"),
    "senders": Array("int32", ("edges",), "atom j, its place among all atoms"),
    "receivers": Array("int32", ("edges",), "atom i, ascending"),
    "shift": Array("float32", ("edges", 3), "Å; j is seen at x_j + shift, 0 but for images of it"),
    "n_atoms": Array("int32", ("structures",), "of each structure"),
    "n_edges": Array("int32", ("structures",), "of each structure"),
}
DERIVATIVES = {
    "forces": Array("float32", ("atoms", 3), "-d energy / dx"),
    "virial": Array("float32", ("structures", 3, 3), "d energy / d strain: volume times stress"),
}


def export_model(predictor: Predictor) -> tuple[bytes, Json]:
    """Exports the network with its weights, and describes how to use it.

    The program maps a dict of arrays to another; the description names both. It takes any number
    of structures, atoms and edges, and is compiled for each such shape when it is called.

    Args:
      predictor: the model.

    Returns:
      The program for `jax.export.deserialize`, on all `PLATFORMS`, and a JSON-able description.
    """
    tags = predictor.model.hyper.tags
    inputs = {name: array for name, array in INPUTS.items() if name != "tags" or tags}
    atoms, edges, structures = export.symbolic_shape("atoms, edges, structures")
    # A symbolic dimension is 1 or more, but there may be no edge.
    sizes = {"atoms": atoms, "edges": edges - 1, "structures": structures, 3: 3}
    arguments = {
        name: jax.ShapeDtypeStruct([sizes[n] for n in array.shape], array.dtype)
        for name, array in inputs.items()
    }
    exported = export.export(jax.jit(_program(predictor)), platforms=PLATFORMS)(arguments)
    program = bytes(exported.serialize())
    return program, _description(predictor, program, inputs)


def _program(
    predictor: Predictor,
) -> Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]:
    model = predictor.model
    # Taken off the mesh: weights are constants of a program for one device of any kind.
    params = jax.tree.map(jnp.asarray, jax.device_get(predictor.params))

    def run(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        def apply(graph: batching.MolecularGraph) -> PyTree:
            return predictor.apply({"params": params}, graph)

        graph = _padded(arrays, model.hyper)
        if predictor.has_forces:
            energy = energy_column(predictor.fitted)
            found = with_derivatives(apply, graph, energy)._asdict()
            outputs = found.pop("value")
        else:
            found, outputs = {}, apply(graph)
        for one, column in zip(predictor.fitted, columns(predictor.fitted), strict=True):
            found[one.name] = outputs[:, column].reshape(-1, *one.shape)
        return {name: value[:-1] for name, value in found.items()}

    return run


def _description(
    predictor: Predictor, program: bytes, inputs: Mapping[str, Array]
) -> Json:
    model = predictor.model.hyper
    outputs = {
        one.name: Array("float32", ("structures", *one.shape), "standardised, see targets")
        for one in predictor.fitted
    }
    if predictor.has_forces:
        outputs |= DERIVATIVES
    return {
        "targets": {one.name: _reference(one) for one in predictor.fitted},
        "energy": predictor.energy().name if predictor.has_forces else None,
        "doubts_of_forces": predictor.doubts_of_forces() if predictor.has_forces else [],
        "inputs": {name: array._asdict() for name, array in inputs.items()},
        "outputs": {name: array._asdict() for name, array in outputs.items()},
        "elements": {SYMBOLS[z]: z for z in model.elements},
        "cutoff": model.cutoff,
        "max_neighbors": model.max_neighbors,
        "bonds": _bonds(model),
        "surface": model.neighborhood == "surface",
        "needs_tags": predictor.needs_tags,
        "closest_atoms": CLOSEST_ATOMS,
        "neighbors": (
            "Edges are all ordered pairs (j, i) with |x_j + shift - x_i| <= cutoff (Å), each "
            "periodic image of j, and of i itself, being one of its own. With bonds only pairs "
            "nearer than factor times the sum of their radii (Å) count. With surface no edge ends "
            "at an atom i of tag 0. With max_neighbors = k an atom i has only its k + 1 nearest, "
            "in ascending order; the last sets its reach."
        ),
        "padding": (
            "None is needed. To keep a shape, and with it the compiled program, add structures "
            "whose results are not read: atoms of number 0, edges that join one to itself."
        ),
        "rule": (
            "In float64: value * scale + isotropic * (constant + the sum of per_element over the "
            "atoms, divided by their number where averaged), in unit; an element that is not named "
            "has 0. Forces (unit/Å) and virial (unit) are those of energy, in its unit when "
            "multiplied by its scale."
        ),
        "evaluation_frame": model.evaluation_frame,
        "platforms": PLATFORMS,
        "jax": jax.__version__,
        "sha256": hashlib.sha256(program).hexdigest(),
    }


def _bonds(model: HyperParameters) -> Json | None:
    """The rule for bonds; None unless the model's neighbours are bonds."""
    if model.neighborhood != "bonds":
        return None
    return {"factor": BOND, "radii": {SYMBOLS[z]: float(COVALENT_RADII[z]) for z in model.elements}}


def _reference(one: FittedTarget) -> Json:
    """The numbers that turn a target's output into its value."""
    composition = one.reference.composition
    symbols = [SYMBOLS[z] for z in composition.elements]
    return {
        "unit": one.target.unit,
        "scale": one.reference.scale,
        "constant": composition.constant,
        "averaged": composition.averaged,
        "per_element": dict(zip(symbols, composition.per_element, strict=True)),
        "isotropic": np.asarray(isotropic(np.ones(1), one.target.rank))[0].tolist(),
    }


def _padded(arrays: Mapping[str, jax.Array], model: HyperParameters) -> batching.MolecularGraph:
    """The structures, then the padding: a structure of one atom and one edge."""

    def more(name: str, value: int | jax.Array) -> jax.Array:
        array = arrays[name]
        return jnp.concatenate([array, jnp.full((1, *array.shape[1:]), value, array.dtype)])

    numbers, n_atoms = more("atomic_numbers", 0), more("n_atoms", 1)
    padding = numbers.shape[0] - 1
    return jraph.GraphsTuple(
        nodes=batching.Atoms(
            numbers,
            more("positions", 0),
            more("tags", 0) if "tags" in arrays else jnp.zeros_like(numbers),
        ),
        edges=batching.Edges(
            more("shift", 0), model.cutoff, model.max_neighbors, model.neighborhood
        ),
        senders=more("senders", padding),
        receivers=more("receivers", padding),
        globals=batching.Labels(jnp.zeros(n_atoms.shape), jnp.zeros_like(n_atoms)),
        n_node=n_atoms,
        n_edge=more("n_edges", 1),
    )
