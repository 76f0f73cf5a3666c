"""From a config to data, model and devices: what training and evaluation share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hdgnn_jax.data import qm9, splits, targets
from hdgnn_jax.evaluation import accuracy
from hdgnn_jax.graphs import batching
from hdgnn_jax.graphs.neighbors import Neighbors, find_neighbors
from hdgnn_jax.graphs.structure import Structures
from hdgnn_jax.models.hdgnn import HDGNN
from hdgnn_jax.progress import progress_bar
from hdgnn_jax.training import step
from hdgnn_jax.training.report import SplitResult

HEADS = {"mu": "dipole", "r2": "extent"}


@dataclasses.dataclass(frozen=True)
class Molecules:
    """One part of a split.

    Attributes:
      structures, neighbors: the molecules and their edges.
      counts: [n, elements].
      raw: [n] the target as stored.
    """

    structures: Structures
    neighbors: Neighbors
    counts: np.ndarray
    raw: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """A target of QM9, a split and a model for them.

    Attributes:
      config: as a nested dict.
      reference: fitted on the training molecules, or that of a checkpoint.
      neighbors: mean number of neighbours of an atom in the training molecules.
    """

    config: Mapping[str, Any]
    reference: targets.Reference
    neighbors: float

    @classmethod
    def from_training_set(cls, config: Mapping[str, Any], train: Molecules) -> Problem:
        """Fits the reference and counts neighbours.

        Raises:
          ValueError: for a bad value in the config.
        """
        target, head = targets.find_target(config["target"]), head_of(config)
        reference = targets.Reference.fit(
            target,
            config["model"]["elements"],
            train.counts,
            train.raw,
            kind=config["data"]["reference"],
            centre=head == "invariant",
        )
        mean = train.neighbors.n_edges.sum() / max(len(train.structures.atomic_numbers), 1)
        return cls(config, reference, float(mean))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Problem:
        """The problem a checkpoint was trained on."""
        reference = targets.Reference.from_dict(record["reference"])
        return cls(record["config"], reference, record["neighbors"])

    def record(self) -> dict[str, Any]:
        """What `from_record` needs, JSON-able."""
        return {
            "config": self.config,
            "reference": self.reference.to_dict(),
            "neighbors": self.neighbors,
        }

    @functools.cached_property
    def target(self) -> targets.Target:
        """The property that is predicted."""
        return targets.find_target(self.config["target"])

    @functools.cached_property
    def model(self) -> HDGNN:
        """The network."""
        readout = self.config["readout"]
        if readout == "auto":
            readout = "mean" if self.target.intensive else "sum"
        model = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config["model"].items()}
        return HDGNN(
            **model,
            head=head_of(self.config),
            readout=readout,
            neighbors=self.neighbors,
        )

    def init_params(self, seed: int, molecules: Molecules) -> Any:
        """Fresh weights, a function of the seed alone; the molecules only give shapes."""
        one = np.zeros(1, int)
        budget = batching.Budget(
            n_edge=max(int(molecules.neighbors.n_edges[0]), 1),
            n_node=int(molecules.structures.n_atoms[0]) + 1,
            n_graph=2,
        )
        graph = batching.collate(
            molecules.structures, molecules.neighbors, molecules.raw, one, budget
        )
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return jax.jit(self.model.init)(key, graph)["params"]

    def predict(
        self,
        predict_step: Any,
        params: Any,
        molecules: Molecules,
        budget: batching.Budget,
        mesh: jax.sharding.Mesh,
        label: str | None = None,
    ) -> np.ndarray:
        """[n] predictions in the reported unit, with a progress bar if there is a label."""
        with progress_bar("molecules", disable=label is None) as progress:
            task = progress.add_task(label or "", total=len(molecules.structures))
            outputs = accuracy.predict(
                predict_step,
                params,
                molecules.structures,
                molecules.neighbors,
                budget,
                step.sharded(mesh),
                lambda n: progress.advance(task, n),
            )
        return self.reference.restore(molecules.counts, outputs)

    def result(self, name: str, molecules: Molecules, prediction: np.ndarray) -> SplitResult:
        """The prediction beside the truth and the baselines."""
        return SplitResult(
            split=name,
            ids=molecules.structures.ids,
            truth=molecules.raw * self.target.factor,
            prediction=prediction,
            mean_predictor=self.reference.mean_predictor(molecules.counts),
            composition=self.reference.composition_predictor(molecules.counts),
        )


def part(config: Mapping[str, Any], name: str) -> Molecules:
    """The molecules of `train`, `validation` or `test`, checked, with their neighbours.

    Raises:
      ValueError: for an unknown target or split, or a training set larger than the split's.
      QM9Error, StructureError: for bad data.
    """
    target = targets.find_target(config["target"])
    rows = getattr(splits.split(config["data"]["split"]), name)
    size = config["data"]["train_size"]
    if name == "train" and size is not None:
        if not 0 < size <= len(rows):
            raise ValueError(f"data.train_size must lie between 1 and {len(rows)}, not {size}")
        rows = rows[:size]
    data = _qm9(config["data"]["cache"])
    structures = data.structures.take(rows)
    elements = config["model"]["elements"]
    structures.check(elements)
    return Molecules(
        structures,
        find_neighbors(structures, config["model"]["cutoff"]),
        targets.element_counts(structures, elements),
        data.targets[target.name][rows],
    )


def head_of(config: Mapping[str, Any]) -> str:
    """The head that the config asks for; `auto` is the one made for the target."""
    head = config["head"]
    return HEADS.get(config["target"], "invariant") if head == "auto" else head


@functools.lru_cache(maxsize=1)
def _qm9(cache: str | None) -> qm9.QM9:
    return qm9.load(cache)
