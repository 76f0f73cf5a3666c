"""Many structures relaxed at once: FIRE, all of a batch in one evaluation of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.inference.predictor import Predictor

LONGEST_STEP = 0.2
"""Å that an atom moves at most."""
FIRST_STEP, LARGEST_STEP = 0.1, 1.0
"""Of time; with unit masses, so in Å / (eV/Å)^(1/2)."""


class Relaxed(NamedTuple):
    """Structures as they came to rest.

    Attributes:
      structures: with the new positions.
      energies: [n] eV.
      forces: [atoms, 3] eV/Å; 0 on fixed atoms.
      steps: [n] taken.
      converged: [n] bool.
      reasons: [n] why a structure could not be followed, its atoms fallen together or its forces no
        numbers; "" where it could.
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
      predictor: of an energy.
      structures: any.
      fmax: largest force on an atom of a relaxed structure, eV/Å.
      steps: at most.
      advance: told how many structures have finished, after each step (a progress bar).

    Raises:
      PredictorError: where the model predicts no energy that atoms move in.
    """
    n = len(structures)
    owner = np.repeat(np.arange(n), structures.n_atoms)
    positions, fire = structures.positions.copy(), _Fire(owner, n)
    forces, energies = np.zeros_like(positions), np.zeros(n)
    taken, active = np.zeros(n, int), np.ones(n, bool)
    reasons = [""] * n

    def give_up(places: np.ndarray, why: Sequence[str]) -> None:
        for place, reason in zip(places.tolist(), why, strict=True):
            reasons[place] = reason
        active[places] = False
        advance(len(places))

    for step in range(steps + 1):
        here = dataclasses.replace(structures, positions=positions)
        places = np.flatnonzero(active)
        graphs, why_not = predictor.usable(here.take(places))
        give_up(places[list(why_not)], list(why_not.values()))
        if not active.any():
            break
        found = predictor.derivatives(graphs)
        energies[active], forces[active[owner]] = found.value, found.forces
        forces *= ~structures.fixed[:, None]
        lost = np.flatnonzero(active & ~np.isfinite(fire.total(forces) + energies))
        give_up(lost, ["reaches energies or forces that are no finite numbers"] * len(lost))
        largest = np.zeros(n)
        np.maximum.at(largest, owner, np.linalg.norm(forces, axis=1))
        done = active & (largest <= fmax)
        active &= ~done
        advance(int(done.sum()))
        if step == steps or not active.any():
            break
        taken += active
        positions = np.where(active[owner, None], positions + fire.shift(forces), positions)
    advance(int(active.sum()))
    converged = ~active & np.array([not reason for reason in reasons])
    return Relaxed(here, energies, forces, taken, converged, reasons)


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
