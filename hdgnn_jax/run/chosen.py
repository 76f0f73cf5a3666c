"""The targets that a config names, with their heads, references and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from hdgnn_jax.data.baselines import Composition, LinearFit, feature_sums
from hdgnn_jax.data.dataset import Dataset
from hdgnn_jax.data.datasets import dataset
from hdgnn_jax.data.fitted import FittedTarget
from hdgnn_jax.data.targets import Reference, Target, isolated_atoms, isotropic_part
from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.structure import SYMBOLS
from hdgnn_jax.models.heads import HEADS, Head
from hdgnn_jax.run.examples import Examples
from hdgnn_jax.types import Config


def targets_of(config: Config) -> list[Target]:
    """The targets that `config.target` names: one, several with commas between them, or `all`.

    Raises:
      InputError: for a name that the data set lacks, or one that comes twice.
    """
    data, names = dataset(config), [name.strip() for name in config["target"].split(",")]
    if names == ["all"]:
        names = list(data.all_targets)
    if len(set(names)) < len(names):
        raise InputError(f"config.target = {config['target']} names a target twice")
    if len(names) > 1 and config["head"] != "auto":
        raise InputError("config.head must be auto where config.target names several")
    return data.chosen(names)


def head_of(config: Config, target: Target) -> Head:
    """The head that the config asks for; `auto` is the one made for the target.

    Raises:
      InputError: where no head has that name, or it gives another kind of value.
    """
    head: Head | Literal["auto"] = config["head"]
    if head == "auto":
        return target.head
    if head not in HEADS:
        raise InputError(f"config.head must be auto or one of {', '.join(HEADS)}, not {head!r}")
    if (rank := HEADS[head].rank) != target.rank:
        kinds = ("a number", "a vector", "a tensor")
        raise InputError(
            f"{target.name} is {kinds[target.rank]} and config.head = {head} gives "
            f"{kinds[rank]}: leave it at auto"
        )
    return head


def has_reference(config: Config, target: Target) -> bool:
    """Whether a target's reference includes the linear model; see `Target.linear`."""
    wanted = config["data"].get("reference") == "linear" and target.linear
    return wanted and head_of(config, target) == "invariant"


def auxiliary(config: Config, fitted: Sequence[FittedTarget]) -> list[FittedTarget]:
    """The targets that the network learns a second time, less their composition baseline."""
    if not config["training"]["auxiliary"]:
        return []
    return [one for one in fitted if one.reference.linear]


def fit_targets(
    config: Config, data: Dataset, train: Examples
) -> tuple[tuple[FittedTarget, ...], dict[str, np.ndarray]]:
    """Fits references and baselines of all targets.

    Returns:
      The targets, and by name the parts from geometry, [n], of their linear fits; NaN where the
      target is unknown.

    Raises:
      InputError: for isolated atoms of other elements, or a target without any label.
    """
    chosen, model = targets_of(config), config["model"]
    # By the indices of the structures whose target is known.
    labelled: dict[bytes, tuple[np.ndarray, Examples]] = {}
    sums: dict[bytes, np.ndarray] = {}
    groups: dict[tuple[bytes, object], list[Target]] = {}
    for target in chosen:
        given, rows = data.atoms(target.name), train.labelled(target.name)
        if unknown := [SYMBOLS[z] for z in sorted(given) if z not in model["elements"]]:
            raise InputError(
                f"config.model.elements lacks {', '.join(unknown)}, of which the data have "
                "energies of isolated atoms"
            )
        if not len(rows):
            raise InputError(f"no training structure has a value of {target.name}")
        if (key := rows.tobytes()) not in labelled:
            labelled[key] = rows, train.take(rows)
        # Alike targets of the same structures share one linear fit, others its features.
        alike = target.size, tuple(sorted(given)), target.rank
        groups.setdefault((key, alike), []).append(target)
    found: dict[str, FittedTarget] = {}
    known: dict[str, np.ndarray] = {}
    for (key, _), group in groups.items():
        rows, some = labelled[key]
        if group[0].rank == 0 and key not in sums:
            at = some.structures, some.neighbors
            sums[key] = feature_sums(*at, model["elements"], model["cutoff"])
        for fitted, of_geometry in _fit_alike(config, data, group, some, sums.get(key)):
            found[fitted.name] = fitted
            known[fitted.name] = np.full(len(train), np.nan)
            known[fitted.name][rows] = of_geometry
    return tuple(found[target.name] for target in chosen), known


def _fit_alike(
    config: Config,
    data: Dataset,
    group: Sequence[Target],
    train: Examples,
    sums: np.ndarray | None,
) -> Iterator[tuple[FittedTarget, np.ndarray]]:
    """`fit_targets` for targets of one rank and size that are known for the same structures.

    `sums` are the `feature_sums` of these; other than scalars need none.

    Yields:
      Each target, and the part from geometry, [n], of its linear fit; 0 without one.
    """
    elements, structures = config["model"]["elements"], train.structures
    scalars = [isotropic_part(train.labels[t.name] * t.factor, t.rank) for t in group]
    given = [data.atoms(target.name) for target in group]
    fits: Sequence[LinearFit | None] = [None] * len(group)
    geometry = np.zeros((len(train), len(group)))
    if group[0].rank == 0:
        around = [
            isolated_atoms(target, elements, structures, of_one, atoms)
            for target, of_one, atoms in zip(group, scalars, given, strict=True)
        ]
        fits, geometry = LinearFit.fit(
            structures, train.neighbors, np.stack(scalars, 1), elements, config["model"]["cutoff"],
            group[0].size, around, sums,
        )  # fmt: skip
    columns = zip(group, scalars, given, fits, geometry.T, strict=True)
    for target, of_one, atoms, fit, of_geometry in columns:
        to_beat = dict(data.baselines(structures, of_one, elements))
        head, linear, left = head_of(config, target), None, train.labels[target.name]
        kind = None if data.reference == "linear" else data.reference
        if fit is not None:
            to_beat["linear"] = fit
            if has_reference(config, target):
                linear, left, kind = fit.linear, left - of_geometry / target.factor, "fitted"
                if config["training"]["auxiliary"] and "composition" not in to_beat:
                    # The auxiliary output learns what it leaves.
                    to_beat["composition"] = Composition.fit(structures, of_one, elements)
        reference = Reference.fit(
            target, elements, structures, left, kind=kind, given=atoms,
            centre=not HEADS[head].about_centre, linear=linear,
        )  # fmt: skip
        yield FittedTarget(target, head, reference, to_beat), of_geometry
