"""Puts a data set into the cache, once; the same command goes on where it was stopped.

    python -m experiments.prepare is2re --source=DIR
    python -m experiments.prepare slabs
    python -m experiments.prepare qm9

is2re  OC20 IS2RE as published: DIR has the folders train, val_id, val_ood_ads, val_ood_cat,
       val_ood_both and, for submissions, test_id, ..., each with one or more .lmdb files.
slabs  A stand-in for it that needs no download: metal dimers and trimers on alloy slabs, relaxed
       with ASE's EMT, written in OC20's format too. 4,000 systems take 13 minutes on two cores.
qm9    The molecules of the package qm9pack; training does the same by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterator

from absl import flags

from experiments import program
from hdgnn_jax.data import is2re, qm9
from hdgnn_jax.data.cache import cache_folder
from hdgnn_jax.data.oc20_lmdb import Record, write_lmdb
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training.card import cores
from hdgnn_jax.training.metrics import write_atomically

SOURCE = flags.DEFINE_string("source", None, "DIR, is2re: folder of the parts as unpacked")
NAME = flags.DEFINE_string("name", None, "of the set in the cache, if not oc20 or slabs")
BAD = flags.DEFINE_enum("bad", "stop", ["stop", "skip"], "is2re: what a bad record does")
SYSTEMS = flags.DEFINE_integer("systems", 4000, "slabs: how many, over all parts")
SEED = flags.DEFINE_integer("seed", 0, "slabs: of the systems")
PROCESSES = flags.DEFINE_integer("processes", None, "slabs: as many as cores, if not given")

FILE = 200
"""Slabs in an LMDB file: what an interruption may lose."""


def main(*words: str) -> None:
    """The program."""
    if len(words) != 1 or words[0] not in ("is2re", "slabs", "qm9"):
        raise ValueError(f"say what to prepare: is2re, slabs or qm9, not {' '.join(words)!r}")
    root = cache_folder() / "is2re"
    if words[0] == "qm9":
        qm9.load()
    elif words[0] == "is2re":
        if SOURCE.value is None:
            raise ValueError("--source is missing: DIR, the folder of the parts as unpacked")
        build(pathlib.Path(SOURCE.value), root / (NAME.value or "oc20"), BAD.value)
    else:
        processes = PROCESSES.value or cores() or 1
        slabs(root / (NAME.value or "slabs"), SYSTEMS.value, SEED.value, processes)


def build(source: pathlib.Path, folder: pathlib.Path, bad: str) -> None:
    """Converts LMDB files into a cache and says what is in it.

    Raises:
      Is2reError: naming the file and the record that cannot be used.
    """
    is2re.build(source, folder, bad="skip" if bad == "skip" else "stop")
    for part, content in is2re.parts(folder).items():
        print(f"{part}: {content['records']:,} records, {content['skipped']:,} skipped")
    print(f"in {folder}; manifest.json names what was skipped")


def slabs(folder: pathlib.Path, systems: int, seed: int, processes: int) -> None:
    """Makes the stand-in in `folder/lmdb`, then builds the cache beside it.

    Raises:
      ValueError: for too few systems, or where the folder holds others.
    """
    try:
        from hdgnn_jax.data import slabs as made_here
    except ImportError as error:
        raise ValueError(
            'the package ase is not installed: pip install "hdgnn_jax[is2re]"'
        ) from error
    if systems < 20 or processes < 1 or seed < 0:
        raise ValueError("--systems must be at least 20, --processes at least 1, --seed at least 0")
    source, wanted = folder / "lmdb", {"systems": systems, "seed": seed}
    plan = source / "plan.json"
    if plan.exists() and json.loads(plan.read_text()) != wanted:
        raise ValueError(f"{source} holds other slabs, {plan.read_text()}: choose another --name")
    source.mkdir(parents=True, exist_ok=True)
    write_atomically(plan, json.dumps(wanted).encode())
    with progress_bar("systems") as progress:
        task = progress.add_task("slabs: relaxing", total=systems)
        for part, n in made_here.plan(systems).items():
            (source / part).mkdir(exist_ok=True)
            files = {
                start: source / part / f"data.{start // FILE:04}.lmdb"
                for start in range(0, n, FILE)
            }
            missing = [start for start, file in files.items() if not file.exists()]
            rows = [range(start, min(start + FILE, n)) for start in missing]
            progress.advance(task, n - sum(map(len, rows)))

            def counted(records: Iterator[Record], count: int) -> Iterator[Record]:
                for record in itertools.islice(records, count):
                    yield record
                    progress.advance(task)

            made = made_here.make_systems(seed, part, itertools.chain(*rows), processes)
            with contextlib.closing(made) as records:
                for start, row in zip(missing, rows, strict=True):
                    write_lmdb(files[start], counted(records, len(row)))
    build(source, folder, "stop")


if __name__ == "__main__":
    program.run(main, str(__doc__), [], words=True)
