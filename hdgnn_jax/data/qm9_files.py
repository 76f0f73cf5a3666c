"""The xyz files in which QM9 is published, one for each molecule."""

from __future__ import annotations

import itertools
import pathlib
from typing import NamedTuple

BEGINNING = "gdb "
"""Their comments begin so."""


class Published(NamedTuple):
    """A file of QM9.

    Attributes:
      comment: its second line: index and properties.
      molecule: the molecule as an ordinary xyz file has it.
    """

    comment: str
    molecule: str


def published(path: pathlib.Path) -> Published | None:
    """What a file that QM9 publishes holds; None of any other file.

    There charges follow the positions, numbers are like 1.2*^-6, and after the atoms come
    frequencies, SMILES and InChI.

    Raises:
      ValueError: where the file ends within the molecule.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        count, comment = next(lines, "").strip(), next(lines, "").strip()
        if not (comment.startswith(BEGINNING) and "=" not in comment and count.isdecimal()):
            return None
        atoms = [row.replace("*^", "e").split() for row in itertools.islice(lines, int(count))]
        after = list(itertools.islice(lines, 4))
    if any(len(atom) != 5 for atom in atoms) or len(after) > 3:
        return None
    if len(atoms) < int(count):
        raise ValueError(f"it ends after {len(atoms)} of {count} atoms")
    return Published(comment, "\n".join([count, "", *(" ".join(atom[:4]) for atom in atoms)]))
