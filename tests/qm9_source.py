"""CSV files like those of the package qm9pack, of five molecules."""

from __future__ import annotations

import csv
import json
import pathlib

import numpy as np

from hdgnn_jax.data.qm9pack import COLUMNS, PARTS, POLARIZABILITIES

SYMBOLS = ["CHHHH", "NHHH", "OHH", "HCN", "CCO"]


def molecules() -> list[dict]:
    """Rows with digits that float32 does not hold; one is written as `3.`."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "index": 3 * k + 1,
            "symbols": list(symbols),
            "positions": rng.normal(size=(len(symbols), 3)).tolist(),
            "charges": rng.normal(size=len(symbols)).tolist(),
            "frequencies": rng.uniform(100, 4000, 3 * len(symbols) - 6).tolist(),
            "tensor": rng.normal(size=6).tolist(),
            **dict(zip(COLUMNS, rng.normal(size=len(COLUMNS)).tolist(), strict=True)),
        }
        for k, symbols in enumerate(SYMBOLS)
    ]
    rows[0]["positions"][-1][-1] = 3.0
    return rows


def write_source(folder: pathlib.Path, rows: list[dict], borders=(0, 2, 4, 5)) -> pathlib.Path:
    """CSV files like the package's, numbers such as `0.` included."""
    folder.mkdir()

    def text(values) -> str:
        return json.dumps(values).replace(" ", "").replace(".0]", ".]")

    def save(name, table):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0], quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(table)

    parts = [
        {
            "XYZ_file": f"dsgdb9nsd_{row['index']:06}.xyz",
            "Index": row["index"],
            "SMILES": "".join(row["symbols"]),
            "InChi": f"InChI={row['index']}",
            "Elements": str(row["symbols"]).replace(" ", ""),
            "XYZ_Ang": text(row["positions"]),
            "Mulliken_pop": text(row["charges"]),
            "Harmonic_Freq_cmi": text(row["frequencies"]),
            **{column: row[name] for name, column in COLUMNS.items()},
        }
        for row in rows
    ]
    for name, start, stop in zip(PARTS, borders, borders[1:], strict=False):
        if parts[start:stop]:
            save(name, parts[start:stop])
    tensor = ("A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz")
    save(
        POLARIZABILITIES,
        [
            {"XYZ_file": part["XYZ_file"], **dict(zip(tensor, row["tensor"], strict=True))}
            for part, row in zip(parts, rows, strict=True)
        ],
    )
    return folder
