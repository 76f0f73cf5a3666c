"""Targets: units, references and standardisation, all in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from hdgnn_jax.config import with_tuples
from hdgnn_jax.data.atom_energies import B3LYP, GFN2_XTB
from hdgnn_jax.data.baselines import Atoms, Composition, Size, element_counts
from hdgnn_jax.data.units import DEBYE_PER_E_ANGSTROM, ENERGIES, HARTREE_IN_MEV
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import SYMBOLS, Structures
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.models.linear import Linear
from hdgnn_jax.types import Fields, Json

ReferenceKind = Literal["none", "fitted", "tabulated", "linear"]
"""`tabulated`: the energies of isolated atoms, and one shift for every atom. With `linear` the
per-element part is fitted to what the linear model's geometry leaves; targets without a linear
model then have their default."""


class Accuracy(NamedTuple):
    """Errors on one part of a data set.

    Attributes:
      mae: mean absolute error, in the target's unit.
      within: share of errors below the target's threshold, 0 to 1; None where it has none.
    """

    mae: float
    within: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """One property.

    Attributes:
      name: unique over all data sets; for QM9, the column's name.
      unit: unit of reported values.
      factor: reported unit per stored unit.
      reference: default reference, subtracted before training.
      paper_mae: error in the paper's Table 2, in `unit`; None where it has none, or one per part.
      atom_energies: energies of isolated atoms, by atomic number, in the stored unit.
      threshold: in `unit`; the share of errors below it is reported too.
      potential: whether it is a potential energy, so that its derivatives are forces. QM9's U0
        counts as one, although its zero-point part belongs to the minimum.
      head: the network's default head for it.
      size: how it depends on the size of a system; decides the form of its references.
      linear: whether `data.reference = linear` subtracts the linear model. Energies and Cv are
        sums over bonds to a few percent; the network learns other properties sooner without
        (`experiments/configs/qm9.py` has figures).
      note: a caveat for reports.
    """

    name: str
    unit: str
    factor: float
    reference: ReferenceKind
    paper_mae: float | None
    atom_energies: Mapping[int, float] | None = None
    threshold: float | None = None
    potential: bool = False
    head: Head = "invariant"
    size: Size = "neither"
    linear: bool = False
    note: str = ""

    @property
    def rank(self) -> int:
        """0 of a number, 1 of a vector [3], 2 of a symmetric tensor [3, 3]."""
        return HEADS[self.head].rank


_MEV = HARTREE_IN_MEV
TARGETS = {
    target.name: target
    for target in (
        Target("mu", "D", 1.0, "none", 0.017, head="dipole"),
        Target("alpha", "bohr^3", 1.0, "fitted", 0.046, size="extensive"),
        Target("homo", "meV", _MEV, "none", 18, head="mean", size="intensive"),
        Target("lumo", "meV", _MEV, "none", 16, head="mean", size="intensive"),
        Target("gap", "meV", _MEV, "none", 32, head="mean", size="intensive"),
        Target("r2", "bohr^2", 1.0, "none", 0.342, head="extent"),
        Target("zpve", "meV", _MEV, "fitted", 1.21, size="extensive", linear=True),
        *(
            Target(
                name,
                "meV",
                _MEV,
                "fitted",
                mae,
                B3LYP[name],
                potential=name == "U0",
                size="extensive",
                linear=True,
            )
            for name, mae in (("U0", 8.34), ("U", 8.12), ("H", 10), ("G", 11))
        ),
        Target("Cv", "cal/(mol K)", 1.0, "fitted", 0.023, size="extensive", linear=True),
    )
}
"""QM9's scalar targets."""

POLARIZABILITY = Target(
    "polarizability",
    "bohr^3",
    1.0,
    "fitted",
    None,
    head="polarizability",
    size="extensive",
    note="QM9 does not say in which frame its tensors are. 15 % of the molecules are left out, "
    "because their frame is not certain.",
)
"""QM9's tensor, in the frame of the positions; `alpha` is a third of its trace."""

