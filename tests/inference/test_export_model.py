"""An exported program says what the predictor says, for structures of any number and size."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import jax
import numpy as np
import pytest
from crystals import random_crystal
from molecules import graph_of
from small import fitted, predictor_of

from experiments import export_run
from hdgnn_jax.data.baselines import Composition
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import CALCULATED, POLARIZABILITY, Reference
from hdgnn_jax.graphs.neighbors import Neighborhood, find_neighbors
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, Structures
from hdgnn_jax.inference.export import PLATFORMS, export_model
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.models.forces import with_derivatives
from hdgnn_jax.models.linear import Linear, Terms

LIMIT = 8
"""Fewer than the crystals' atoms see."""
STRICT = {"degree": 1, "product_degree": 1, "tensor_product": "depthwise"}
"""Compiled in two thirds of the time."""
METALS = (29, 47, 79)


def reference_of(elements: tuple[int, ...] = METALS, rank: int = 0) -> Reference:
    known = tuple(-1000.0 * z for z in elements)
    return Reference(1.0, Composition(elements, known, 3.0), 50.0, rank)


OF_ENERGY, OF_DIPOLE = (
    fitted(CALCULATED[name], reference_of()) for name in ("energy", "dipole")
)


def made(targets: tuple[FittedTarget, ...] = OF_ENERGY, **options) -> Predictor:
    """On several devices: the program is of one all the same."""
    usual = {"elements": METALS, "layers": 1, "pathway": "none"}
    return predictor_of(targets, None, **{**usual, **options})


def arrays_of(model, structures) -> dict:
    """The program's input, by the script that goes with it."""
    several = [
        export_run.arrays_of(
            model, [SYMBOLS[z] for z in s.atomic_numbers], s.positions, lattice(s), s.tags
        )
        for s in structures
    ]
    return export_run.join(model, several)


def lattice(structure: Structure) -> np.ndarray:
    """The vectors of the directions that are periodic."""
    cell = structure.cell
    return np.zeros((0, 3)) if cell is None else cell[list(structure.periodic)]


def applied(predictor: Predictor):
    """The model with its weights."""
    return lambda graph: predictor.model.apply({"params": predictor.params}, graph)


def call(program: bytes, arrays: dict) -> dict:
    """What the program gives."""
    return jax.device_get(jax.jit(jax.export.deserialize(bytearray(program)).call)(arrays))


@pytest.fixture(scope="module")
def of_metals():
    return made(tags=True, max_neighbors=LIMIT, degree=1, product_degree=1)


@pytest.fixture(scope="module")
def crystals():
    """Of three, two, one and no periodic directions, far outside of their cell, and a lone atom."""
    several = [
        random_crystal(0),
        random_crystal(1, n=6, periodic=(True, False, True)),
        random_crystal(2, n=3, periodic=(False, False, True)),
        random_crystal(3, n=5, periodic=(False, False, False)),
    ]
    far = several[0].positions + np.array([[9, -5, 4], [0, 0, 0], [0, 7, 0], [0, 0, 0]])
    several[0] = dataclasses.replace(several[0], positions=far)
    lone = Structure(np.array([79]), np.zeros((1, 3)), tags=np.ones(1, int))
    return Structures.pack([*several, lone])


