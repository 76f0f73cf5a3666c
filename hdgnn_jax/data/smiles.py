"""Makes molecules from SMILES: positions by RDKit's ETKDG, relaxed with MMFF94."""

from __future__ import annotations

from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import Structure, StructureError

SEED = 20240507
"""Seed of the embedding: the same molecule gets the same positions."""
NEAREST = 0.6
"""Å. Positions with two atoms nearer than this are refused; the bond of H2 is 0.74."""


def conformers(smiles: str, n: int = 1) -> tuple[list[Structure], str]:
    """Up to n conformers of a molecule with its bonds, that of the lowest MMFF94 energy first.

    Args:
      smiles: the molecule; hydrogens are added.
      n: number of conformers to try.

    Returns:
      Conformers, and a sentence that says how they were made.

    Raises:
      StructureError: where RDKit is not installed or cannot read or embed the SMILES, or places two
        atoms nearer than `NEAREST`.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise StructureError('SMILES need rdkit: pip install "hdgnn_jax[rdkit]"') from error
    with rdBase.BlockLogs():
        # RDKit stops at a NUL, and fails on a lone surrogate.
        readable = not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in smiles)
        molecule = Chem.MolFromSmiles(smiles) if readable else None
        if molecule is None or molecule.GetNumAtoms() == 0:
            raise StructureError(f"{smiles!r} is no SMILES that RDKit can read")
        molecule, order = _canonical(molecule)
        ids = _embedded(molecule, n)
        if not ids:
            raise StructureError(f"RDKit finds no positions for {smiles!r}")
        energies, relaxed = _relaxed(molecule, len(ids))
        molecule = Chem.RenumberAtoms(molecule, order)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.int32)
    unseen = _unseen(molecule)
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()], int)
    bonds = bonds.reshape(-1, 2)
    lowest_first = np.argsort(energies, kind="stable")
    places = [molecule.GetConformer(ids[k]).GetPositions() for k in lowest_first]
    found = [Structure(numbers, x, smiles, bonds=bonds, unseen=unseen) for x in places]
    for structure in found:
        distance = _shortest(structure.positions)
        if distance < NEAREST:
            raise StructureError(
                f"RDKit places two atoms of {smiles!r} {distance:.2f} Å from each other"
            )
    chosen = "lowest" if np.ptp(energies) else "first"
    many = f", the {chosen} of {len(found)}" if len(found) > 1 else ""
    if (fragments := len(Chem.GetMolFrags(molecule))) > 1:
        many += f"; {fragments} molecules side by side"
    return found, f"RDKit ETKDGv3, {relaxed}{many}"


def _canonical(molecule: Any) -> tuple[Any, list[int]]:
    """The molecule with hydrogens, whose atoms are numbered alike however its SMILES was written.

    Returns:
      The molecule, and its atoms in the order of the one given, hydrogens last.
    """
    from rdkit import Chem

    for atom in molecule.GetAtoms():
        # It would count in the order.
        atom.SetAtomMapNum(0)
    canonical = Chem.MolFromSmiles(Chem.MolToSmiles(molecule))
    n = molecule.GetNumAtoms()
    places = np.argsort(list(molecule.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]))
    if canonical is None or canonical.GetNumAtoms() != n:
        canonical, places = molecule, np.arange(n)
    whole = Chem.AddHs(canonical)
    order = places.tolist()
    for place in places.tolist():
        added = (atom.GetIdx() for atom in whole.GetAtomWithIdx(place).GetNeighbors())
        order += [k for k in added if k >= n]
    return whole, order


def _shortest(positions: np.ndarray) -> float:
    """The shortest distance between two of the positions [n, 3]; infinite for one atom."""
    first, second = np.triu_indices(len(positions), 1)
    lengths = np.linalg.norm(positions[first] - positions[second], axis=1)
    return float(lengths.min(initial=np.inf))


def _embedded(molecule: Any, n: int) -> list[int]:
    """Embeds up to n conformers in the molecule, and gives their ids."""
    from rdkit.Chem import rdDistGeom

    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = SEED
    ids: list[int] = list(rdDistGeom.EmbedMultipleConfs(molecule, n, options))
    if not ids:
        # Long chains need random coordinates; other molecules are better without.
        options.useRandomCoords = True
        ids = list(rdDistGeom.EmbedMultipleConfs(molecule, n, options))
    return ids


def _relaxed(molecule: Any, n: int) -> tuple[np.ndarray, str]:
    """Relaxes the molecule's n conformers if MMFF94 can: their energies, and how they are now."""
    from rdkit.Chem import rdForceFieldHelpers

    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        return np.zeros(n), "as embedded: MMFF94 has not all its atom types"
    # Fragments interact here; otherwise they would overlap.
    results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
        molecule, maxIters=2000, ignoreInterfragInteractions=False
    )
    states, energies = (np.array(column) for column in zip(*results, strict=True))
    # State -1: MMFF94 could not be set up, and the energy means nothing.
    energies = np.where(states < 0, np.inf, energies)
    return energies, "relaxed with MMFF94" + (" (not to the end)" if states.any() else "")


def _unseen(molecule: Any) -> str:
    """Charges, isotopes and unpaired electrons, which no model sees; empty where there are none."""
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    charge, radicals = Chem.GetFormalCharge(molecule), Descriptors.NumRadicalElectrons(molecule)
    unseen = [f"charge {charge:+}"] * bool(charge)
    # Those of a nitro group, an N-oxide or an azide belong to one way to write their bonds.
    apart = [
        atom for atom in molecule.GetAtoms()
        if atom.GetFormalCharge()
        and all(n.GetFormalCharge() * atom.GetFormalCharge() >= 0 for n in atom.GetNeighbors())
    ]  # fmt: skip
    unseen += ["separated charges"] * bool(apart and not charge)
    unseen += ["isotopes"] * any(atom.GetIsotope() for atom in molecule.GetAtoms())
    unseen += [f"{radicals} unpaired electron{'s' * (radicals != 1)}"] * bool(radicals)
    return ", ".join(unseen)
