"""A model in use says of each structure the same, however and with whichever others it is asked."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from molecules import CUTOFF, KNOWN
from small import BARE, PLAIN, SMALL, U0, fitted, predictor_of

from experiments import predict
from experiments.predict import Options
from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import CALCULATED, TARGETS
from hdgnn_jax.graphs import neighbors
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import Structure, StructureError, Structures
from hdgnn_jax.inference import predictor as module
from hdgnn_jax.inference.ensemble import predict_all
from hdgnn_jax.inference.predictor import Predictor, PredictorError, grown

NAMES = ("H2O", "CH3OH", "C2H6", "CH4")


def test_atoms_of_ase_are_refused_with_the_way_to_give_them(predictor):
    with pytest.raises(ValueError, match=r"Structures.pack\(map\(structure_of, list_of_atoms\)\)"):
        predictor([molecule("H2O")])


def atoms_of(name: str) -> Atoms:
    made = molecule(name)
    made.rattle(0.05, seed=0)
    return made


def packed_of(*names: str) -> Structures:
    return Structures.pack([structure_of(atoms_of(name)) for name in names])


# The first here, so that what it compiles serves the others.
@pytest.mark.usefixtures("no_programs")
def test_other_weights_are_served_by_what_is_compiled(predictor):
    packed = packed_of(*NAMES)
    predictor.derivatives(packed)
    compiled = predictor.compilations
    params = jax.tree.map(lambda leaf: 0.9 * leaf, predictor.params)
    other = predictor.with_params(params)
    found = other.derivatives(packed)
    assert other.compilations == predictor.compilations == compiled
    expected = dataclasses.replace(predictor, params=params)
    for a, b in zip(found, expected.derivatives(packed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(found.value - predictor.derivatives(packed).value).max() > 1e-3
    np.testing.assert_array_equal(other(packed)["U0"], expected(packed)["U0"])
    # Of another number of frames nothing that is compiled is of use.
    assert other.averaged(2).programs is not other.programs


@pytest.fixture
def searched(monkeypatch):
    """How many structures each search for neighbours was for, by whatever name it was called."""
    sizes, search = [], neighbors.search_neighbors

    def counted(structures, *rest):
        sizes.append(len(structures))
        return search(structures, *rest)

    for of in (neighbors, module):
        monkeypatch.setattr(of, "search_neighbors", counted)
    return sizes


@pytest.mark.parametrize("head", ["dipole", "dipole_vector", "extent"])
def test_a_crystal_has_no_centre_that_these_count_from(predictor, head):
    mu = FittedTarget(TARGETS["mu"], head, BARE, {})
    of_head = dataclasses.replace(
        predictor, model=predictor.model.changed(heads=(head,)), fitted=(mu,)
    )
    diamond = structure_of(bulk("C", cubic=True))
    message = (
        "is periodic: it has no centre to count mu from; a molecule in a box needs no cell "
        '(pbc="F F F")'
    )
    assert of_head.usable(Structures.pack([diamond]))[1] == {0: message}
    with pytest.raises(StructureError, match=re.escape(message)):
        of_head(Structures.pack([diamond]))
    both = Structures.pack([structure_of(molecule("H2O")), diamond])
    graphs, reasons = of_head.usable(both)
    assert reasons == {1: message}
    assert graphs.structures.ids.tolist() == [0]
    assert predictor.usable(both)[1] == {}


GOLD = Structure(np.array([79, 1]), np.eye(2, 3))
BAD = (
    (Structure(np.zeros(0, int), np.zeros((0, 3))), "has no atoms"),
    (GOLD, "contains Au; this model knows H, C, N, O, F"),
    (
        Structure(np.array([1, 6]), np.array([[0, 0, 0], [0, np.nan, 1]])),
        "has a coordinate that is not a finite number",
    ),
    (
        Structure(np.array([1, 6, 1]), np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0.001]])),
        "has atoms 0 and 2 at one place (nearer than 0.01 Å)",
    ),
    # Of two faults one is said, the one that is seen first.
    (
        dataclasses.replace(GOLD, positions=np.zeros((2, 3))),
        "contains Au; this model knows H, C, N, O, F",
    ),
)
"""What no model of molecules can use, and why."""


def test_the_usable_are_told_from_the_others_with_a_reason_for_each(predictor):
    good, reasons = list(packed_of(*NAMES)), {}
    mixed = good[:1]
    for k, (structure, reason) in enumerate(BAD, start=1):
        reasons[len(mixed)] = reason
        mixed += [structure, *good[k : k + 1]]
    mixed = Structures.pack(mixed, "record")
    graphs, found = predictor.usable(mixed)
    assert found == reasons
    assert list(found) == sorted(found)
    rest = [k for k in range(len(mixed)) if k not in reasons]
    assert graphs.structures.ids.tolist() == rest
    expected = find_neighbors(mixed.take(np.array(rest)), SMALL["cutoff"])
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(graphs.neighbors, name), value, name)
    # They are predicted as if the others had never been there.
    np.testing.assert_array_equal(predictor(graphs)["U0"], predictor(packed_of(*NAMES))["U0"])
    place, reason = next(iter(reasons.items()))
    for ask in (predictor.prepare, predictor, predictor.derivatives):
        with pytest.raises(StructureError) as error:
            ask(mixed)
        assert str(error.value) == f"record {place} {reason}"


def test_of_none_that_is_usable_each_has_its_reason(predictor):
    graphs, reasons = predictor.usable(Structures.pack(structure for structure, _ in BAD))
    assert len(graphs) == 0
    assert reasons == dict(enumerate(reason for _, reason in BAD))
    for ask in (predictor, predictor.derivatives):
        with pytest.raises(PredictorError, match="there is no structure to predict"):
            ask(graphs)


def test_what_is_prepared_is_not_searched_again_and_predicted_to_the_same_bits(
    predictor, searched
):
    packed = packed_of(*NAMES)
    prepared = predictor.prepare(packed)
    assert searched == [4]
    values, rolls = predictor(prepared)["U0"], predictor.of_rolls(prepared, 2)["U0"]
    (found, slopes), derivatives = predictor.slopes(prepared), predictor.derivatives(prepared)
    assert predictor.warnings(prepared) == [""] * 4
    assert searched == [4]
    np.testing.assert_array_equal(found["U0"], slopes.value)
    np.testing.assert_array_equal(values, predictor(packed)["U0"])
    np.testing.assert_array_equal(rolls, predictor.of_rolls(packed, 2)["U0"])
    for here, there in (
        (slopes, predictor.slopes(packed)[1]), (derivatives, predictor.derivatives(packed))
    ):  # fmt: skip
        for a, b in zip(here, there, strict=True):
            np.testing.assert_array_equal(a, b)
    assert searched == [4] * 5
    # U0 is in meV, and what atoms move in is in eV.
    for name in ("value", "forces", "virial"):
        ev = np.asarray(getattr(slopes, name)) / 1000
        np.testing.assert_allclose(ev, getattr(derivatives, name), rtol=1e-12)
    np.testing.assert_allclose(slopes.value, values, rtol=1e-6)


@pytest.fixture(scope="module")
def models(predictor):
    """By their folders, models of all neighbours and of the nearest."""
    domain = Domain.of(KNOWN, find_neighbors(KNOWN, CUTOFF))
    of_r2 = predictor_of(fitted(TARGETS["r2"], BARE), **PLAIN, max_neighbors=3)
    both = {"runs/U0": predictor, "runs/r2": of_r2}
    return {run: dataclasses.replace(model, domain=domain) for run, model in both.items()}


@pytest.fixture
def runs(models, monkeypatch):
    """Those that the command loads."""
    monkeypatch.setattr(Predictor, "load", lambda workdir, frames: models[str(workdir)])
    return models


@pytest.mark.parametrize("options", [Options(), Options(forces=True, rolls=2, conformers=3)])
def test_the_command_searches_each_structure_once_for_each_model(
    runs, searched, tmp_path, options
):
    """Warnings and forces have the neighbours that the predictions had."""
    ase.io.write(tmp_path / "in.xyz", [*map(atoms_of, NAMES), bulk("Au")], format="extxyz")
    inputs, output = [str(tmp_path / "in.xyz"), "smiles:CCO"], tmp_path / "out.json"
    searched.clear()
    assert predict.run([pathlib.Path(run) for run in runs], inputs, output, options) == 1
    # The atom of gold is refused before.
    assert searched == [4 + options.conformers] * 2
    rows = json.loads(output.read_text())
    assert ["forces [eV/Å]" in row for row in rows] == [
        options.forces and row["reason"] is None for row in rows
    ]
    r2, packed = runs["runs/r2"], packed_of(*NAMES)
    several = options.rolls > 1
    expected = r2.of_rolls(packed, options.rolls)["r2"].mean(0) if several else r2(packed)["r2"]
    np.testing.assert_allclose([row["r2 [bohr^2]"] for row in rows[:4]], expected, rtol=1e-6)


def test_what_one_of_several_models_cannot_use_is_predicted_by_none(runs, tmp_path):
    """And says whose folder that is; the others' numbers are those of their own structures."""
    water, ethanol = atoms_of("H2O"), atoms_of("CH3CH2OH")
    several = [bulk("C", cubic=True), water, bulk("Au"), ethanol]
    ase.io.write(tmp_path / "in.xyz", several, format="extxyz")
    output = tmp_path / "out.json"
    folders = [pathlib.Path(run) for run in runs]
    assert predict.run(folders, [str(tmp_path / "in.xyz")], output) == 2
    rows = json.loads(output.read_text())
    assert [row["reason"] for row in rows] == [
        "is periodic: it has no centre to count r2 from; a molecule in a box needs no cell "
        '(pbc="F F F") (runs/r2)',
        None,
        "contains Au; this model knows H, C, N, O, F (runs/U0)",
        None,
    ]
    packed = Structures.pack([structure_of(atoms) for atoms in (water, ethanol)])
    for name, model in (("U0 [meV]", runs["runs/U0"]), ("r2 [bohr^2]", runs["runs/r2"])):
        values = [row[name] for row in rows if row["reason"] is None]
        np.testing.assert_allclose(values, model(packed)[name.split()[0]], rtol=1e-6)
        assert name not in rows[0]


