"""Reads sdf files, of which ASE reads the first molecule alone."""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any


def read(path: pathlib.Path) -> Iterator[tuple[Any, str]]:
    """The `Atoms` of each molecule, with its charge in `info`, and its title.

    Raises:
      ValueError: where a molecule is cut off, or its positions are those of a drawing.
      Other errors as ASE does.
    """
    import ase.io

    text = path.read_text(encoding="utf-8", errors="replace")
    for molecule in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        if not molecule.strip():
            continue
        # ASE would read as many atoms as there are.
        if not re.search(r"^M  END", molecule, re.MULTILINE):
            raise ValueError("it ends within the molecule")
        title, made_by, *lines = molecule.split("\n")
        # Columns 21 and 22 say so; ASE does not look.
        if made_by[20:22] == "2D":
            raise ValueError("its positions are those of a drawing, 2D; give its SMILES instead")
        atoms: Any = ase.io.read(io.StringIO(molecule), format="sdf")
        # M  CHG, a number of atoms, and each with its charge.
        charges = (line.split()[4::2] for line in lines if line.startswith("M  CHG"))
        if charge := sum(int(one) for of_line in charges for one in of_line):
            atoms.info["charge"] = charge
        yield atoms, title.strip()
