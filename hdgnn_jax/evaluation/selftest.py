"""Tests of a trained model's forces that need no reference values."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import jax
import numpy as np

from hdgnn_jax.data.fitted import energy_column
from hdgnn_jax.data.targets import turned
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.inference.predictor import Predictor
from hdgnn_jax.models.forces import with_derivatives

STEP = 1e-4
"""Å. The four-point difference has an error of STEP^4, and one of rounding / STEP."""


class Trajectory(NamedTuple):
    """Molecular dynamics at constant energy.

    Attributes:
      times: [n] fs.
      total, potential: [n] eV.
      drift: slope of a line fitted to the total energy, eV per atom and ps.
      ripple: standard deviation of the total energy about that line, eV per atom.
    """

    times: np.ndarray
    total: np.ndarray
    potential: np.ndarray
    drift: float
    ripple: float


def finite_differences(predictor: Predictor, structure: Structure) -> float:
    """Relative error of forces and virial against finite differences of the energy, in float64.

    Atoms are displaced along a random direction plus that of the forces; a structure with a cell is
    also strained at random. (Differences of float32 energies would be too coarse.)

    Raises:
      StructureError: where the model cannot use the structure.
    """
    packed = Structures.pack([structure])
    neighbors = predictor.prepare(packed).neighbors.found()
    budget = batching.Budget(int(neighbors.n_edges[0]) + 1, len(packed.positions) + 1, 2)
    graph = batching.collate(
        packed, neighbors, np.zeros(1), np.zeros(1, int), budget, dtype=np.float64
    )
    rng = np.random.default_rng(0)
    # The forces' direction is added below: the slope is then no small difference of large terms.
    n = len(packed.positions)
    direction = rng.normal(size=(n, 3)) / np.sqrt(3 * n)
    strain = rng.normal(size=(3, 3)) / 10 if packed.periodic.any() else np.zeros((3, 3))
    strain = (strain + strain.T) / 2

    apply, params = predictor.apply, predictor.in_float64().params
    column = energy_column(predictor.fitted)
    with jax.enable_x64(True):

        def energies(moved: batching.MolecularGraph) -> jax.Array:
            predicted: jax.Array = apply({"params": params}, moved)
            return predicted

        found = jax.jit(lambda g: with_derivatives(energies, g, column))(graph)
        forces, virial = np.asarray(found.forces[:n]), np.asarray(found.virial[0])
        along = direction + forces / max(np.linalg.norm(forces), 1e-30)
        compiled = jax.jit(energies)

        def at(t: float) -> float:
            return float(compiled(_deformed(graph, t * strain, t * along))[0, column])

        near, far = (at(k * STEP) - at(-k * STEP) for k in (1, 2))
    slope = (8 * near - far) / (12 * STEP)
    expected = np.sum(virial * strain) - np.sum(forces * along)
    # For a single atom both are 0.
    return float(abs(slope - expected) / abs(expected)) if slope or expected else 0.0


def _deformed(
    graph: batching.MolecularGraph, strain: np.ndarray, shifts: np.ndarray
) -> batching.MolecularGraph:
    """The graph strained [3, 3], and then its first atoms shifted [n, 3]."""
    stretch, shift = np.eye(3) + strain, np.zeros_like(graph.nodes.positions)
    shift[: len(shifts)] = shifts
    nodes = graph.nodes._replace(positions=graph.nodes.positions @ stretch + shift)
    edges = jax.tree.map(lambda shift: shift @ stretch, graph.edges)
    return graph._replace(nodes=nodes, edges=edges)


def turned_forces(
    predictor: Predictor, structure: Structure, rotations: np.ndarray
) -> tuple[float, float]:
    """|F(Q x) - Q F(x)| and |F(x)|, means over atoms, eV/Å.

    Args:
      predictor, structure: any.
      rotations: [n, 4] unit quaternions Q (w, x, y, z).

    Raises:
      StructureError: where the model cannot use the structure.
    """
    n = len(rotations)
    copies = Structures.pack([structure] * (n + 1))
    turns = np.concatenate([[[1.0, 0, 0, 0]], rotations])
    forces = np.asarray(predictor.derivatives(copies.turned(turns)).forces)
    forces = forces.reshape(n + 1, -1, 3)
    at_rest = np.tile(forces[0], (n, 1))
    expected = turned(at_rest, np.repeat(rotations, forces.shape[1], 0), rank=1)
    change = np.linalg.norm(forces[1:].reshape(-1, 3) - expected, axis=1).mean()
    return float(change), float(np.linalg.norm(forces[0], axis=1).mean())


def constant_energy(
    predictor: Predictor,
    structure: Structure,
    steps: int = 1000,
    femtoseconds: float = 0.5,
    kelvin: float = 300.0,
) -> Trajectory:
    """Moves the atoms by velocity Verlet, which should conserve the total energy.

    Args:
      predictor: predicts an energy.
      structure: the start; its fixed atoms stay in place.
      steps, femtoseconds: number and length of the steps.
      kelvin: temperature for which velocities are drawn; from a minimum, half of it remains.

    Raises:
      StructureError: where the model cannot use the structure.
    """
    from ase import Atoms, units
    from ase.constraints import FixAtoms
    from ase.md.verlet import VelocityVerlet

    from hdgnn_jax.inference.calculator import DomainWarning, HDGNNCalculator

    atoms = Atoms(structure.atomic_numbers, structure.positions)
    if structure.cell is not None:
        atoms.cell, atoms.pbc = structure.cell, structure.periodic
    if structure.tags is not None:
        atoms.set_tags(structure.tags)
    if structure.fixed is not None:
        atoms.set_constraint(FixAtoms(mask=structure.fixed))
    atoms.calc = HDGNNCalculator(predictor)
    spread = np.sqrt(atoms.get_masses() * units.kB * kelvin)[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    energies = []
    dynamics = VelocityVerlet(atoms, femtoseconds * units.fs)
    dynamics.attach(
        lambda: energies.append((atoms.get_total_energy(), atoms.get_potential_energy()))
    )
    with warnings.catch_warnings():
        # Forces must be the slope of the energy outside the training domain too.
        warnings.simplefilter("ignore", DomainWarning)
        dynamics.run(steps)
    total, potential = np.array(energies).T
    times = femtoseconds * np.arange(len(total))
    slope, start = np.polyfit(times, total, 1)
    ripple = np.std(total - slope * times - start)
    return Trajectory(times, total, potential, slope * 1000 / len(atoms), ripple / len(atoms))
