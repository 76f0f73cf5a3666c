"""Puts a data set into the cache, once; the same command resumes an interrupted one.

    python -m experiments.prepare slabs

is2re  OC20 IS2RE as published: DIR has the folder train, those of val_id, val_ood_ads, val_ood_cat
       and val_ood_both that there are and, for submissions, test_id, ..., each with one or more
       .lmdb files.
slabs  A stand-in for is2re that needs no download: metal dimers and trimers on alloy slabs, relaxed
       with ASE's EMT, written in OC20's format too. 4,000 systems take 13 minutes on two cores.
molecules
       Molecules of QM9 in motion, with energies, forces and dipole moments of GFN2-xTB, for
       training with `ase.py`. 1,000 molecules, four shapes of each: 12 to 15 minutes on a core.
extxyz OC20's LMDB files as one extxyz file, for other programs: --source=DIR, or a file of it,
       --output=FILE.extxyz. Structures are the initial ones, with tags and fixed atoms; the file
       has their sid, y_init, y_relaxed (eV) and positions_relaxed (Å) by these names.
smiles QM9's molecules in the positions that RDKit makes from their SMILES, for
       --config.data.positions=smiles: 40 minutes on a core.
qm9    The molecules of the package qm9pack as a tensorflow_datasets data set, for other programs;
       training does not need it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import json
import pathlib
import signal
from collections.abc import Iterator

from absl import flags

from experiments import program

SOURCE = flags.DEFINE_string(
    "source", None, "DIR, for is2re: folder of the parts as unpacked; for extxyz, of one part"
)
NAME = flags.DEFINE_string("name", None, "NAME in the cache, if not oc20, slabs or molecules")
BAD = flags.DEFINE_enum(
    "bad", "stop", ["stop", "skip"], "for is2re and extxyz: what to do at a bad record"
)
SYSTEMS = flags.DEFINE_integer(
    "systems", None, "N, slabs of all parts (not given: 4,000) or molecules (1,000)",
    lower_bound=1,
)
SEED = flags.DEFINE_integer("seed", 0, "N, seed of the slabs or molecules", lower_bound=0)
PROCESSES = flags.DEFINE_integer(
    "processes", None, "N; not given: one for each core", lower_bound=1
)

PROGRAM = program.Program(str(__doc__), [], [program.OUTPUT], words=True, resumes=True)
if __name__ == "__main__":
    PROGRAM.begin()

import numpy as np

from hdgnn_jax.cpu import cores
from hdgnn_jax.data import is2re, is2re_build, qm9, qm9_smiles, qm9_tfds
from hdgnn_jax.data.cache import cache_folder
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb, Record, lmdb_files, write_lmdb
from hdgnn_jax.data.processes import map_in_processes
from hdgnn_jax.data.qm9pack import package_folder, read_smiles
from hdgnn_jax.errors import InputError
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training.metrics import write_atomically

FILE = 200
"""Number of slabs in an LMDB file; an interruption loses at most this many."""
MOLECULES_IN_FILE = 50
"""Number of molecules in a part of the extxyz file; an interruption loses at most this many."""
WORDS = ("is2re", "slabs", "molecules", "extxyz", "smiles", "qm9")


def main(*words: str) -> None:
    """The program."""
    if len(words) != 1 or words[0] not in WORDS:
        raise InputError(f"say what to prepare: {', '.join(WORDS)}, not {' '.join(words)!r}")
    # A batch system's signal ends it as Ctrl-C does, with a line.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = cache_folder()
    if words[0] == "qm9":
        qm9.load()
        qm9_tfds.write_tfds(package_folder(), root / "qm9" / "qm9")
    elif words[0] == "smiles":
        of_smiles(root, PROCESSES.value or cores())
    elif words[0] == "extxyz":
        if SOURCE.value is None or program.OUTPUT.value is None:
            raise InputError("extxyz needs --source=DIR and --output=FILE.extxyz")
        extxyz(pathlib.Path(SOURCE.value), pathlib.Path(program.OUTPUT.value), BAD.value)
    elif words[0] == "is2re":
        if SOURCE.value is None:
            raise InputError("--source is missing: DIR, the folder of the parts as unpacked")
        build(pathlib.Path(SOURCE.value), root / "is2re" / (NAME.value or "oc20"), BAD.value)
    else:
        processes = PROCESSES.value or cores()
        if words[0] == "slabs":
            folder = root / "is2re" / (NAME.value or "slabs")
            slabs(folder, SYSTEMS.value or 4000, SEED.value, processes)
        else:
            folder = root / "ase" / (NAME.value or "molecules")
            molecules(folder, SYSTEMS.value or 1000, SEED.value, processes)


def build(source: pathlib.Path, folder: pathlib.Path, bad: str) -> None:
    """Converts LMDB files into a cache and prints the number of records.

    Raises:
      Is2reError: naming the file and the record that cannot be used.
    """
    is2re_build.build(source, folder, bad="skip" if bad == "skip" else "stop")
    for part, content in is2re.parts(folder).items():
        print(f"{part}: {content['records']:,} records, {content['skipped']:,} skipped")
    print(f"in {folder}; manifest.json names what was skipped")


def extxyz(source: pathlib.Path, output: pathlib.Path, bad: str) -> None:
    """Writes the records of LMDB files as one extxyz file, which gets its name at the end.

    Raises:
      Is2reError: naming the file and the record that cannot be used.
    """
    try:
        import ase.io

        from hdgnn_jax.data.ase_files import atoms_of
    except ImportError as error:
        raise InputError(
            'the package ase is not installed: pip install "hdgnn_jax[is2re]"'
        ) from error
    unfinished, skipped, written = output.with_name(output.name + ".unfinished"), 0, 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Lmdb(file)) for file in lmdb_files(source)]
        text = stack.enter_context(unfinished.open("w"))
        progress = stack.enter_context(progress_bar("systems"))
        task = progress.add_task(f"writing {output.name}", total=sum(map(len, files)))
        for record in itertools.chain.from_iterable(file.records() for file in files):
            if isinstance(record, BadRecord):
                if bad == "stop":
                    raise record
                skipped += 1
            else:
                ase.io.write(text, atoms_of(record), format="extxyz")
                written += 1
            progress.advance(task)
    unfinished.rename(output)
    print(f"{output}: systems written: {written:,}, skipped: {skipped:,}")


def slabs(folder: pathlib.Path, systems: int, seed: int, processes: int) -> None:
    """Makes the stand-in in `folder/lmdb`, then builds the cache beside it.

    Raises:
      InputError: for too few systems, or where the folder holds other systems.
    """
    try:
        from hdgnn_jax.data import slabs as made_here
    except ImportError as error:
        raise InputError(
            'the package ase is not installed: pip install "hdgnn_jax[is2re]"'
        ) from error
    if systems < 20:
        raise InputError("--systems must be at least 20")
    source = folder / "lmdb"
    claim(source, systems, seed)
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

            make = functools.partial(made_here.make_system, seed, part)
            made = map_in_processes(make, itertools.chain(*rows), processes=processes)
            with contextlib.closing(made) as records:
                for start, row in zip(missing, rows, strict=True):
                    write_lmdb(files[start], counted(records, len(row)))
    build(source, folder, "stop")


def molecules(folder: pathlib.Path, systems: int, seed: int, processes: int) -> None:
    """Makes `molecules.extxyz` in the folder; parts that an interrupted call left are reused.

    Raises:
      InputError: where `systems` is out of range, or the folder holds other molecules.
      QM9Error: where QM9 cannot be read.
    """
    try:
        import ase.io

        from hdgnn_jax.data import dynamics
    except ImportError as error:
        raise InputError(
            f'the package {error.name} is not installed: pip install "hdgnn_jax[forces]"'
        ) from error
    qm9_molecules = qm9.load().structures
    if not 1 <= systems <= len(qm9_molecules):
        raise InputError(f"--systems must lie between 1 and {len(qm9_molecules)}")
    claim(folder, systems, seed)
    chosen = np.random.default_rng(seed).permutation(len(qm9_molecules))[:systems]
    starts = range(0, systems, MOLECULES_IN_FILE)
    parts = {start: folder / f"part.{start:06}.extxyz" for start in starts}
    missing = [start for start, file in parts.items() if not file.exists()]
    rows = [range(start, min(start + MOLECULES_IN_FILE, systems)) for start in missing]
    with progress_bar("molecules") as progress:
        task = progress.add_task("molecules: moving", total=systems)
        progress.advance(task, systems - sum(map(len, rows)))
        places = list(itertools.chain(*rows))
        started = (qm9_molecules[chosen[k]] for k in places)
        moved = map_in_processes(dynamics.move, started, places, processes=processes)
        with contextlib.closing(moved) as shapes:
            for start, row in zip(missing, rows, strict=True):
                text = io.StringIO()
                for _ in row:
                    ase.io.write(text, next(shapes), format="extxyz")
                    progress.advance(task)
                write_atomically(parts[start], text.getvalue().encode())
    whole = folder / "molecules.extxyz"
    write_atomically(whole, b"".join(file.read_bytes() for file in parts.values()))
    print(f"{whole}: {systems * dynamics.SHAPES:,} structures of {dynamics.method()}")


def of_smiles(cache: pathlib.Path, processes: int) -> None:
    """Makes QM9's molecules from their SMILES and prints how many there are.

    Raises:
      InputError: where RDKit is not installed.
      QM9Error: where QM9 cannot be read.
    """
    if importlib.util.find_spec("rdkit") is None:
        raise InputError('SMILES need rdkit: pip install "hdgnn_jax[rdkit,qm9]"')
    known = qm9.load().structures
    made = qm9_smiles.build(known, read_smiles(package_folder()), cache, processes)
    print(f"{cache}: {len(made):,} of {len(known):,} molecules have positions from their SMILES")


def claim(folder: pathlib.Path, systems: int, seed: int) -> None:
    """Records in a folder what is made there.

    Raises:
      InputError: where something else is made there.
    """
    plan, wanted = folder / "plan.json", {"systems": systems, "seed": seed}
    if plan.exists() and json.loads(plan.read_text()) != wanted:
        raise InputError(f"{folder} was made with {plan.read_text()}: choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(plan, json.dumps(wanted).encode())


if __name__ == "__main__":
    PROGRAM.run(main)