def test_energy_forces_and_virial_of_periodic_structures(of_metals, crystals):
    program, model = export_model(of_metals)
    model = json.loads(json.dumps(model))
    assert model["targets"].keys() == {model["energy"]} == {"energy"}
    assert model["targets"]["energy"]["unit"] == "meV"
    assert model["max_neighbors"] == LIMIT
    assert model["platforms"] == list(PLATFORMS)
    arrays = arrays_of(model, crystals)
    assert {n: str(a.dtype) for n, a in arrays.items()} == dtypes(model["inputs"])
    # Structures that nobody reads change nothing: one of atoms without number, one of nothing.
    spare = {"atoms": 3, "edges": 2, "structures": 2}
    for name, array in model["inputs"].items():
        arrays[name] = np.pad(arrays[name], [(0, spare.get(n, 0)) for n in array["shape"]])
    arrays["senders"][-2:] = arrays["receivers"][-2:] = crystals.offsets[-1]
    arrays["n_atoms"][-2], arrays["n_edges"][-2] = 3, 2
    found = call(program, arrays)
    assert {n: str(a.dtype) for n, a in found.items()} == dtypes(model["outputs"])
    expected = jax.jit(with_derivatives, static_argnums=0)(
        applied(of_metals), graph_of(crystals, max_neighbors=LIMIT)
    )
    expected = {**expected._asdict(), "energy": expected.value[:, 0]}
    for name, count in (("energy", 5), ("forces", crystals.offsets[-1]), ("virial", 5)):
        right = np.asarray(expected[name])[:count]
        size = np.abs(right).max()
        np.testing.assert_allclose(found[name][:count], right, rtol=0, atol=1e-5 * size)
        assert np.isfinite(found[name]).all()


def dtypes(arrays) -> dict:
    """By name, as the description has them."""
    return {name: array["dtype"] for name, array in arrays.items()}


BONDS = {"factor": 1.3, "radii": {"Cu": 1.32, "Ag": 1.45, "Au": 1.36}}


@pytest.mark.parametrize("limit", [None, 3, LIMIT])
@pytest.mark.parametrize("neighborhood", get_args(Neighborhood))
def test_the_script_finds_the_same_neighbors(crystals, limit, neighborhood):
    model = {
        "cutoff": 4.0, "max_neighbors": limit, "closest_atoms": 0.01,
        "bonds": BONDS if neighborhood == "bonds" else None, "surface": neighborhood == "surface",
    }  # fmt: skip
    expected = find_neighbors(crystals, 4.0, limit, neighborhood)
    for k, s in enumerate(crystals):
        symbols = [SYMBOLS[z] for z in s.atomic_numbers]
        i, j, shift = export_run.neighbors(model, symbols, s.positions, lattice(s), s.tags)
        mine = expected.take(np.array([k]))
        there = mine.images @ crystals.cells[k]
        assert sorted(rows(i, j, shift)) == sorted(rows(mine.receivers, mine.senders, there))
        assert (np.diff(i) >= 0).all()
        if limit is not None:
            distance = np.linalg.norm(s.positions[j] + shift - s.positions[i], axis=1)
            assert (np.diff(distance)[np.diff(i) == 0] >= 0).all()


def test_the_script_refuses_a_slab_of_bulk_alone(crystals):
    model = {"elements": {"Cu": 29}, "inputs": {"tags": {}}, "needs_tags": True}
    s = crystals[0]
    for tags, reason in (
        ([0] * 4, "no atom of the surface or the adsorbate"),
        ([0, 1, 2, 3], "has the tag 3: 0 is bulk, 1 the surface, 2"),
    ):
        with pytest.raises(ValueError, match=reason):
            export_run.arrays_of(model, ["Cu"] * 4, s.positions, lattice(s), tags)


def rows(i, j, shift) -> list:
    """Edges as tuples; + 0 makes a negative zero positive."""
    return [
        (a, b, *c)
        for a, b, c in zip(i.tolist(), j.tolist(), (shift.round(6) + 0).tolist(), strict=True)
    ]


