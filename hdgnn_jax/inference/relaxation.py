"""Many structures relaxed at once: FIRE, all of a batch in one evaluation of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predictor import Predictor

LONGEST_STEP = 0.2
"""Å. Longest move of an atom in one step."""
FIRST_STEP, LARGEST_STEP = 0.1, 1.0
"""Time steps; masses are 1, so the unit is (Å / (eV/Å))^(1/2)."""


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

    FIRE (Bitzek et al. 2006): molecular dynamics that mixes the velocity with the force and stops
    where the two oppose each other.

    Args:
      predictor: predicts an energy.
      structures: any.
      fmax: largest force on an atom of a relaxed structure, eV/Å.
      steps: largest number of steps.
      advance: told how many structures have finished, after each step (a progress bar).

    Raises:
      PredictorError: where the model predicts no potential energy.
    """
    descent = _Descent(structures, advance)
    descent.evaluate(predictor, fmax)
    for _ in range(steps):
        if not descent.active.any():
            break
        descent.move()
        descent.evaluate(predictor, fmax)
    advance(int(descent.active.sum()))
    return descent.relaxed()


class _Descent:
    """Structures on their way downhill.

    Attributes:
      structures: the structures at their current positions.
      energies, forces, taken, reasons: as in `Relaxed`.
      active: [n] True for structures that still move.
    """

    def __init__(self, structures: Structures, advance: Callable[[int], object]):
        n = len(structures)
        self.structures = dataclasses.replace(structures, positions=structures.positions.copy())
        self.advance = advance
        self.owner = np.repeat(np.arange(n), structures.n_atoms)
        self.fire = _Fire(self.owner, n)
        self.energies, self.forces = np.zeros(n), np.zeros_like(structures.positions)
        self.taken, self.active = np.zeros(n, int), np.ones(n, bool)
        self.reasons = [""] * n

    def evaluate(self, predictor: Predictor, fmax: float) -> None:
        """Computes energies and forces; stops structures that are relaxed or cannot be used."""
        places = np.flatnonzero(self.active)
        graphs, why_not = predictor.usable(self.structures.take(places))
        self._give_up(places[list(why_not)], list(why_not.values()))
        if not self.active.any():
            return
        found = predictor.derivatives(graphs)
        self.energies[self.active] = found.value
        self.forces[self.active[self.owner]] = found.forces
        self.forces *= ~self.structures.fixed[:, None]
        lost = np.flatnonzero(
            self.active & ~np.isfinite(self.fire.total(self.forces) + self.energies)
        )
        self._give_up(lost, ["reaches energies or forces that are no finite numbers"] * len(lost))
        largest = np.zeros(len(self.active))
        np.maximum.at(largest, self.owner, np.linalg.norm(self.forces, axis=1))
        done = self.active & (largest <= fmax)
        self.active &= ~done
        self.advance(int(done.sum()))

    def _give_up(self, places: np.ndarray, why: Sequence[str]) -> None:
        for place, reason in zip(places.tolist(), why, strict=True):
            self.reasons[place] = reason
        self.active[places] = False
        self.advance(len(places))

    def move(self) -> None:
        """One step of FIRE."""
        self.taken += self.active
        positions, shift = self.structures.positions, self.fire.shift(self.forces)
        moved = np.where(self.active[self.owner, None], positions + shift, positions)
        self.structures = dataclasses.replace(self.structures, positions=moved)

    def relaxed(self) -> Relaxed:
        """The result at the current positions."""
        converged = ~self.active & np.array([not reason for reason in self.reasons])
        return Relaxed(
            self.structures, self.energies, self.forces, self.taken, converged, self.reasons
        )


class _Fire:
    """Velocities and time steps of many structures.

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