def test_models_of_one_property_are_an_ensemble(predictor):
    packed = packed_of("H2O", "CH3OH")
    other = predictor.with_params(jax.tree.map(lambda leaf: 0.9 * leaf, predictor.params))
    of_gap = dataclasses.replace(U0[0], target=TARGETS["gap"])
    gap = dataclasses.replace(other, fitted=(of_gap,))
    found = predict_all([(p, p.prepare(packed)) for p in (predictor, gap, other)])
    assert list(found) == ["U0", "gap"]
    both = np.stack([predictor(packed)["U0"], other(packed)["U0"]])
    np.testing.assert_array_equal(found["U0"].value, both.mean(0))
    np.testing.assert_array_equal(found["U0"].spread, both.std(0, ddof=1))
    assert found["U0"].of == "2 models"
    assert found["U0"].unit == found["gap"].unit == "meV"
    np.testing.assert_array_equal(found["gap"].value, both[1])
    assert found["gap"].spread is None


def test_derivatives_of_many_are_those_of_each(predictor):
    packed = packed_of(*NAMES)
    found = predictor.derivatives(packed)
    at = packed.offsets
    for k in range(len(NAMES)):
        alone = predictor.derivatives(packed.take(np.array([k])))
        np.testing.assert_allclose(found.value[k], alone.value[0], rtol=1e-6)
        np.testing.assert_allclose(found.forces[at[k] : at[k + 1]], alone.forces, atol=1e-5)
        np.testing.assert_allclose(found.virial[k], alone.virial[0], atol=1e-5)