def test_what_is_no_energy_is_a_value_alone_even_a_tensor():
    elements = (1, 6, 7, 8, 9)
    targets = fitted(POLARIZABILITY, reference_of(elements, 2))
    predictor = made(targets, elements=elements, evaluation_frame=2)
    program, model = export_model(predictor)
    assert list(model["outputs"]) == list(model["targets"]) == ["polarizability"]
    assert model["energy"] is None
    assert "tags" not in model["inputs"]
    of_target = model["targets"]["polarizability"]
    assert (of_target["unit"], of_target["isotropic"]) == ("bohr^3", np.eye(3).tolist())
    assert model["evaluation_frame"] == 2
    water = Structure.from_symbols("OHH", np.array([[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]]))
    several = [water, Structure.from_symbols("C", np.zeros((1, 3)))]
    graph = graph_of(Structures.pack(several))
    expected = np.asarray(jax.jit(applied(predictor))(graph))[:2].reshape(2, 3, 3)
    found = call(program, arrays_of(model, several))["polarizability"]
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Without any edge.
    found = call(program, arrays_of(model, several[1:]))["polarizability"]
    np.testing.assert_allclose(found, expected[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"max_neighbors": LIMIT, "near_neighbors": 4, "far_degree": 2, "far_hidden": 4},
        {"pathway": "linear", "attention": (1.0,) * 4, "precision": "bfloat16"},
    ],
)
def test_sizes_stay_open_whatever_the_model(options):
    program, _ = export_model(made(OF_DIPOLE, **options))
    sizes = {n for a in jax.export.deserialize(bytearray(program)).in_avals for n in a.shape}
    assert {str(n) for n in sizes} == {"3", "atoms", "edges - 1", "structures"}


def test_several_targets_are_outputs_by_name():
    """Forces are those of the energy among them."""
    predictor = made((*OF_DIPOLE, *OF_ENERGY), **STRICT)
    molecules = Structures.pack(
        [dataclasses.replace(random_crystal(k, 3), cell=None, periodic=None) for k in range(2)]
    )
    program, model = export_model(predictor)
    assert list(model["outputs"]) == ["dipole", "energy", "forces", "virial"]
    assert model["energy"] == "energy"
    found = call(program, arrays_of(model, molecules))
    graph = graph_of(molecules)
    expected = jax.jit(lambda g: with_derivatives(applied(predictor), g, 3))(graph)
    outputs = np.asarray(expected.value)[:2]
    np.testing.assert_allclose(found["dipole"], outputs[:, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["energy"], outputs[:, 3], rtol=1e-4, atol=1e-5)
    size = np.abs(expected.forces).max()
    np.testing.assert_allclose(found["forces"], expected.forces[:6], atol=1e-5 * size)


@pytest.mark.usefixtures("one_device")
def test_a_linear_reference_is_in_the_program():
    predictor = made(**STRICT)
    terms = Terms(predictor.model.hyper.elements, predictor.model.hyper.cutoff)
    weights = np.random.default_rng(0).normal(size=terms.n_features, scale=100)
    linear = Linear(terms.elements, terms.cutoff, tuple(weights.tolist()))
    reference = dataclasses.replace(predictor.fitted[0].reference, linear=linear)
    with_linear = dataclasses.replace(predictor, fitted=fitted(CALCULATED["energy"], reference))
    structures = Structures.pack([random_crystal(seed, 3) for seed in range(2)])
    expected = with_linear.derivatives(structures)
    assert np.abs(expected.value - predictor(structures)["energy"] / 1000).min() > 1e-3
    program, description = export_model(with_linear)
    found = jax.jit(jax.export.deserialize(bytearray(program)).call)(
        arrays_of(description, structures)
    )
    reference = description["targets"]["energy"]
    known = [sum(-1000.0 * z for z in s.atomic_numbers) + 3 for s in structures]
    scale = reference["scale"]
    value = (np.asarray(found["energy"], float) * scale + known) / 1000
    size = scale / 1000
    np.testing.assert_allclose(value, expected.value, rtol=0, atol=2e-5 * size)
    for name in ("forces", "virial"):
        ours = getattr(expected, name)
        there = np.asarray(found[name]) * size
        np.testing.assert_allclose(there, ours, rtol=0, atol=1e-4 * np.abs(ours).max())
    rolls = with_linear.of_rolls(structures, 1)["energy"][0] / 1000
    np.testing.assert_allclose(rolls, expected.value, rtol=0, atol=2e-5 * size)
