"""Many structures come to rest at once, where each would alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from molecules import CUTOFF, KNOWN
from small import BARE, also, fitted

from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.graphs.neighbors import Neighborhoods, search_neighbors
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.relaxation import relax
from hdgnn_jax.models.forces import Derivatives


class Springs:
    """Energy k/2 |x - x0|^2 of every atom, another k for each structure: minima are known."""

    def __init__(self, rest: Structures):
        self.rest = dict(zip(rest.ids.tolist(), rest, strict=True))
        self.asked: list[int] = []

    def usable(self, structures: Structures) -> tuple[Neighborhoods, dict[int, str]]:
        return Neighborhoods(structures, search_neighbors(structures, CUTOFF)[0]), {}

    def derivatives(self, graphs: Neighborhoods) -> Derivatives:
        structures = graphs.structures
        self.asked.append(len(structures))
        forces, energies = [], []
        for k, s in zip(structures.ids.tolist(), structures, strict=True):
            away = s.positions - self.rest[k].positions
            forces.append(-(k + 1) * away)
            energies.append((k + 1) * np.sum(away**2) / 2)
        return Derivatives(np.array(energies), np.concatenate(forces), np.zeros(1))


def shaken(scale: float) -> Structures:
    noise = np.random.default_rng(0).normal(size=KNOWN.positions.shape) * scale
    return dataclasses.replace(KNOWN, positions=KNOWN.positions + noise)


def test_springs_come_to_rest_at_their_minima():
    springs, start = Springs(KNOWN), shaken(0.3)
    told: list[int] = []
    found = relax(springs, start, fmax=1e-3, steps=300, advance=told.append)
    assert found.converged.all()
    np.testing.assert_allclose(found.structures.positions, KNOWN.positions, atol=1e-3)
    np.testing.assert_allclose(found.energies, 0, atol=1e-5)
    assert sum(told) == len(KNOWN)
    # What has come to rest is not computed again.
    assert springs.asked[0] == len(KNOWN) > springs.asked[-1]
    assert found.steps.max() == len(springs.asked) - 1


def test_fixed_atoms_stay_and_what_is_not_relaxed_is_said():
    fixed = np.zeros(len(KNOWN.positions), bool)
    fixed[::2] = True
    start = dataclasses.replace(shaken(0.3), fixed=fixed)
    found = relax(Springs(KNOWN), start, fmax=1e-3, steps=300)
    assert found.converged.all()
    np.testing.assert_array_equal(found.structures.positions[fixed], start.positions[fixed])
    at, rest = found.structures.positions[~fixed], KNOWN.positions[~fixed]
    np.testing.assert_allclose(at, rest, atol=1e-3)
    early = relax(Springs(KNOWN), start, fmax=1e-3, steps=2)
    assert not early.converged.any()
    assert early.steps.tolist() == [2] * len(KNOWN)


def test_one_that_is_lost_stops_none_of_the_others():
    """Structure 2 is refused once it has moved, 4 comes to have no numbers."""

    class Breaking(Springs):
        def usable(self, structures: Structures) -> tuple[Neighborhoods, dict[int, str]]:
            graphs, reasons = super().usable(structures)
            if len(self.asked) > 3:
                bad = np.flatnonzero(structures.ids == 2)
                reasons = {int(k): "has atoms 0 and 1 at one place" for k in bad}
                graphs = graphs.take(np.flatnonzero(structures.ids != 2))
            return graphs, reasons

        def derivatives(self, graphs: Neighborhoods) -> Derivatives:
            late, ids = len(self.asked) > 3, list(graphs.structures.ids)
            found = super().derivatives(graphs)
            if late and 4 in ids:
                found.value[ids.index(4)] = np.nan
            return found

    told: list[int] = []
    found = relax(Breaking(KNOWN), shaken(0.3), fmax=1e-3, steps=300, advance=told.append)
    assert found.reasons[2] == "has atoms 0 and 1 at one place"
    assert found.reasons[4].endswith("no finite numbers")
    assert found.converged.tolist() == [k not in (2, 4) for k in range(len(KNOWN))]
    assert sum(told) == len(KNOWN)
    others = np.isin(np.repeat(np.arange(len(KNOWN)), KNOWN.n_atoms), (2, 4), invert=True)
    at, rest = found.structures.positions[others], KNOWN.positions[others]
    np.testing.assert_allclose(at, rest, atol=1e-3)


def test_a_model_takes_them_downhill_together_as_alone(predictor):
    # So steep that most of them have a way to go.
    steep = dataclasses.replace(BARE, scale=300.0)
    predictor = also(predictor, fitted=fitted(TARGETS["U0"], steep))
    start = shaken(0.02)
    before = predictor.derivatives(start)
    found = relax(predictor, start, fmax=0.05, steps=8)
    moved = found.steps > 0
    assert moved.sum() > 3
    assert (found.energies < before.value)[moved].all()
    after = predictor.derivatives(found.structures)
    np.testing.assert_allclose(found.energies, after.value, rtol=1e-6)
    alone = relax(predictor, start.take(np.array([4])), fmax=0.05, steps=8)
    np.testing.assert_allclose(alone.energies[0], found.energies[4], rtol=1e-4)
