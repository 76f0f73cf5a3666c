"""Describes the values of a user's file, and doubts units in which they are implausible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from hdgnn_jax.data.applicability import Domain
from hdgnn_jax.data.atom_energies import GFN2_XTB
from hdgnn_jax.data.baselines import Composition, element_counts
from hdgnn_jax.data.labelled import LabelledStructures, labelled_rows
from hdgnn_jax.data.units import ENERGIES
from hdgnn_jax.graphs.covalent import RADII
from hdgnn_jax.graphs.neighbors import search_neighbors
from hdgnn_jax.graphs.structure import SYMBOLS, Structures

LARGE_FORCE = 10.0
"""eV/Å. The rms of sound data is smaller; that of kcal/mol read as eV is twice as large."""
OUTLIER = 100.0
"""A force larger than the median by this factor is doubted."""
LARGE_VIRIAL = 4.0
"""eV an atom, of 50 to 100 GPa in metals and oxides. GPa read as eV/Å^3 make some 15 of 1 GPa."""
OF_METHODS = 0.7
"""eV an atom. Energies of one method differ by less between structures of the same atoms, unless
hot by thousands of K; those of two by 1 (acetylacetone's of Batatia et al. 2022 and B3LYP's)."""
FEW = 5
"""Number of structures from which on a mean difference is believed."""
BINDING = (-15.0, 3.0)
"""eV an atom: the plausible range of energies above isolated atoms of the same method. No material
binds more than diamond and tungsten (8), but codes define isolated atoms differently."""
NEAR = 4.0
"""Å. Neighbours are searched for within this distance."""
LOOKED_AT = 200
"""Number of structures whose distances are checked."""
SHIFTED = 0.2
"""Errors that are smaller by this factor without a constant for each element are mainly those."""
SHORTEST = (0.6, 1.5)
"""The plausible range of the shortest distance over the sum of covalent radii. The ratio is near 1
where any atoms are bonded, 1.9 where bohr are read as Å."""


def described(data: LabelledStructures, target: str, names: tuple[str, str]) -> str:
    """Number and size of the structures, and the range of their values, in eV, eV/Å or e Å.

    Args:
      data: the content of a file.
      target: `energy` or `dipole`.
      names: names of the values and of the forces in the file.
    """
    n, values = data.structures.n_atoms, data.labels[target]
    if not len(n):
        return "no structures"
    fewest, most = n.min(), n.max()
    sizes = f"{most}" if fewest == most else f"{fewest} to {most}"
    words = [f"{len(n):,} structures of {sizes} atoms"]
    if target == "energy":
        each = values / n
        words.append(f"{names[0]} {each.min():.3f} to {each.max():.3f} eV an atom")
    else:
        words.append(f"{names[0]} up to {np.linalg.norm(values, axis=1).max():.2f} e Å")
    if data.forces is not None:
        largest = np.linalg.norm(data.forces, axis=1).max()
        words.append(f"{names[1]} up to {largest:.2f} eV/Å")
    return ", ".join(words)


def doubts(
    data: LabelledStructures, target: str, atoms: Mapping[int, float], unit: str
) -> Iterator[str]:
    """Yields reasons why values are implausible in the units in which they were read.

    Args:
      data: the content of a file, in eV and Å.
      target: `energy` or `dipole`.
      atoms: energies of isolated atoms that came with the data, eV by atomic number.
      unit: the unit in which the file's energies were read.
    """
    if not len(data):
        return
    yield from _of_distances(data.structures)
    if target == "energy":
        yield from _of_energies(data.structures, data.labels[target], unit)
        yield from _of_atoms(data.structures, data.labels[target], atoms)
    if data.forces is not None:
        yield from _of_forces(data.structures, data.forces)
    if data.virials is not None:
        yield from _of_stress(data.structures, data.virials)


def apart(
    structures: Structures, values: np.ndarray, others: Structures, of_others: np.ndarray
) -> float:
    """Mean difference of energies between structures of the same composition, an atom.

    Args:
      structures, values: [n], NaN where unknown.
      others, of_others: [m].

    Returns:
      Of the others less the structures, in the values' unit; 0 where less than `FEW` of the others
      have a composition of the structures.
    """
    elements = np.union1d(structures.atomic_numbers, others.atomic_numbers).tolist()
    keys = [[row.tobytes() for row in element_counts(of, elements)] for of in (structures, others)]
    known: dict[bytes, list[float]] = {}
    for key, value in zip(keys[0], values.tolist(), strict=True):
        if not np.isnan(value):
            known.setdefault(key, []).append(value)
    means = {key: float(np.mean(some)) for key, some in known.items()}
    differences = [
        (value - means[key]) / n
        for key, value, n in zip(keys[1], of_others, others.n_atoms, strict=True)
        if key in means
    ]
    return float(np.mean(differences)) if len(differences) >= FEW else 0.0


def shift(structures: Structures, errors: np.ndarray) -> np.ndarray | None:
    """The part of errors [n] of energies, eV, that is a constant for each element.

    Returns:
      [n], or None where it is not nearly all of them, it is small, or there are too few structures.
    """
    elements = np.unique(structures.atomic_numbers).tolist()
    if len(errors) < 3 * (len(elements) + 1):
        return None
    found = Composition.fit(structures, errors, elements, "extensive").predict(structures)
    left = np.mean((errors - found) ** 2)
    large = np.abs(found / structures.n_atoms).mean() > OF_METHODS
    return found if large and left < SHIFTED**2 * np.mean(errors**2) else None


def _of_forces(structures: Structures, forces: np.ndarray) -> Iterator[str]:
    largest = np.linalg.norm(forces, axis=1)
    # Of atoms that may move; those of a crystal at rest have small forces.
    usual = float(np.median(largest[largest > 0])) if largest.any() else 0.0
    far = largest > OUTLIER * max(usual, 0.5)
    if far.any():
        atom = int(np.argmax(largest))
        at = int(np.searchsorted(structures.offsets, atom, "right")) - 1
        yield (
            f"structure {structures.ids[at]} has a force of {largest[atom]:.3g} eV/Å, where the "
            f"median is {usual:.2g}: is it sound?"
        )
    size = float(np.sqrt(np.mean(forces[~far] ** 2)))
    if size > LARGE_FORCE:
        yield (
            f"components of forces are {size:.0f} eV/Å (root mean square), where molecules at "
            "300 K have 1: are config.data.energy_unit and length_unit right?"
        )


def _of_stress(structures: Structures, virials: np.ndarray) -> Iterator[str]:
    rows = labelled_rows(virials)
    size = np.sqrt(np.mean(virials[rows] ** 2, (1, 2))) / structures.n_atoms[rows]
    if (usual := float(np.median(size))) > LARGE_VIRIAL:
        yield (
            f"the stress times the volume is {usual:.2g} eV an atom (median), where 1 GPa makes "
            "some 0.1: is it in config.data.energy_unit per cubed length_unit, as ASE has it?"
        )


def _of_distances(structures: Structures) -> Iterator[str]:
    few = structures.take(np.arange(min(LOOKED_AT, len(structures))))
    # `search_neighbors` raises no error for two atoms at one place.
    closest = Domain.of(few, search_neighbors(few, NEAR)[0]).closest
    least, a, b, low = min(
        ((low / RADII[a, b], a, b, low) for a, b, low in closest), default=(np.inf, 0, 0, NEAR)
    )
    if not SHORTEST[0] < least < SHORTEST[1]:
        who = f"{SYMBOLS[a]} and {SYMBOLS[b]}" if a else "any two atoms"
        yield (
            f"{who} are never nearer than {low:.2g} Å: is config.data.length_unit right?"
        )


def _of_energies(structures: Structures, values: np.ndarray, unit: str) -> Iterator[str]:
    """Compares with energies of all electrons, -1 to -1.1 times the sum of Z^2.4 / 2 Ha."""
    z = np.unique(structures.atomic_numbers)
    counts = element_counts(structures, z.tolist())
    all_electrons = float((counts @ (-(z**2.4) / 2 * ENERGIES["Ha"])).sum())
    valence = float((counts @ [GFN2_XTB.get(int(n), np.nan) for n in z]).sum())
    total, each = float(values.sum()), float((values / structures.n_atoms).mean())
    for other, ev in ENERGIES.items():
        part = total / all_electrons * ev / ENERGIES[unit]
        if other != unit and 0.95 < part < 1.1 and not 0.8 < total / valence < 1.25:
            yield (
                f"energies look like those of all electrons in {other}, and are read in {unit}: is "
                "config.data.energy_unit right?"
            )
            return
    if total < 1.1 * all_electrons:
        yield (
            f"energies of {each:.0f} eV an atom are below those of all electrons: is "
            "config.data.energy_unit right?"
        )
    elif each > 1:
        yield (
            f"energies of {each:.0f} eV an atom are above those of isolated atoms: is their sign "
            "right, and config.data.energy_unit?"
        )


def _of_atoms(
    structures: Structures, values: np.ndarray, atoms: Mapping[int, float]
) -> Iterator[str]:
    known = sorted(atoms)
    counts = element_counts(structures, known)
    whole = counts.sum(1) == structures.n_atoms
    there = np.unique(structures.atomic_numbers).tolist()
    if atoms and (missing := [SYMBOLS[z] for z in there if z not in atoms]):
        yield (
            f"no energy of an isolated {', '.join(missing)} is given: it is fitted, near that of "
            "another method"
        )
    if not whole.any():
        return
    left = (values - counts @ [atoms[z] for z in known])[whole] / structures.n_atoms[whole]
    if not BINDING[0] < left.mean() < BINDING[1]:
        yield (
            f"structures are {left.mean():.3g} eV an atom from isolated atoms, and bonds give "
            "-2 to -9: are the atoms' energies in config.data.energy_unit, of the same method?"
        )
