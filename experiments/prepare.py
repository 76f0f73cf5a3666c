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
       has their sid, y_init, y_relaxed (eV) and positions_relaxed (Å) by these names. An
       interrupted one starts anew.
smiles QM9's molecules in the positions that RDKit makes from their SMILES, for
       --config.data.positions=smiles: 40 minutes on a core.
qm9    The molecules of the package qm9pack as a tensorflow_datasets data set, for other programs;
       training does not need it. An interrupted one starts anew.
"""

from __future__ import annotations

import contextlib
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
from hdgnn_jax.data.oc20_lmdb import BadRecord, Lmdb, lmdb_files, write_lmdb
from hdgnn_jax.data.processes import make_files
from hdgnn_jax.data.qm9pack import package_folder, read_smiles
from hdgnn_jax.errors import InputError
from hdgnn_jax.files import write_atomically
from hdgnn_jax.progress import progress_bar

FILE = 200
"""Number of slabs in an LMDB file; an interruption loses at most this many."""
MOLECULES_IN_FILE = 50
"""Number of molecules in a part of the extxyz file; an interruption loses at most this many."""
WORDS = {
    "is2re": ("source", "name", "bad"),
    "slabs": ("name", "systems", "seed", "processes"),
    "molecules": ("name", "systems", "seed", "processes"),
    "extxyz": ("source", "output", "bad"),
    "smiles": ("processes",),
    "qm9": (),
}
"""What can be prepared, and the flags that it reads."""
ANEW = ("extxyz", "qm9")
"""Those of which an interrupted call leaves nothing."""


def main(*words: str) -> None:
    """The program."""
    if len(words) != 1 or words[0] not in WORDS:
        raise InputError(f"say what to prepare: {', '.join(WORDS)}, not {' '.join(words)!r}")
    (word,) = words
    for name in dict.fromkeys(itertools.chain(*WORDS.values())):
        if flags.FLAGS[name].present and name not in WORDS[word]:
            raise InputError(f"prepare {word} has no --{name}")
    PROGRAM.resumes = word not in ANEW
    # A batch system's signal ends it as Ctrl-C does, with a line.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root, processes = cache_folder(), PROCESSES.value or cores()
    if word == "qm9":
        qm9.load()
        qm9_tfds.write_tfds(package_folder(), root / "qm9" / "qm9")
    elif word == "smiles":
        of_smiles(root, processes)
    elif word == "extxyz":
        if SOURCE.value is None or program.OUTPUT.value is None:
            raise InputError("extxyz needs --source=DIR and --output=FILE.extxyz")
        extxyz(pathlib.Path(SOURCE.value), pathlib.Path(program.OUTPUT.value), BAD.value)
    elif word == "is2re":
        if SOURCE.value is None:
            raise InputError("--source is missing: DIR, the folder of the parts as unpacked")
        build(pathlib.Path(SOURCE.value), root / "is2re" / (NAME.value or "oc20"), BAD.value)
    elif word == "slabs":
        folder = root / "is2re" / (NAME.value or "slabs")
        slabs(folder, SYSTEMS.value or 4000, SEED.value, processes)
    else:
        folder = root / "ase" / (NAME.value or "molecules")
        molecules(folder, SYSTEMS.value or 1000, SEED.value, processes)


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
    """Raises an InputError that says how to install a package that an import in the block lacks."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f'the package {error.name} is not installed: pip install "hdgnn_jax[{extra}]"'
        ) from error


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
    with needed("is2re"):
        import ase.io

        from hdgnn_jax.data.ase_files import atoms_of
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
    with needed("is2re"):
        from hdgnn_jax.data import slabs as made_here
    if systems < 20:
        raise InputError("--systems must be at least 20")
    source = folder / "lmdb"
    claim(source, systems, seed)
    files: dict[pathlib.Path, list[tuple[int, str, int]]] = {}
    for part, n in made_here.plan(systems).items():
        (source / part).mkdir(exist_ok=True)
        rows = [(seed, part, k) for k in range(n)]
        for start in range(0, n, FILE):
            file = source / part / f"data.{start // FILE:04}.lmdb"
            files[file] = rows[start : start + FILE]
    make_files(files, made_here.make_system, write_lmdb, processes, "slabs: relaxing", "systems")
    build(source, folder, "stop")


def molecules(folder: pathlib.Path, systems: int, seed: int, processes: int) -> None:
    """Makes `molecules.extxyz` in the folder; parts that an interrupted call left are reused.

    Raises:
      InputError: where `systems` is out of range, or the folder holds other molecules.
      QM9Error: where QM9 cannot be read.
    """
    with needed("forces"):
        import ase.io

        from hdgnn_jax.data import dynamics
    qm9_molecules = qm9.load().structures
    if not 1 <= systems <= len(qm9_molecules):
        raise InputError(f"--systems must lie between 1 and {len(qm9_molecules)}")
    claim(folder, systems, seed)
    chosen = np.random.default_rng(seed).permutation(len(qm9_molecules))[:systems]
    rows = [(qm9_molecules[k], place) for place, k in enumerate(chosen.tolist())]
    files = {
        folder / f"part.{start:06}.extxyz": rows[start : start + MOLECULES_IN_FILE]
        for start in range(0, systems, MOLECULES_IN_FILE)
    }

    def write(file: pathlib.Path, made: Iterator[list[ase.Atoms]]) -> None:
        text = io.StringIO()
        for shapes in made:
            ase.io.write(text, shapes, format="extxyz")
        write_atomically(file, text.getvalue().encode())

    make_files(files, dynamics.move, write, processes, "molecules: moving", "molecules")
    whole = folder / "molecules.extxyz"
    write_atomically(whole, b"".join(file.read_bytes() for file in files))
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
