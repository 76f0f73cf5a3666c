"""QM9 as a `tensorflow_datasets` data set for other programs: array_record files."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from hdgnn_jax.data.cache import all_or_nothing
from hdgnn_jax.data.qm9pack import COLUMNS, parse
from hdgnn_jax.data.targets import TARGETS
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.types import Json

MAX_ATOMS = 29


def write_tfds(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes all of the package's data as the TFDS data set `Qm9` into a folder: all or nothing.

    Args:
      source: folder with the package's CSV files.
      folder: a folder named `qm9`, after the data set. If it exists, nothing is done.

    Raises:
      QM9Error: where a source file is missing or damaged.
    """
    if folder.exists():
        return
    with all_or_nothing(folder) as unfinished, progress_bar("molecules") as progress:
        task = progress.add_task("QM9: parsing", total=None)
        table = parse(source)
        progress.update(task, description="QM9: writing", total=len(table["index"]))
        with _quiet():
            builder = Qm9(table=table, advance=lambda: progress.advance(task),
                          data_dir=str(unfinished.parent), file_format="array_record")  # fmt: skip
            builder.download_and_prepare()


class Qm9(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # it has no types
    """QM9 with the feature names and units of `qm9` in the TFDS catalogue.

    All numbers are float64 (stored as bytes, because TFDS would round them to float32). The package
    holds one SMILES and one InChI, so `SMILES_relaxed` and `InChI_relaxed` are left out. The
    feature `polarizability` [3, 3], bohr^3, is added; it is in Gaussian's standard orientation,
    *not* in the frame of `positions`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, table: Json, advance: Callable[[], object], **kwargs: object):
        self._table = table
        self._advance = advance
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def exact(*shape: int | None) -> tfds.features.Tensor:
            encoding = tfds.features.Encoding.BYTES
            return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding=encoding)

        integer = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "index": integer,
                    "num_atoms": integer,
                    "tag": tfds.features.Text(),
                    "SMILES": tfds.features.Text(),
                    "InChI": tfds.features.Text(),
                    "charges": tfds.features.Tensor(shape=(MAX_ATOMS,), dtype=np.int64),
                    "positions": exact(MAX_ATOMS, 3),
                    "Mulliken_charges": exact(MAX_ATOMS),
                    "frequencies": exact(None),
                    "polarizability": exact(3, 3),
                    **{name: exact() for name in COLUMNS},
                    **{f"{name}_atomization": exact() for name in ("U0", "U", "H", "G")},
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Json:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, Json]]:
        table = self._table
        for k, index in enumerate(table["index"].tolist()):
            atoms = slice(table["offsets"][k], table["offsets"][k + 1])
            modes = slice(table["mode_offsets"][k], table["mode_offsets"][k + 1])
            charges = table["atomic_numbers"][atoms]
            example = {
                "index": index,
                "num_atoms": len(charges),
                "tag": "gdb",
                "SMILES": table["SMILES"][k],
                "InChI": table["InChI"][k],
                "charges": _padded(charges.astype(np.int64), MAX_ATOMS),
                "positions": _padded(table["positions"][atoms], MAX_ATOMS),
                "Mulliken_charges": _padded(table["Mulliken_charges"][atoms], MAX_ATOMS),
                "frequencies": table["frequencies"][modes],
                "polarizability": table["polarizability"][k],
                **{name: table[name][k] for name in COLUMNS},
            }
            for name in ("U0", "U", "H", "G"):
                energies = TARGETS[name].atom_energies or {}
                example[f"{name}_atomization"] = table[name][k] - sum(
                    energies[z] for z in charges.tolist()
                )
            self._advance()
            yield index, example


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the progress bars, logs and warnings of TFDS."""
    tfds.disable_progress_bar()
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # TFDS also prints the folder it writes to, which gets another name in the end.
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("absl").setLevel(level)
