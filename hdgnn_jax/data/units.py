"""Units of numbers in files and of predictions (CODATA 2018)."""

from __future__ import annotations

from hdgnn_jax.errors import InputError

HARTREE_IN_MEV = 27_211.386245988
DEBYE_PER_E_ANGSTROM = 4.803204712570263
"""e in C times 1e-10 m over 1e-21 / c C m."""

ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": HARTREE_IN_MEV / 1000,
    "Ry": HARTREE_IN_MEV / 2000,
    "kcal/mol": 0.0433641153087705,
    "kJ/mol": 0.010364269656262175,
}
"""Sizes of the units in eV."""
LENGTHS = {"Å": 1.0, "bohr": 0.529177210903, "nm": 10.0, "pm": 0.01}
"""Sizes of the units in Å."""
KINDS = (
    ENERGIES,
    {"D": 1 / DEBYE_PER_E_ANGSTROM, **{f"e {name}": size for name, size in LENGTHS.items()}},
    {f"{name}^2": size**2 for name, size in LENGTHS.items()},
    {f"{name}^3": size**3 for name, size in LENGTHS.items()},
    {"cal/(mol K)": 4.184, "J/(mol K)": 1.0},
)
"""Kinds of units: the size of each unit in terms of one common to its kind."""


def conversion(unit: str, other: str) -> float | None:
    """The factor from values in `unit` to values in `other`; None for units of different kinds.

    >>> conversion("meV", "eV"), conversion("meV", "D")
    (0.001, None)
    """
    for kind in KINDS:
        if unit in kind and other in kind:
            return kind[unit] / kind[other]
    return None


def check_unit(name: str, unit: str, known: dict[str, float]) -> None:
    """Checks that a unit is known.

    Raises:
      InputError: naming the field and the known units.
    """
    if unit not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, not {unit!r}")
