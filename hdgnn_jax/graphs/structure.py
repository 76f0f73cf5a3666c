"""Structures: atoms and their cell, as read from a file, checked once and stored end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from hdgnn_jax.errors import InputError

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
MASSES = (
    "0 1.008 4.0026 6.94 9.0122 10.81 12.011 14.007 15.999 18.998 20.180 22.990 24.305 26.982 "
    "28.085 30.974 32.06 35.45 39.95 39.098 40.078 44.956 47.867 50.942 51.996 54.938 55.845 "
    "58.933 58.693 63.546 65.38 69.723 72.630 74.922 78.971 79.904 83.798 85.468 87.62 88.906 "
    "91.224 92.906 95.95 98 101.07 102.91 106.42 107.87 112.41 114.82 118.71 121.76 127.60 126.90 "
    "131.29 132.91 137.33 138.91 140.12 140.91 144.24 145 150.36 151.96 157.25 158.93 162.50 "
    "164.93 167.26 168.93 173.05 174.97 178.49 180.95 183.84 186.21 190.23 192.22 195.08 196.97 "
    "200.59 204.38 207.2 208.98 209 210 222 223 226 227 232.04 231.04 238.03 237 244 243 247 247 "
    "251 252 257 258 259 262 267 268 271 274 269 276 281 281 285 286 289 288 293 294 294"
).split()
"""Standard atomic weights, u; elements without one have the mass number of a long-lived isotope."""

ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS) if z > 0}

UNTAGGED = (
    "has no atom of the surface (tag 1) or the adsorbate (tag 2): all its tags are 0, or it has "
    "none (a column `tags` of extxyz, or Atoms.set_tags; a CIF or POSCAR has no place for them)"
)
"""Why a model of slabs with adsorbates does not take a structure."""
CLOSEST_ATOMS = 0.01
"""Å. Two atoms nearer than this count as one atom written twice: no bond is shorter than 0.7 Å."""


class StructureError(InputError):
    """A structure that no model can use.

    Attributes:
      reason: the rule that it breaks.
      name: the structure's name, which begins the message; empty if it concerns no single one.
    """

    def __init__(self, reason: str, name: str = ""):
        super().__init__(f"{name} {reason}".strip())
        self.reason, self.name = reason, name


@dataclasses.dataclass(frozen=True)
class Structure:
    """One molecule, slab or crystal.

    Attributes:
      atomic_numbers: [n] integers, 1 to 118.
      positions: [n, 3] float64, Å.
      name: what an error message calls this record (a file and a line, a QM9 index, ...).
      cell: [3, 3] float64, Å, a lattice vector in each row; vectors of directions that are not
        periodic are ignored. None: no direction is periodic.
      periodic: whether the structure repeats along each of the three lattice vectors.
      tags: [n] integers; 0 bulk, 1 surface, 2 adsorbate. None: all 0.
      fixed: [n] bool; True for atoms that are held in place where others move. None: no atom.
      bonds: [b, 2] pairs of atoms that a SMILES says are bonded. None: distances decide
        (`neighbors.find_neighbors`).
      unseen: a property that no model here takes into account, such as a charge; else empty.
      comment: its comment in the file, for the output.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    name: str = "structure"
    cell: np.ndarray | None = None
    periodic: tuple[bool, bool, bool] = (True, True, True)
    tags: np.ndarray | None = None
    fixed: np.ndarray | None = None
    bonds: np.ndarray | None = None
    unseen: str = ""
    comment: str = ""

    @classmethod
    def from_symbols(
        cls, symbols: Sequence[str], positions: np.ndarray, name: str = "structure"
    ) -> Structure:
        """Builds a structure from element symbols.

        Raises:
          StructureError: for a symbol that is not an element.
        """
        for symbol in symbols:
            if symbol not in ATOMIC_NUMBERS:
                raise StructureError(f"has {symbol!r}, which is not a chemical element", name)
        return cls(np.array([ATOMIC_NUMBERS[s] for s in symbols], np.int32), positions, name)

    @property
    def doubt(self) -> str:
        """Why a prediction of this structure is doubtful; empty where nothing is `unseen`."""
        return f"{self.unseen}, which the model does not see" if self.unseen else ""

    def check_shapes(self) -> None:
        """Checks the shapes of positions, tags, `fixed`, bonds and the cell.

        Raises:
          StructureError: where an atom lacks its three coordinates, its tag or its mark in `fixed`,
            a bond is not between two atoms, or the cell has no volume in its periodic directions.
        """
        count = len(self.atomic_numbers)
        for name, value, shape in (
            ("positions", self.positions, (count, 3)),
            ("tags", self.tags, (count,)),
            ("fixed", self.fixed, (count,)),
            ("a cell", self.cell, (3, 3)),
        ):
            if value is not None and np.shape(value) != shape:
                raise StructureError(
                    f"has {count} atoms and {name} of shape {np.shape(value)}; it must be {shape}",
                    self.name,
                )
        if self.bonds is not None:
            bonds = np.asarray(self.bonds)
            there = (bonds >= 0) & (bonds < count)
            if bonds.shape[1:] != (2,) or not there.all() or (bonds[:, 0] == bonds[:, 1]).any():
                raise StructureError(
                    f"has bonds that are not pairs of its {count} atoms: {bonds.tolist()}",
                    self.name,
                )
        if self.cell is not None:
            vectors = np.asarray(self.cell, float)[list(self.periodic)]
            finite = np.isfinite(self.cell).all()
            if not finite or (len(vectors) and np.linalg.det(vectors @ vectors.T) < 1e-12):
                raise StructureError(
                    "has a cell without volume in its periodic directions: "
                    f"{np.asarray(self.cell).tolist()}",
                    self.name,
                )