CALCULATED = {
    target.name: target
    for target in (
        Target(
            "energy", "meV", 1000.0, "fitted", None, potential=True, size="extensive", linear=True
        ),
        Target("dipole", "D", DEBYE_PER_E_ANGSTROM, "none", None, head="dipole_vector"),
    )
}
"""Targets of files that ASE reads, which store eV and e Å."""

RELAXED_ENERGY = Target(
    "relaxed_energy", "meV", 1000.0, "none", None, threshold=20.0, linear=True
)
"""OC20 IS2RE's target, stored in eV. EwT, the share within 0.02 eV, is its second measure."""
INITIAL_ENERGY = Target("initial_energy", "meV", 1000.0, "none", None, linear=True)
"""The energy of the initial positions, stored in eV, which OC20 has too. Learned beside the relaxed
energy, it teaches the network about the positions that it sees."""
OF_IS2RE = {target.name: target for target in (RELAXED_ENERGY, INITIAL_ENERGY)}


OF_QM9 = {**TARGETS, POLARIZABILITY.name: POLARIZABILITY}
ALL_TARGETS = {**OF_QM9, **CALCULATED, **OF_IS2RE}
"""Targets of all data sets; names are unique."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Converts between raw values and the standardised values that the network learns.

    Everything is fitted on training data alone, and in the reported unit.

    Attributes:
      factor: reported unit per stored unit.
      composition: is subtracted first; it has no constant for an extensive property.
      scale: root mean square of what is left.
      rank: rank of the target; for a tensor, references are subtracted from its isotropic part.
      linear: the linear model, subtracted too, which `fitted.completed` adds; None without.
    """

    factor: float
    composition: Composition
    scale: float
    rank: int = 0
    linear: Linear | None = None

    @classmethod
    def fit(
        cls,
        target: Target,
        elements: Sequence[int],
        structures: Structures,
        raw: np.ndarray,
        *,
        kind: ReferenceKind | None = None,
        given: Mapping[int, float] | None = None,
        centre: bool = True,
        linear: Linear | None = None,
    ) -> Reference:
        """Fits references, mean and standard deviation.

        Args:
          target: the property.
          elements: atomic numbers.
          structures: the training set.
          raw: [n, ...] float64 of the training set, in the stored unit, less the energies of
            `linear`.
          kind: kind of reference; None: the default of the target.
          given: energies of isolated atoms that came with the data, as in `isolated_atoms`.
          centre: False leaves reference and mean at 0, for heads that give the value itself.
          linear: the linear model; None without.

        Raises:
          InputError: for an unknown kind, or `tabulated` where the target has no table.
        """
        kind = target.reference if kind is None else kind
        if kind not in get_args(ReferenceKind):
            raise InputError(
                f"reference must be one of {', '.join(get_args(ReferenceKind))}, not {kind!r}"
            )
        values = raw * target.factor
        scalars = isotropic_part(values, target.rank)
        composition = Composition((), (), 0.0)
        if centre and kind in ("fitted", "tabulated"):
            given = {**(given or {}), **(_table(target, elements) if kind == "tabulated" else {})}
            around = isolated_atoms(target, elements, structures, scalars, given)
            composition = Composition.fit(structures, scalars, elements, target.size, around)
        elif centre and target.size != "extensive":
            composition = Composition.fit(structures, scalars)
        left = values - isotropic(composition.predict(structures), target.rank)
        return cls(
            target.factor, composition, float(np.sqrt(np.mean(left**2))), target.rank, linear
        )

    def standardise(self, structures: Structures, raw: np.ndarray) -> np.ndarray:
        """Turns raw values [n, ...] in the stored unit into what the network learns, float64.

        The energies of a linear reference must have been subtracted.
        """
        learned: np.ndarray = (raw * self.factor - self._known(structures)) / self.scale
        return learned

    def restore(self, structures: Structures, outputs: np.ndarray) -> np.ndarray:
        """Turns outputs [n, ...] of `fitted.completed` into float64 values in the reported unit."""
        values: np.ndarray = np.asarray(outputs, np.float64) * self.scale + self._known(structures)
        return values

    def _known(self, structures: Structures) -> np.ndarray:
        return isotropic(self.composition.predict(structures), self.rank)

    def to_dict(self) -> Json:
        """A JSON-able dict, exact: Python writes digits that read back to the same bits."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Fields) -> Reference:
        """The inverse of `to_dict`, also after a pass through JSON."""
        composition, linear = content["composition"], content["linear"]
        return cls(
            **{
                **content,
                "composition": Composition(**with_tuples(composition)),
                "linear": None if linear is None else Linear(**with_tuples(linear)),
            }
        )


def isolated_atoms(
    target: Target,
    elements: Sequence[int],
    structures: Structures,
    values: np.ndarray,
    given: Mapping[int, float],
) -> Atoms | None:
    """Energies of isolated atoms, in the reported unit, from which a fit starts.

    Elements that are not given take the target's own table. A potential energy without one takes
    that of all electrons or of GFN2-xTB's valence electrons, whichever is nearer to the values.

    Args:
      target: the property.
      elements: atomic numbers.
      structures: the training set.
      values: [n] of the training set, in the reported unit.
      given: energies that came with the data, by atomic number, in the stored unit.

    Returns:
      The energies; None where the target has no table and is no potential energy.
    """
    if target.atom_energies is not None:
        tables = [target.atom_energies]
    elif target.potential:
        # Files store eV.
        in_ev = {z: energy * ENERGIES["Ha"] for z, energy in B3LYP["U0"].items()}
        tables = [GFN2_XTB, in_ev]
    else:
        return None
    known = [
        [table[z] * target.factor for z in elements]
        for table in ({**table, **given} for table in tables)
        if set(elements) <= set(table)
    ]
    counts = element_counts(structures, elements)
    if not known:
        known = [[given.get(z, 0.0) * target.factor for z in elements]]
    nearest = min(known, key=lambda t: np.abs(values - counts @ t).mean())
    return Atoms(nearest, [z in given for z in elements])


def _table(target: Target, elements: Sequence[int]) -> Mapping[int, float]:
    """The target's own energies of isolated atoms; raises an InputError if one is missing."""
    table = target.atom_energies
    if table is None:
        raise InputError(f"{target.name} has no energies of isolated atoms")
    if missing := [SYMBOLS[z] for z in elements if z not in table]:
        raise InputError(f"there is no energy of the isolated atom of {', '.join(missing)}")
    return table


