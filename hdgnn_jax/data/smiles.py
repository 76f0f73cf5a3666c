"""Molecules from SMILES: positions by RDKit's ETKDG, relaxed with MMFF94."""

from __future__ import annotations

from typing import Any

import numpy as np

from hdgnn_jax.graphs.structure import Structure, StructureError

SEED = 20240507
"""Of the embedding: the same SMILES gives the same positions."""


def conformers(smiles: str, n: int = 1) -> tuple[list[Structure], str]:
    """Positions of a molecule in up to n conformers, that of the lowest MMFF94 energy first.

    Args:
      smiles: of one molecule; hydrogens are added.
      n: conformers to try.

    Returns:
      Conformers, and a sentence that says how they were made.

    Raises:
      StructureError: where RDKit cannot read or embed it, or is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import Descriptors, rdDistGeom, rdForceFieldHelpers
    except ImportError as error:
        raise StructureError('SMILES need rdkit: pip install "hdgnn_jax[rdkit]"') from error
    with rdBase.BlockLogs():
        # RDKit stops at a NUL, and takes no half of a character.
        readable = not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in smiles)
        molecule = Chem.MolFromSmiles(smiles) if readable else None
        if molecule is None or molecule.GetNumAtoms() == 0:
            raise StructureError(f"{smiles!r} is no SMILES that RDKit can read")
        molecule = Chem.AddHs(molecule)
        options: Any = rdDistGeom.ETKDGv3()
        options.randomSeed = SEED
        ids: list[int] = list(rdDistGeom.EmbedMultipleConfs(molecule, n, options))
        if not ids:
            raise StructureError(f"RDKit finds no positions for {smiles!r}")
        relaxed = "as embedded: MMFF94 has not all its atom types"
        energies = np.zeros(len(ids))
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
            states, energies = (np.array(column) for column in zip(*results, strict=True))
            # -1: without a force field, and an energy of nothing.
            energies = np.where(states < 0, np.inf, energies)
            relaxed = "relaxed with MMFF94" + (" (not to the end)" if states.any() else "")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.int32)
    found = [
        Structure(numbers, molecule.GetConformer(ids[k]).GetPositions(), smiles)
        for k in np.argsort(energies, kind="stable")
    ]
    many = f", the lowest of {len(found)}" if len(found) > 1 else ""
    charge, radicals = Chem.GetFormalCharge(molecule), Descriptors.NumRadicalElectrons(molecule)
    notes = [f"charge {charge:+}"] * bool(charge) + [f"{radicals} unpaired electron(s)"] * bool(
        radicals
    )
    notes += ["several molecules"] * (len(Chem.GetMolFrags(molecule)) > 1)
    unseen = f"; {', '.join(notes)}, which the model does not see" if notes else ""
    return found, f"RDKit ETKDGv3, {relaxed}{many}{unseen}"