@dataclasses.dataclass(frozen=True)
class Structures:
    """Many structures end to end: atoms `offsets[k]` to `offsets[k + 1]` belong to structure k.

    Attributes:
      offsets: [n + 1] int64.
      atomic_numbers: [atoms] int32.
      positions: [atoms, 3] float64, Å.
      ids: [n] int64, the number by which messages and records name the structure.
      source: the noun before the id in messages, e.g. "QM9 molecule".
      cells: [n, 3, 3] float64, Å; 0 where no direction is periodic.
      periodic: [n, 3] bool.
      tags: [atoms] int32; 0 bulk, 1 surface, 2 adsorbate.
      fixed: [atoms] bool; True for atoms that are held in place where others move.
      bonds: [n] `Structure.bonds` of each structure; None: no structure has any.
    """

    offsets: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    ids: np.ndarray
    source: str
    cells: np.ndarray
    periodic: np.ndarray
    tags: np.ndarray
    fixed: np.ndarray
    bonds: np.ndarray | None = None

    @classmethod
    def molecules(
        cls,
        offsets: np.ndarray,
        atomic_numbers: np.ndarray,
        positions: np.ndarray,
        ids: np.ndarray,
        source: str,
    ) -> Structures:
        """Structures without cells, tags and fixed atoms."""
        n, atoms = len(ids), len(atomic_numbers)
        return cls(
            offsets,
            atomic_numbers,
            positions,
            ids,
            source,
            cells=np.zeros((n, 3, 3)),
            periodic=np.zeros((n, 3), bool),
            tags=np.zeros(atoms, np.int32),
            fixed=np.zeros(atoms, bool),
        )

    @classmethod
    def pack(cls, structures: Iterable[Structure], source: str = "structure") -> Structures:
        """Stores structures end to end; ids are their places in the sequence.

        Raises:
          StructureError: where the sequence is empty, and as `Structure.check_shapes` does.
        """
        items = list(structures)
        if not items:
            raise StructureError("there is no structure")
        for item in items:
            item.check_shapes()
        counts = [len(item.atomic_numbers) for item in items]
        packed = cls.molecules(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([i.atomic_numbers for i in items]).astype(np.int32),
            np.concatenate([i.positions for i in items]).astype(np.float64),
            np.arange(len(items), dtype=np.int64),
            source,
        )
        for k, item in enumerate(items):
            rows = slice(packed.offsets[k], packed.offsets[k + 1])
            if item.cell is not None:
                packed.cells[k], packed.periodic[k] = item.cell, item.periodic
            if item.tags is not None:
                packed.tags[rows] = item.tags
            if item.fixed is not None:
                packed.fixed[rows] = item.fixed
        if any(item.bonds is not None for item in items):
            bonds = np.empty(len(items), object)
            for k, item in enumerate(items):
                bonds[k] = item.bonds
            packed = dataclasses.replace(packed, bonds=bonds)
        return packed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> Structure:
        rows = slice(self.offsets[k], self.offsets[k + 1])
        a, b, c = self.periodic[k].tolist()
        return Structure(
            self.atomic_numbers[rows],
            self.positions[rows],
            self.name(k),
            self.cells[k] if self.periodic[k].any() else None,
            (a, b, c),
            self.tags[rows],
            self.fixed[rows],
            None if self.bonds is None else self.bonds[k],
        )

    def name(self, k: int) -> str:
        """The name of structure k in messages."""
        return f"{self.source} {self.ids[k]}"

    @property
    def n_atoms(self) -> np.ndarray:
        """[n] atoms of each structure."""
        return np.diff(self.offsets)

    def counts(self, atoms: np.ndarray) -> np.ndarray:
        """[n] atoms of each structure that are in the mask `atoms`."""
        before = np.concatenate([[0], np.cumsum(atoms)])
        return np.diff(before[self.offsets])

    def atoms_of(self, indices: np.ndarray) -> np.ndarray:
        """Indices of the atoms of the structures at `indices`, one structure after another."""
        return concatenated_ranges(self.offsets[indices], self.n_atoms[indices])

    def take(self, indices: np.ndarray) -> Structures:
        """The structures at `indices` (positions in the set, not ids), in that order."""
        offsets = np.concatenate([[0], np.cumsum(self.n_atoms[indices])]).astype(np.int64)
        rows = self.atoms_of(indices)
        return Structures(
            offsets,
            self.atomic_numbers[rows],
            self.positions[rows],
            self.ids[indices],
            self.source,
            self.cells[indices],
            self.periodic[indices],
            self.tags[rows],
            self.fixed[rows],
            None if self.bonds is None else self.bonds[indices],
        )

    def turned(self, rotations: np.ndarray) -> Structures:
        """Each structure turned about the origin by its own quaternion (w, x, y, z), [n, 4]."""
        # It takes 0.4 s to import, and to predict nothing is turned.
        from scipy.spatial.transform import Rotation

        turns = Rotation.from_quat(np.repeat(rotations, self.n_atoms, 0), scalar_first=True)
        of_cells = Rotation.from_quat(np.repeat(rotations, 3, 0), scalar_first=True)
        return dataclasses.replace(
            self,
            positions=turns.apply(self.positions),
            cells=of_cells.apply(self.cells.reshape(-1, 3)).reshape(-1, 3, 3),
        )

    def refuse(self, reasons: Mapping[int, str]) -> None:
        """Raises the first of these reasons, by index of its structure, if there is any.

        Raises:
          StructureError: naming the structure.
        """
        for place, reason in reasons.items():
            raise StructureError(reason, self.name(place))

    def reasons_against(self, elements: Sequence[int], tags: bool = False) -> dict[int, str]:
        """Why a model cannot use some of the structures, by index.

        The reasons: no atoms, a coordinate that is not finite, an element outside `elements`, a
        tag other than 0, 1 and 2. (The neighbour search finds atoms at one place.)

        Args:
          elements: atomic numbers that the model knows.
          tags: whether the model uses tags.
        """
        names = ", ".join(SYMBOLS[e] for e in elements)
        reasons = {int(k): "has no atoms" for k in np.flatnonzero(self.n_atoms == 0)}
        for k, _ in self._first(~np.isfinite(self.positions).all(-1)):
            reasons.setdefault(k, "has a coordinate that is not a finite number")
        unknown = ~np.isin(self.atomic_numbers, elements)
        for k, _ in self._first(unknown):
            atoms = slice(*self.offsets[k : k + 2])
            new = np.unique(self.atomic_numbers[atoms][unknown[atoms]]).tolist()
            symbols = " and ".join(
                SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"atomic number {z}" for z in new
            )
            reasons.setdefault(k, f"contains {symbols}; this model knows {names}")
        if tags:
            for k, atom in self._first((self.tags < 0) | (self.tags > 2)):
                reasons.setdefault(
                    k,
                    f"has the tag {self.tags[atom]}; there are 0 (bulk), 1 (surface) and 2 "
                    "(adsorbate)",
                )
        return reasons

    def untagged(self) -> dict[int, str]:
        """The structures without an atom of a surface or an adsorbate, by index; why that is."""
        return dict.fromkeys(np.flatnonzero(self.counts(self.tags > 0) == 0).tolist(), UNTAGGED)

    def _first(self, atoms: np.ndarray) -> Iterator[tuple[int, int]]:
        """Each structure with an atom in the mask `atoms`, and the index of its first such atom."""
        places = np.flatnonzero(atoms)
        owners = np.searchsorted(self.offsets, places, side="right") - 1
        found, first = np.unique(owners, return_index=True)
        return zip(found.tolist(), places[first].tolist(), strict=True)


def concatenated_ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ranges starts[k] .. starts[k] + counts[k] - 1, one after another in one array."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
