"""A model that sees bonds in use: predictions, warnings, an exported program, and no forces."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from molecules import KNOWN
from small import SMALL, U0, predictor_of

from experiments import export_run
from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.baselines import LinearFit, geometry
from hdgnn_jax.data.smiles import conformers
from hdgnn_jax.graphs.neighbors import find_neighbors
from hdgnn_jax.graphs.structure import SYMBOLS, Structure, Structures
from hdgnn_jax.inference.calculator import HDGNNCalculator
from hdgnn_jax.inference.export import export_model
from hdgnn_jax.inference.predictor import PredictorError
from hdgnn_jax.inference.weights import network as network_of

CUTOFF = SMALL["cutoff"]
BONDS = find_neighbors(KNOWN, CUTOFF, None, "bonds")
PAIRS = find_neighbors(KNOWN, CUTOFF)
NO_FORCES = "U0 has no forces with this model's neighbours: where a bond breaks, energies jump"


@pytest.fixture(scope="module")
def predictor():
    made = predictor_of(U0, layers=1, neighborhood="bonds")
    return dataclasses.replace(made, domain=Domain.of(KNOWN, BONDS))


def test_it_has_no_forces(predictor):
    assert not predictor.has_forces
    assert predictor.repulsion is None
    for asked in (predictor.energy, lambda: predictor.derivatives(KNOWN)):
        with pytest.raises(PredictorError, match=NO_FORCES):
            asked()
    with pytest.raises(PredictorError, match=NO_FORCES):
        HDGNNCalculator(predictor)
    of_surface = predictor.model.changed(neighborhood="surface", tags=True)
    with pytest.raises(PredictorError, match="forces between atoms of the bulk would"):
        dataclasses.replace(predictor, model=of_surface).energy()


def test_the_graph_of_a_smiles_is_its_own_at_any_positions(predictor):
    """A bond of 2.4 Å is one by the SMILES alone."""
    (structure,), _ = conformers("CCO")
    bare = dataclasses.replace(structure, bonds=None)
    same = predictor(Structures.pack([structure, bare]))["U0"]
    assert same[0] == pytest.approx(same[1], abs=0.05)
    # Oxygen with its hydrogen is taken away from carbon.
    away = structure.positions[2] - structure.positions[1]
    far = structure.positions.copy()
    far[[2, -1]] += away * (2.4 / np.linalg.norm(away) - 1)
    own, torn = predictor(
        Structures.pack([dataclasses.replace(s, positions=far) for s in (structure, bare)])
    )["U0"]
    assert abs(own - torn) > 1


def test_it_warns_of_what_a_model_that_sees_all_pairs_warns_of(predictor):
    """Of atoms that are too near each other without a bond, and of ones too far from all others."""
    domain = Domain.of(KNOWN, PAIRS)
    assert predictor.domain == domain
    water = KNOWN[0]
    near = Structure(
        np.tile(water.atomic_numbers, 2),
        np.concatenate([water.positions, water.positions + np.array([1.0, 0, 0])]),
    )
    apart = Structure(np.array([1, 1]), 2.9 * np.eye(2, 3))
    packed = Structures.pack([water, near, apart])
    told = predictor.doubts(predictor.prepare(packed))
    assert told == domain.doubts(packed, find_neighbors(packed, CUTOFF))
    assert not told[0]
    assert told[1]
    assert told[2]


def test_a_linear_fit_sees_all_pairs_whatever_the_network_sees():
    values = np.arange(7.0)[:, None]
    ours, theirs = (
        LinearFit.fit(KNOWN, edges, values, (1, 6, 7, 8, 9), CUTOFF) for edges in (BONDS, PAIRS)
    )
    assert ours[0] == theirs[0]
    np.testing.assert_array_equal(ours[1], theirs[1])
    (fit,) = ours[0]
    few = np.array([6, 0])
    found = geometry([fit], KNOWN.take(few), BONDS.take(few))
    np.testing.assert_array_equal(found, geometry([fit], KNOWN.take(few), PAIRS.take(few)))


def test_the_exported_program_and_its_script_say_the_same(predictor):
    program, model = export_model(predictor)
    model = json.loads(json.dumps(model))
    assert model["energy"] is None
    assert model["outputs"].keys() == {"U0"}
    assert model["bonds"]["factor"] == 1.3
    several = [
        export_run.arrays_of(
            model, [SYMBOLS[z] for z in s.atomic_numbers], s.positions, np.zeros((0, 3)), s.tags
        )
        for s in KNOWN
    ]
    arrays = export_run.join(model, several)
    assert arrays["n_edges"].tolist() == BONDS.n_edges.tolist()
    found = jax.jit(jax.export.deserialize(bytearray(program)).call)(arrays)["U0"]
    target = model["targets"]["U0"]
    known = [sum(target["per_element"][SYMBOLS[z]] for z in s.atomic_numbers) for s in KNOWN]
    values = np.asarray(found, float) * target["scale"] + known + target["constant"]
    np.testing.assert_allclose(values, predictor(KNOWN)["U0"], rtol=0, atol=1e-4 * target["scale"])


def test_a_record_without_the_field_is_of_the_cutoff(predictor):
    """Written before there was another choice."""

    @dataclasses.dataclass
    class Written:
        model: dict

    fields = predictor.model.hyper.to_dict()
    assert network_of(Written(fields)).hyper.neighborhood == "bonds"
    del fields["neighborhood"]
    assert network_of(Written(fields)).hyper.neighborhood == "cutoff"
