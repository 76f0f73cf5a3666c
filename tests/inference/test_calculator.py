"""The calculator says of `Atoms` what the predictor says, and lets ASE move them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.mep import NEB
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.vibrations import Vibrations
from small import BARE, PLAIN, also, fitted, predictor_of

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.data.targets import CALCULATED, RELAXED_ENERGY, TARGETS
from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.inference.calculator import DomainWarning, HDGNNCalculator
from hdgnn_jax.inference.predictor import PredictorError

UNIT = np.eye(3)


@pytest.fixture(scope="module")
def of_metals():
    of_energy = fitted(CALCULATED["energy"], BARE)
    return predictor_of(of_energy, **PLAIN, elements=(29, 79), max_neighbors=12, tags=True)


SEEN = Domain((3, 3), (False, False), {1: 1.1, 8: 1.1}, ((1, 1, 1.5), (1, 8, 0.9)))


@pytest.fixture(scope="module")
def knowing(predictor):
    """The same, trained on water."""
    return dataclasses.replace(predictor, domain=SEEN)


def atoms_of(name: str, seed: int = 0) -> Atoms:
    made = molecule(name)
    made.rattle(0.05, seed=seed)
    return made


# These two are the first, so that what they compile serves the others.
@pytest.mark.usefixtures("no_programs")
def test_ase_moves_atoms_without_compiling_again(predictor):
    atoms = atoms_of("C2H6")
    atoms.calc = HDGNNCalculator(predictor)
    before = atoms.get_potential_energy()
    compiled = predictor.compilations
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=10)
    assert atoms.get_potential_energy() < before
    random = np.random.RandomState(0)
    Langevin(
        atoms, units.fs, temperature_K=300, friction=0.02, rng=random, fixcm=False
    ).run(5)
    images = [atoms_of("C2H6", seed) for seed in (0, 1, 2)]
    for image in images:
        image.calc = HDGNNCalculator(predictor)
    band = NEB(images, method="improvedtangent")
    band.interpolate()
    assert np.isfinite(band.get_forces()).all()
    # Neighbours come and go: at most the next size.
    assert predictor.compilations <= compiled + 1


@pytest.mark.usefixtures("no_programs")
def test_phonons_by_finite_differences_compile_once(of_metals, tmp_path):
    """Copper, 27 cells: three branches that vanish at Gamma, on one compiled program."""
    crystal = bulk("Cu")
    phonons = Phonons(
        crystal, HDGNNCalculator(of_metals), (3, 3, 3), delta=0.05, name=str(tmp_path / "phonons")
    )
    before = of_metals.compilations
    phonons.run()
    phonons.read(acoustic=True)
    assert of_metals.compilations == before + 1
    path = crystal.cell.bandpath("GX", npoints=3)
    bands = phonons.get_band_structure(path, verbose=False).energies[0]
    assert bands.shape == (3, 3)
    assert np.abs(bands[0]).max() < 1e-2 * np.abs(bands[-1]).max()


def test_an_option_that_there_is_not_is_refused(predictor):
    with pytest.raises(TypeError, match="has no option 'repulsive'"):
        HDGNNCalculator(predictor, repulsive=False)


def test_energy_is_the_predictors_in_ev(predictor):
    names = ("H2O", "CH4", "C2H6", "CH3OH")
    several = [atoms_of(name) for name in names]
    alone = []
    for atoms in several:
        atoms.calc = HDGNNCalculator(predictor)
        alone.append(atoms.get_potential_energy())
        assert atoms.get_potential_energy(force_consistent=True) == alone[-1]
    batch = predictor(Structures.pack([structure_of(atoms) for atoms in several]))["U0"]
    np.testing.assert_allclose(batch / 1000, alone, rtol=1e-6)
    # The same bits for the same batch.
    again = predictor(Structures.pack([structure_of(atoms) for atoms in several]))["U0"]
    np.testing.assert_array_equal(batch, again)


def test_rolls_are_the_evaluation_frames_and_their_mean_is_the_prediction(predictor):
    packed = Structures.pack([structure_of(atoms_of(name)) for name in ("H2O", "CH3OH")])
    each = predictor.of_rolls(packed, 3)["U0"]
    atoms = atoms_of("H2O")
    atoms.calc = HDGNNCalculator(predictor, evaluation_frame=3)
    assert atoms.get_potential_energy() == pytest.approx(each[:, 0].mean() / 1000, rel=1e-6)
    np.testing.assert_allclose(each[0], predictor(packed)["U0"], rtol=1e-6)
    assert (each.std(0) > 1e-3).all()


def test_forces_and_stress_follow_from_the_energy(of_metals):
    # As many neighbours as the slab below has: one compiled program.
    crystal = bulk("Cu") * (3, 2, 1)
    crystal.symbols[3] = "Au"
    crystal.rattle(0.1, seed=1)
    crystal.calc = HDGNNCalculator(of_metals)
    forces, stress = crystal.get_forces(), crystal.get_stress(voigt=False)
    # Mostly along the force: float32 energies give a slope of two digits, if it is steep.
    h, direction = 1e-2, np.random.default_rng(0).normal(size=forces.shape)
    direction += 3 * forces / np.abs(forces).max()

    def energy(positions=crystal.positions, stretch=UNIT) -> float:
        moved = Atoms(crystal.numbers, positions @ stretch, cell=crystal.cell @ stretch, pbc=True)
        moved.calc = HDGNNCalculator(of_metals)
        return moved.get_potential_energy()

    def slope(along) -> float:
        return (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)

    found = slope(lambda t: energy(crystal.positions + t * direction))
    assert -found == pytest.approx(np.sum(forces * direction), rel=1e-2)
    strain = np.array([[1, 0.3, 0], [0.3, -0.5, 0.2], [0, 0.2, 0.7]])
    found = slope(lambda t: energy(stretch=np.eye(3) + t * strain / 10))
    assert found == pytest.approx(crystal.get_volume() * np.sum(stress * strain) / 10, rel=1e-2)


def test_fixed_atoms_stay_and_tags_count(of_metals, tmp_path):
    slab = fcc111("Cu", (2, 2, 2), vacuum=8)
    slab.pbc, slab.symbols[-1] = True, "Au"
    slab.set_tags([0] * 4 + [1] * 3 + [2])
    slab.set_constraint(FixAtoms(range(4)))
    slab.calc = HDGNNCalculator(of_metals)
    start, energy = slab.positions.copy(), slab.get_potential_energy()
    structure = structure_of(slab)
    assert structure.fixed.tolist() == [True] * 4 + [False] * 4
    assert structure.tags.tolist() == [0] * 4 + [1] * 3 + [2]
    BFGS(slab, logfile=None).run(fmax=1e-4, steps=3)
    assert (slab.positions[:4] == start[:4]).all()
    assert (slab.positions[4:] != start[4:]).any()
    slab.positions = start
    slab.set_tags([0] * 8)
    assert slab.get_potential_energy() != energy
    slab.set_tags([7] * 8)
    with pytest.raises(StructureError, match="has the tag 7; there are 0"):
        slab.get_potential_energy()


def test_what_the_model_cannot_do_is_said(predictor):
    with pytest.raises(PredictorError, match="gap is no potential energy"):
        HDGNNCalculator(dataclasses.replace(predictor, fitted=fitted(TARGETS["gap"], BARE)))
    for target, why in (
        (TARGETS["G"], "thermal parts at 298 K"), (RELAXED_ENERGY, "the end of a relax"),
    ):  # fmt: skip
        with pytest.raises(PredictorError, match=why):
            HDGNNCalculator(dataclasses.replace(predictor, fitted=fitted(target, BARE)))
    mu = dataclasses.replace(predictor, fitted=fitted(TARGETS["mu"], BARE))
    with pytest.raises(PredictorError, match="mu is no potential energy"):
        HDGNNCalculator(mu)
    with pytest.raises(PredictorError, match="mu is no potential energy"):
        mu.derivatives(Structures.pack([structure_of(atoms_of("H2O"))]))
    gold = bulk("Au")
    gold.calc = HDGNNCalculator(predictor)
    with pytest.raises(StructureError, match="contains Au; this model knows H, C, N, O, F"):
        gold.get_potential_energy()
    water = atoms_of("H2O")
    water.calc = HDGNNCalculator(predictor)
    with pytest.raises(PropertyNotImplementedError, match="periodic in three directions"):
        water.get_stress()


def test_atoms_unlike_those_of_training_are_said_once_for_each_kind(knowing):
    """What would move atoms into one another says so before it has."""
    water = molecule("H2O")
    water.calc = HDGNNCalculator(knowing)
    water.get_potential_energy()
    nearer = r"H and [OH] 0\.\d\d Å apart \(trained on [01]\.\d0 and more\)"
    water.positions *= 0.6
    with pytest.warns(DomainWarning, match=nearer) as caught:
        water.get_potential_energy()
    assert len(caught) == 2
    assert {warning.filename for warning in caught} == {__file__}
    # Nor again: a warning would be an error here.
    water.positions *= 0.9
    water.get_potential_energy()
    water.calc = HDGNNCalculator(knowing, strict=True)
    with pytest.raises(StructureError, match=r"the structure leaves .* on: H and"):
        water.get_potential_energy()


def test_of_a_rare_size_it_warns_and_goes_on(knowing):
    """Where all else is within the domain, with `strict` too."""
    rare = dataclasses.replace(
        SEEN, atoms=(2, 9), closest=((1, 1, 1.2), (1, 8, 0.9)), sizes={2: 9}
    )
    water = molecule("H2O")
    water.calc = HDGNNCalculator(also(knowing, domain=rare), strict=True)
    with pytest.warns(DomainWarning, match="none of the 9 training molecules has at most 1 atom"):
        water.get_potential_energy()


def test_options_are_given_once_and_are_what_they_can_be(predictor):
    calculator = HDGNNCalculator(predictor, dtype=np.float64)
    assert calculator.predictor.dtype == np.float64
    with pytest.raises(TypeError, match="give dtype when the calculator is made"):
        calculator.set(dtype="float32")
    with pytest.raises(TypeError, match="for several use ASE's AverageCalculator"):
        HDGNNCalculator([predictor, predictor])
    for frames in (0, "eight", True):
        with pytest.raises(PredictorError, match="evaluation_frame must be a whole number above 0"):
            HDGNNCalculator(predictor, evaluation_frame=frames)


def test_forces_that_were_not_trained_on_are_said(predictor):
    water = molecule("H2O")
    water.calc = HDGNNCalculator(also(predictor, trained_on_forces=False))
    water.get_potential_energy()
    with pytest.warns(DomainWarning, match="trained on energies alone") as caught:
        water.get_forces()
    assert caught[0].filename == __file__
    water.calc.strict = True
    with pytest.raises(StructureError, match="trained on energies alone"):
        water.get_forces()


def test_atoms_nearer_than_in_training_repel_each_other(knowing):
    water, found = molecule("H2O"), {}
    for repulsion in (True, False):
        calculator = HDGNNCalculator(knowing, repulsion=repulsion)
        for scale in (1.0, 0.6):
            here = water.copy()
            here.positions *= scale
            here.calc = calculator
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DomainWarning)
                outward = here.get_forces() * (here.positions - here.positions.mean(0))
                found[repulsion, scale] = here.get_potential_energy(), outward.sum()
    assert found[True, 1.0] == found[False, 1.0]
    energies, pushes = np.subtract(found[True, 0.6], found[False, 0.6])
    assert energies > 5
    assert pushes > 5


def test_it_is_pickled_and_copied(predictor):
    atoms = atoms_of("H2O")
    atoms.calc = HDGNNCalculator(predictor)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    for other in (pickle.loads(pickle.dumps(atoms)), copy.deepcopy(atoms)):
        assert other.calc is not atoms.calc
        other.rattle(0.1)
        assert other.get_potential_energy() != energy
        other.positions = atoms.positions
        # On all devices where this one is on the first.
        assert other.get_potential_energy() == pytest.approx(energy, rel=1e-6)
        np.testing.assert_allclose(other.get_forces(), forces, rtol=1e-4, atol=1e-8)
    # What is compiled serves copies too.
    assert other.calc.predictor is predictor


def test_float64_forces_are_the_slope_of_the_energy(predictor, tmp_path):
    """For this calculator alone; JAX stays as it is."""
    atoms = atoms_of("H2O")
    atoms.calc = HDGNNCalculator(predictor)
    single = atoms.get_forces()
    atoms.calc = HDGNNCalculator(predictor, dtype="float64")
    forces = atoms.get_forces()
    np.testing.assert_allclose(single, forces, atol=1e-4 * np.abs(forces).max())
    slopes = calculate_numerical_forces(atoms, eps=1e-5)
    np.testing.assert_allclose(forces, slopes, rtol=1e-5, atol=1e-5 * np.abs(forces).max())
    assert jax.numpy.zeros(1).dtype == np.float32
    assert pickle.loads(pickle.dumps(atoms)).get_potential_energy() == atoms.get_potential_energy()
    vibrations = Vibrations(atoms, name=str(tmp_path / "vibrations"))
    vibrations.run()
    assert np.isfinite(vibrations.get_frequencies()).all()
    with pytest.raises(PredictorError, match="dtype must be float32 or float64, not 'bfloat16'"):
        HDGNNCalculator(predictor, dtype="bfloat16")


def test_a_charge_is_said(predictor):
    ion = molecule("OH")  # with ASE's magnetic moment of the radical
    ion.info["charge"] = -1
    ion.calc = HDGNNCalculator(predictor)
    moments = "magnetic moments of its atoms with the sum [+]1"
    with pytest.warns(DomainWarning, match=f"charge -1, {moments}, which the model does not see"):
        ion.get_potential_energy()
    ion.set_initial_magnetic_moments(None)
    with pytest.warns(DomainWarning, match="charge -1, which the model does not see"):
        ion.get_potential_energy()
