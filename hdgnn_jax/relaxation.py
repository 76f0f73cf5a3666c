"""Many structures relaxed at once: FIRE, all of a batch in one evaluation of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.predict import Predictor

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
    free = ~structures.fixed[:, None]
    positions, velocities = structures.positions.copy(), np.zeros_like(structures.positions)
    forces, energies = np.zeros_like(positions), np.zeros(n)
    dt, mixing, downhill = np.full(n, FIRST_STEP), np.full(n, 0.1), np.zeros(n, int)
    taken, active = np.zeros(n, int), np.ones(n, bool)
    reasons = [""] * n

    def total(values: np.ndarray) -> np.ndarray:
        """[n] sums over the atoms of each structure."""
        return np.bincount(owner, values.sum(1), n)

    for step in range(steps + 1):
        here = dataclasses.replace(structures, positions=positions)
        try:
            found = predictor.derivatives(here.take(np.flatnonzero(active)))
        except StructureError:
            # One is enough to refuse a batch; the others go on without it.
            for k in np.flatnonzero(active):
                reasons[k] = predictor.reason_against(here[int(k)]) or ""
            lost = active & np.array([bool(reason) for reason in reasons])
            if not lost.any():
                raise
            active &= ~lost
            advance(int(lost.sum()))
            if not active.any():
                break
            found = predictor.derivatives(here.take(np.flatnonzero(active)))
        energies[active], forces[active[owner]] = found.value, found.forces
        forces *= free
        lost = active & ~np.isfinite(total(forces) + energies)
        if lost.any():
            for k in np.flatnonzero(lost):
                reasons[k] = "comes to have energies or forces that are no numbers"
            active &= ~lost
            advance(int(lost.sum()))
        largest = np.zeros(n)
        np.maximum.at(largest, owner, np.linalg.norm(forces, axis=1))
        done = active & (largest <= fmax)
        active &= ~done
        advance(int(done.sum()))
        if step == steps or not active.any():
            break
        taken += active

        power = total(forces * velocities)
        forward = power > 0
        downhill = np.where(forward, downhill + 1, 0)
        faster = forward & (downhill > 5)
        size = np.sqrt(total(velocities**2) / np.maximum(total(forces**2), 1e-300))
        mixed = (1 - mixing)[owner, None] * velocities + (mixing * size)[owner, None] * forces
        velocities = np.where(forward[owner, None], mixed, 0)
        dt = np.where(faster, np.minimum(1.1 * dt, LARGEST_STEP), np.where(forward, dt, dt / 2))
        mixing = np.where(faster, 0.99 * mixing, np.where(forward, mixing, 0.1))
        velocities += dt[owner, None] * forces
        shift = dt[owner, None] * velocities
        length = np.linalg.norm(shift, axis=1, keepdims=True)
        shift *= np.minimum(1, LONGEST_STEP / np.maximum(length, 1e-300))
        positions = np.where(active[owner, None], positions + shift, positions)
    advance(int(active.sum()))
    converged = ~active & np.array([not reason for reason in reasons])
    return Relaxed(here, energies, forces, taken, converged, reasons)
