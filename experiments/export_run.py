"""Predicts the structures of an xyz file, all in one call, with the model beside this script.

    python run.py molecules.xyz

It needs NumPy, flatbuffers and jax (with its plugin for a GPU or TPU). From an extended xyz file it
also reads Lattice, pbc and a column `tags`. model.json describes the model and its inputs. It does
not say how a structure differs from the training data: hdgnn_jax does.
"""

import hashlib
import itertools
import json
import os
import pathlib
import re
import sys

import jax
import numpy as np
from jax import export

TRUE, FALSE = ("t", "true", "1"), ("f", "false", "0")


def read(path):
    """Yields symbols, positions, periodic lattice vectors [0 to 3, 3], and tags."""
    lines = iter(pathlib.Path(path).read_text().splitlines())
    for line in filter(str.strip, lines):
        count, comment = int(line), next(lines, "")
        rows = [row.split() for row in itertools.islice(lines, count)]
        layout = re.search(r"Properties=(\S+)", comment)
        fields = (layout[1] if layout else "species:S:1:pos:R:3").split(":")
        starts = np.cumsum([0, *map(int, fields[2::3])])
        column = dict(zip(fields[::3], starts, strict=False))
        if len(rows) < count or any(len(row) < starts[-1] for row in rows):
            raise ValueError("an atom's line is missing, or has too few columns")
        positions = np.array([row[column["pos"] :][:3] for row in rows], float).reshape(count, 3)
        tags = [int(row[column["tags"]]) if "tags" in column else 0 for row in rows]
        lattice, pbc = (re.search(f'{name}="([^"]*)"', comment) for name in ("Lattice", "pbc"))
        cell = np.array(lattice[1].split() if lattice else [], float).reshape(-1, 3)
        words = (pbc[1] if pbc else "T T T").split()
        if odd := [word for word in words if word.lower() not in TRUE + FALSE]:
            raise ValueError(f"{odd[0]} in pbc is neither T nor F")
        periodic = [word.lower() in TRUE for word in words]
        symbols = [row[column["species"]].capitalize() for row in rows]
        yield symbols, positions, cell[periodic[: len(cell)]], tags


def neighbors(model, symbols, positions, cell, tags):
    """Receivers, senders and shifts of the pairs within the cutoff that the model sees."""
    if len(cell) and np.linalg.det(cell @ cell.T) < 1e-12:
        raise ValueError("has a cell without volume in its periodic directions")
    inverse = np.linalg.pinv(cell)
    reach = model["cutoff"] * np.linalg.norm(inverse, axis=0) + np.ptp(positions @ inverse, axis=0)
    steps = itertools.product(*(range(-n, n + 1) for n in np.ceil(reach).astype(int)))
    shifts = np.array(list(steps)) @ cell
    images = positions + shifts[:, None]
    distance = np.linalg.norm(images - positions[:, None, None], axis=-1)  # [i, shift, j]
    distance[np.eye(len(positions), dtype=bool)[:, None] & ~shifts.any(-1)[:, None]] = np.inf
    if not distance.min() >= model["closest_atoms"]:
        raise ValueError("two atoms at one place, or a coordinate that is no number")
    near = distance <= model["cutoff"]
    if model["bonds"] is not None:
        radii = np.array([model["bonds"]["radii"][symbol] for symbol in symbols])
        near &= distance < model["bonds"]["factor"] * (radii[:, None] + radii)[:, None]
    if model["surface"]:
        near[np.array(tags) == 0] = False
    i, s, j = np.nonzero(near)
    if model["max_neighbors"] is not None:
        order = np.lexsort((distance[i, s, j], i))
        kept = order[np.arange(len(i)) - np.searchsorted(i, i) <= model["max_neighbors"]]
        i, s, j = i[kept], s[kept], j[kept]
    return i, j, shifts[s]


def arrays_of(model, symbols, positions, cell, tags):
    """The program's input arrays for one structure."""
    unknown = sorted({*symbols} - {*model["elements"]})
    if unknown:
        raise ValueError(f"contains {unknown[0]}; this model knows {', '.join(model['elements'])}")
    wrong = sorted({*tags} - {0, 1, 2}) if "tags" in model["inputs"] else []
    if wrong:
        raise ValueError(f"has the tag {wrong[0]}: 0 is bulk, 1 the surface, 2 the adsorbate")
    if model["needs_tags"] and not any(tags):
        raise ValueError("has no atom of the surface or the adsorbate: all its tags are 0")
    receivers, senders, shift = neighbors(model, symbols, positions, cell, tags)
    numbers = [model["elements"][symbol] for symbol in symbols]
    return {"atomic_numbers": numbers, "positions": positions, "tags": tags, "shift": shift,
            "receivers": receivers, "senders": senders, "n_atoms": [len(symbols)],
            "n_edges": [len(shift)]}  # fmt: skip


def join(model, structures):
    """The program's input: the structures end to end."""
    joined = {name: np.concatenate([s[name] for s in structures]).astype(array["dtype"])
              for name, array in model["inputs"].items()}  # fmt: skip
    n_atoms = joined["n_atoms"]
    before = np.repeat(np.cumsum(n_atoms) - n_atoms, joined["n_edges"])
    joined["receivers"] += before
    joined["senders"] += before
    return joined


def main(path):
    """Prints a line for each structure and target, and for an energy one for each atom's force."""
    folder = pathlib.Path(__file__).parent
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    program = (folder / "model.stablehlo").read_bytes()
    if hashlib.sha256(program).hexdigest() != model["sha256"]:
        sys.exit("error: model.stablehlo is not the file that model.json describes")
    symbols, structures = [], []
    try:
        for structure in read(path):
            structures.append(arrays_of(model, *structure))
            symbols.append(structure[0])
        if not structures:
            raise ValueError("there is none")
    except OSError as error:
        sys.exit(f"error: {path}: {error.strerror}")
    except (ValueError, LookupError) as error:
        sys.exit(f"error: {path}, structure {len(structures) + 1}: {error}")

    found = jax.jit(export.deserialize(bytearray(program)).call)(join(model, structures))
    energy = model["targets"].get(model["energy"], {"scale": 1.0, "unit": ""})
    forces = iter(np.array(found.get("forces", ()), float) * energy["scale"])
    for doubt in model["doubts_of_forces"]:
        print(f"warning: {doubt}", file=sys.stderr)
    for k, species in enumerate(symbols):
        for name, target in model["targets"].items():
            of_atoms = sum(target["per_element"].get(s, 0.0) for s in species)
            known = target["constant"]
            known += of_atoms / len(species) if target["averaged"] else of_atoms
            value = np.array(found[name][k], float) * target["scale"]
            value += known * np.array(target["isotropic"])
            unit, numbers = target["unit"], map(repr, value.ravel().tolist())
            print(f"structure {k + 1}: {name} [{unit}]", *numbers)
        for symbol, force in zip(species, forces, strict=False):
            unit = f"{energy['unit']}/Å"
            print(f"  {symbol:2} force of {model['energy']} [{unit}]", *map(repr, force.tolist()))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit()
    if len(sys.argv) != 2:
        sys.exit(f"error: one file is needed, not {len(sys.argv) - 1}")
    try:
        main(sys.argv[1])
    except BrokenPipeError:
        # Of `| head`. At its end Python would write the rest again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