def isotropic(scalars: np.ndarray, rank: int) -> np.ndarray:
    """Turns numbers [n] into values of a rank: the numbers, zero vectors [n, 3], or multiples of
    the unit tensor [n, 3, 3]."""
    if rank == 1:
        return np.zeros((len(scalars), 3))
    return scalars if rank == 0 else scalars[:, None, None] * np.eye(3)


_THERMAL = "has thermal parts at 298 K, which only a molecule at its minimum has (U0 has none)"
NOT_POTENTIALS = {
    "U": _THERMAL,
    "H": _THERMAL,
    "G": _THERMAL,
    "relaxed_energy": "is that of the end of a relaxation, the same for every step on the way",
    "initial_energy": "was learned before relaxations alone; nobody compared its slopes to forces",
}
"""Reasons why energies that look like potential energies are none."""


def turned(values: np.ndarray, rotations: np.ndarray, rank: int) -> np.ndarray:
    """Turns values [n, ...] with their structures, by unit quaternions (w, x, y, z), [n, 4]."""
    # As in `Structures.turned`.
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_quat(rotations, scalar_first=True)
    if rank == 1:
        vectors: np.ndarray = turns.apply(values)
        return vectors
    matrices: np.ndarray = turns.as_matrix()
    return values if rank == 0 else matrices @ values @ matrices.swapaxes(1, 2)


def isotropic_part(values: np.ndarray, rank: int) -> np.ndarray:
    """[n] the part of values [n, ...] that no rotation changes: the inverse of `isotropic`."""
    if rank == 1:
        return np.zeros(len(values))
    return values if rank == 0 else np.trace(values, axis1=1, axis2=2) / 3
