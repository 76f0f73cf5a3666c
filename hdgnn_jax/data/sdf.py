"""Reads sdf and mol files with RDKit: ASE reads the first molecule alone, without its charge."""

from __future__ import annotations

import gzip
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from hdgnn_jax.graphs.structure import StructureError

ENDINGS = (".sdf", ".mol", ".sdf.gz", ".mol.gz")


def is_sdf(path: pathlib.Path) -> bool:
    """Whether a file is called as sdf and mol files are."""
    return path.name.lower().endswith(ENDINGS)


def read(path: pathlib.Path) -> Iterator[tuple[Any, str]]:
    """For each molecule its `Atoms` and title, or the reason why there are none.

    The data fields are in `info`, with a charge and a multiplicity other than those of a neutral
    singlet.

    Raises:
      OSError: where the file cannot be opened.
      ModuleNotFoundError: without RDKit or ASE.
    """
    from ase import Atoms
    from rdkit import Chem, rdBase

    open_file = gzip.open if path.suffix.lower() == ".gz" else open
    with open_file(path, "rb") as file, rdBase.BlockLogs():
        for number, record in enumerate(_records(file), start=1):
            # Of a whole file its reader loses the molecule after one that is cut off.
            alone = Chem.ForwardSDMolSupplier(io.BytesIO(record), sanitize=False, removeHs=False)
            molecule: Any = next(alone, None)
            if reason := _reason(molecule):
                at = f"{path.name}, structure {number}"
                yield StructureError(f"cannot be read ({reason})", at), ""
                continue
            atoms = Atoms(
                [atom.GetAtomicNum() for atom in molecule.GetAtoms()],
                molecule.GetConformer().GetPositions(),
                info=molecule.GetPropsAsDict(),
            )
            if charge := Chem.GetFormalCharge(molecule):
                atoms.info["charge"] = charge
            if unpaired := sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
                atoms.info["multiplicity"] = unpaired + 1
            yield atoms, molecule.GetProp("_Name").strip("\ufeff \t\r")


def _records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The records of a file, each with the line that ends it."""
    record = []
    for line in lines:
        record.append(line)
        if line.startswith(b"$$$$"):
            yield b"".join(record)
            record = []
    if (rest := b"".join(record)).strip():
        yield rest


def _reason(molecule: Any) -> str:
    """Why a molecule of RDKit's reader has no atoms with positions; empty where it has."""
    if molecule is None or not molecule.GetNumAtoms():
        return "RDKit finds no molecule in it"
    # Columns 21 and 22 of the second line.
    if molecule.GetProp("_MolFileInfo")[20:22] == "2D":
        return "its positions are those of a drawing, 2D; give its SMILES instead"
    return ""
