"""Many structures relaxed at once: FIRE, all of a batch in one evaluation of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predictor import Predictor

LONGEST_STEP = 0.2
"""Å. Longest move of an atom in one step."""
FIRST_STEP, LARGEST_STEP = 0.1, 1.0
"""Time steps; masses are 1, so the unit is (Å / (eV/Å))^(1/2)."""
LOST = "reaches energies or forces that are no finite numbers"


class Relaxed(NamedTuple):
    """The result of a relaxation.

    Attributes:
      structures: the structures with their new positions.
      energies: [n] eV.
      forces: [atoms, 3] eV/Å; 0 on fixed atoms.
      steps: [n] number of steps taken.
      converged: [n] bool.
      reasons: [n] why a structure could not be followed, for example because two atoms came to one
        place; "" where it could.
    """

    structures: Structures
    energies: np.ndarray
    forces: np.ndarray
    steps: np.ndarray
    converged: np.ndarray
    reasons: list[str]


def relax(
    predictor: Predictor,
    structures: Structures,
    fmax: float = 0.05,
    steps: int = 200,
    advance: Callable[[int], object] = lambda n: None,
) -> Relaxed:
    """Moves the atoms that are not fixed downhill, each structure for itself, cells unchanged.

    Args:
      predictor: predicts an energy.
      structures: any.
      fmax: largest force on an atom of a relaxed structure, eV/Å.
      steps: largest number of steps.
      advance: told how many structures have finished, after each step (a progress bar).

    Raises:
      PredictorError: where the model predicts no potential energy.
    """
    n, owner = len(structures), np.repeat(np.arange(len(structures)), structures.n_atoms)
    fire, active, taken = _Fire(owner, n), np.ones(n, bool), np.zeros(n, int)
    energies, forces = np.zeros(n), np.zeros_like(structures.positions)
    reasons = np.full(n, "", object)

    def finish(places: np.ndarray, why: str | list[str]) -> None:
        reasons[places], active[places] = why, False
        advance(len(places))

    for step in range(steps + 1):
        if step:
            taken += active
            positions = structures.positions
            moved = np.where(active[owner, None], positions + fire.shift(forces), positions)
            structures = dataclasses.replace(structures, positions=moved)
        places = np.flatnonzero(active)
        graphs, why_not = predictor.usable(structures.take(places))
        finish(places[list(why_not)], list(why_not.values()))
        if not active.any():
            break
        found = predictor.derivatives(graphs)
        energies[active], forces[active[owner]] = found.value, found.forces
        forces *= ~structures.fixed[:, None]
        finish(np.flatnonzero(active & ~np.isfinite(fire.total(forces) + energies)), LOST)
        finish(np.flatnonzero(active & (fire.largest(forces) <= fmax)), "")
        if not active.any():
            break
    advance(int(active.sum()))
    converged = ~active & (reasons == "")
    return Relaxed(structures, energies, forces, taken, converged, reasons.tolist())


class _Fire:
    """FIRE (Bitzek et al. 2006), of many structures: their velocities and time steps.

    Molecular dynamics that mixes the velocity with the force, and stops where the two oppose each
    other.

    Attributes:
      owner: [atoms] the structure of each atom.
      n: structures.
    """

    def __init__(self, owner: np.ndarray, n: int):
        self.owner, self.n = owner, n
        self.velocities = np.zeros((len(owner), 3))
        self.dt, self.mixing = np.full(n, FIRST_STEP), np.full(n, 0.1)
        self.downhill = np.zeros(n, int)

    def total(self, values: np.ndarray) -> np.ndarray:
        """[n] sums over the atoms of each structure."""
        return np.bincount(self.owner, values.sum(1), self.n)

    def largest(self, forces: np.ndarray) -> np.ndarray:
        """[n] the largest force on an atom of each structure."""
        found = np.zeros(self.n)
        np.maximum.at(found, self.owner, np.linalg.norm(forces, axis=1))
        return found

    def shift(self, forces: np.ndarray) -> np.ndarray:
        """[atoms, 3] Å, the next step."""
        owner, velocities = self.owner, self.velocities
        forward = self.total(forces * velocities) > 0
        self.downhill = np.where(forward, self.downhill + 1, 0)
        faster = forward & (self.downhill > 5)
        squares = self.total(velocities**2) / np.maximum(self.total(forces**2), 1e-300)
        towards = (self.mixing * np.sqrt(squares))[owner, None] * forces
        mixed = (1 - self.mixing)[owner, None] * velocities + towards
        slower = np.where(forward, self.dt, self.dt / 2)
        self.dt = np.where(faster, np.minimum(1.1 * self.dt, LARGEST_STEP), slower)
        self.mixing = np.where(faster, 0.99 * self.mixing, np.where(forward, self.mixing, 0.1))
        dt = self.dt[owner, None]
        self.velocities = np.where(forward[owner, None], mixed, 0) + dt * forces
        shift: np.ndarray = dt * self.velocities
        length = np.linalg.norm(shift, axis=1, keepdims=True)
        bounded: np.ndarray = shift * np.minimum(1, LONGEST_STEP / np.maximum(length, 1e-300))
        return bounded
