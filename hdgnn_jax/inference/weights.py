"""Weights of a run, and a trained model as one small file, such as comes with the package.

A file NAME.npz holds the record of a run's best checkpoint as JSON and each array of its weights by
name; no pickle. NAME.npz.sha256 beside it holds its digest.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hdgnn_jax.data.cache import is_complete, is_unchanged, write_with_digest
from hdgnn_jax.errors import CheckpointError
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import neighbors_of
from hdgnn_jax.graphs.structure import Structure, Structures
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.models.hyperparameters import HyperParameters
from hdgnn_jax.training import step
from hdgnn_jax.training.record import Record
from hdgnn_jax.types import Json, Params

if TYPE_CHECKING:
    # As in `training.record`.
    from hdgnn_jax.training.checkpoint import Checkpoints

SHIPPED = pathlib.Path(__file__).parents[1] / "weights" / "qm9.npz"
"""The weights that come with the package, of QM9's twelve targets."""
SHIPPED_SMILES = SHIPPED.with_name("qm9_smiles.npz")
"""Those for positions that RDKit makes from a SMILES (`data.smiles`)."""
RECORD = "record"
PROGRAM = "model.stablehlo"
"""Name of the network in a folder that `export` writes."""


def pack(workdir: str | os.PathLike[str], file: pathlib.Path) -> Record:
    """Writes the weights of a run, or of a file of `pack`, and their record.

    Of a run they are those that were best on validation.

    Raises:
      CheckpointError: where they cannot be read.
    """
    record, params = load(workdir, step.make_mesh())
    arrays: Json = flatten_dict(jax.device_get(params), sep="/")
    arrays[RECORD] = np.frombuffer(json.dumps(record.to_dict()).encode(), np.uint8)
    write_with_digest(file, lambda path: np.savez_compressed(path, **arrays))
    return record


def read(file: pathlib.Path) -> tuple[Record, Params]:
    """Reads a file that `pack` wrote.

    Raises:
      CheckpointError: where the file is damaged, or another version of this program wrote it.
    """
    if not is_complete(file):
        raise CheckpointError(f"there is no file {file} with its digest {file.name}.sha256")
    try:
        if not is_unchanged(file):
            raise ValueError("its SHA-256 has changed")
        with np.load(file) as arrays:
            content = {name: arrays[name] for name in arrays.files}
        if RECORD not in content:
            raise ValueError("it holds no model")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} is damaged ({error}): copy it again") from error
    record = Record.from_dict(json.loads(content.pop(RECORD).tobytes()))
    return record, unflatten_dict(content, sep="/")


def load(path: str | os.PathLike[str], mesh: jax.sharding.Mesh) -> tuple[Record, Params]:
    """The weights that were best on validation, on every device, and their record.

    Args:
      path: folder of a run, or a file of `pack`.
      mesh: devices.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        record, params = read(path)
        return record, jax.device_put(params, step.replicated(mesh))
    with _checkpoints(path) as checkpoints:
        record = Record.of(checkpoints, "best")
        return record, restore_weights(checkpoints, network(record), mesh)


def record_of(path: str | os.PathLike[str]) -> Record:
    """The record of what `load` loads.

    Raises:
      CheckpointError: where it cannot be read.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        return read(path)[0]
    with _checkpoints(path) as checkpoints:
        return Record.of(checkpoints, "best")


def _checkpoints(workdir: str | os.PathLike[str]) -> Checkpoints:
    if (pathlib.Path(workdir) / PROGRAM).is_file():
        raise CheckpointError(
            f"{workdir} is a program that `export` wrote, for its own run.py: name the run, or a "
            "FILE.npz that `export` writes"
        )
    from hdgnn_jax.training.checkpoint import Checkpoints

    return Checkpoints(pathlib.Path(workdir) / "checkpoints")


def network(record: Record) -> HDGNN:
    """The network of a run, without weights."""
    return HDGNN(HyperParameters(**record.model))


@functools.cache
def initial(model: HDGNN) -> Callable[[jax.Array], Params]:
    """The initial weights as a function of the key.

    JAX traces it once for each network: to know its shapes, and to compile it.
    """
    return lambda key: model.init(key, one_atom(model))["params"]


def shapes(model: HDGNN) -> Params:
    """The shapes of the network's weights."""
    return jax.eval_shape(initial(model), jax.random.key(0))


def restore_weights(
    checkpoints: Checkpoints, model: HDGNN, mesh: jax.sharding.Mesh
) -> Params:
    """The averaged weights that were best on validation, on every device.

    Raises:
      CheckpointError: where they cannot be restored.
    """
    placed = step.replicated(mesh)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), shapes(model)
    )
    return checkpoints.restore(like, "best", part=".ema").state


def smallest_structure(elements: Sequence[int]) -> Structures:
    """One atom that a network of these elements can see, whatever its neighbourhood."""
    z, tag = np.array(elements[:1]), np.ones(1, np.int32)
    return Structures.pack([Structure(z, np.zeros((1, 3)), tags=tag)])


def one_atom(model: HDGNN) -> batching.MolecularGraph:
    """The smallest graph, to get the shapes of weights from."""
    atom = smallest_structure(model.hyper.elements)
    return batching.collate(
        atom,
        neighbors_of(
            atom, model.hyper.cutoff, model.hyper.max_neighbors, model.hyper.neighborhood
        ),
        np.zeros(1),
        np.zeros(1, int),
        batching.Budget(n_edge=1, n_node=2, n_graph=2),
    )