def test_sizes_grow_by_a_quarter():
    assert [grown(size) for size in (1, 64, 65, 100, 125, 126)] == [64, 64, 80, 100, 125, 156]


def test_rolls_of_a_model_that_has_none_are_refused():
    """They would cost as many times and give a spread of 0, which reads as very sure."""
    strict = predictor_of(U0, **{**PLAIN, "pathway": "none", "tensor_product": "depthwise"})
    packed = Structures.pack([structure_of(molecule("H2O"))])
    assert strict.of_rolls(packed, 1)["U0"].shape == (1, 1)
    assert strict.averaged(1).model.hyper.evaluation_frame == 1
    for refused in (lambda: strict.of_rolls(packed, 8), lambda: strict.averaged(8)):
        with pytest.raises(PredictorError, match="does not depend on the roll"):
            refused()


def test_several_targets_are_predicted_together_as_each_alone():
    """With its own heads; forces are those of the energy, wherever it stands among them."""
    vector = dataclasses.replace(BARE, rank=1)
    targets = (
        *fitted(CALCULATED["dipole"], vector), *U0, *fitted(TARGETS["gap"], BARE),
    )  # fmt: skip
    names, packed = [one.name for one in targets], packed_of(*NAMES)
    together = predictor_of(targets, **PLAIN)
    model, params, found = together.model, together.params, together(packed)
    assert {name: values.shape for name, values in found.items()} == {
        "dipole": (4, 3), "U0": (4,), "gap": (4,)
    }  # fmt: skip
    values, slopes = together.slopes(packed)
    for name in names:
        np.testing.assert_allclose(values[name], found[name], rtol=1e-5)
    # The network is the same with the other columns of its last layer left out.
    scalars = params["molecule_head"]["scalars"]
    own, place = dict(scalars), names.index("U0")
    for layer in ("sphere_out", "invariant_out"):
        own[layer] = {k: v[..., place : place + 1] for k, v in scalars[layer].items()}
    alone = dataclasses.replace(
        together, model=model.changed(heads=("invariant",)), fitted=U0,
        params={**params, "molecule_head": {"scalars": own}},
    )  # fmt: skip
    own_values, expected = alone.slopes(packed)
    np.testing.assert_allclose(own_values["U0"], found["U0"], rtol=1e-6)
    scale = np.abs(expected.forces).max()
    np.testing.assert_allclose(slopes.forces, expected.forces, atol=1e-5 * scale)
