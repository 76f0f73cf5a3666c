"""Predicts rows: puts numbers, warnings and forces into them, and relaxes them first if asked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from hdgnn_jax.errors import InputError
from hdgnn_jax.graphs.neighbors import Neighborhoods
from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.inference.ensemble import predict_all
from hdgnn_jax.inference.predictor import Advance, Predictor
from hdgnn_jax.inference.relaxation import relax
from hdgnn_jax.inference.rows import Row, quantity


@dataclasses.dataclass(frozen=True)
class Options:
    """What to predict; the flags of `experiments.predict` explain them."""

    forces: bool = False
    rolls: int = 1
    conformers: int = 1
    relax: bool = False
    fmax: float = 0.05
    relax_steps: int = 200
    unit: str | None = None

    def __post_init__(self) -> None:
        for name in ("rolls", "conformers", "fmax", "relax_steps"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")


DEFAULTS = Options()


def predict_rows(
    rows: Sequence[Row],
    runs: Sequence[tuple[str, Predictor]],
    options: Options,
    advance: Advance,
) -> None:
    """Puts predictions into rows, or the reasons why there are none.

    Args:
      rows: rows with structures, or with a reason.
      runs: models, each after the folder of its run.
      options: what to predict.
      advance: told the number of structures after each batch (a progress bar).
    """
    good = [row for row in rows if row.reason is None]
    prepared = prepare(good, runs)
    good = [row for row in good if row.reason is None]
    if good and options.relax:
        of_energy = next(predictor for _, predictor in runs if predictor.has_forces)
        relax_rows(good, of_energy, options, advance)
        good = [row for row in good if row.reason is None]
        prepared = prepare(good, runs)
        good = [row for row in good if row.reason is None]
    if good:
        models = (predictor for _, predictor in runs)
        fill(good, list(zip(models, prepared, strict=True)), options, advance)


def prepare(rows: Sequence[Row], runs: Sequence[tuple[str, Predictor]]) -> list[Neighborhoods]:
    """The structures of all rows that every model can use, as each model prepares them.

    Rows with other structures get the reason.

    Args:
      rows: without a reason yet.
      runs: models, each after the folder of its run.
    """
    for row in rows:
        try:
            for structure in row.structures:
                structure.check_shapes()
        except StructureError as error:
            row.reason = error.reason
    rows = [row for row in rows if row.reason is None]
    if not rows:
        return []
    packed = Structures.pack(s for row in rows for s in row.structures)
    owners = np.repeat(np.arange(len(rows)), [len(row.structures) for row in rows])
    prepared, kept = [], []
    for workdir, predictor in runs:
        graphs, reasons = predictor.usable(packed)
        for place, reason in reasons.items():
            row = rows[owners[place]]
            row.reason = row.reason or (reason if len(runs) == 1 else f"{reason} ({workdir})")
        prepared.append(graphs)
        kept.append(np.setdiff1d(np.arange(len(packed)), list(reasons)))
    good = np.flatnonzero([rows[k].reason is None for k in owners])
    return [
        graphs.take(np.flatnonzero(np.isin(own, good)))
        for graphs, own in zip(prepared, kept, strict=True)
    ]


def fill(
    rows: Sequence[Row],
    prepared: Sequence[tuple[Predictor, Neighborhoods]],
    options: Options,
    advance: Advance,
) -> None:
    """Puts predictions, warnings and forces into rows that can be predicted.

    Args:
      rows: rows whose structures all models have prepared.
      prepared: models, each with its structures from `prepare`.
      options: what to predict.
      advance: told the number of structures after each batch (a progress bar).
    """
    counts = [len(row.structures) for row in rows]
    first = np.cumsum(counts) - counts
    chosen = [(predictor, graphs.take(first)) for predictor, graphs in prepared]
    warnings = [predictor.warnings(graphs) for predictor, graphs in chosen]
    moving = [p for p, _ in prepared if p.has_forces and (options.forces or options.relax)]
    of_forces = [doubt for predictor in moving for doubt in predictor.doubts_of_forces()]
    for row, texts in zip(rows, zip(*warnings, strict=True), strict=True):
        doubts = dict.fromkeys([*of_forces, row.structures[0].doubt, *texts])
        row.warning = "; ".join(filter(None, doubts))
    potentials = {p.energy().name for p, _ in prepared if p.has_forces}
    for target, found in predict_all(prepared, options.rolls, advance).items():
        # A structure has one energy; with several potentials none of them counts as it.
        is_energy = potentials == {target}
        errors = [p.errors[target] for p, _ in prepared if p.errors.get(target)]
        said = functools.partial(quantity, own=found.unit, error=min(errors, default=None))
        unit = options.unit or ("eV" if options.forces else None)
        for row, k, count in zip(rows, first, counts, strict=True):
            row.quantities.append(said(target, found.value[k], unit=unit))
            if is_energy:
                row.energy = said(target, found.value[k], unit="eV").rounded.item()
            if found.spread is not None:
                name = f"{target} spread over {found.of}"
                row.quantities.append(said(name, found.spread[k], unit=unit))
            if count > 1:
                name, values = f"{target} spread over conformers", found.value[k : k + count]
                row.quantities.append(said(name, values.std(0, ddof=1), unit=unit))
    if options.forces:
        predictor, graphs = next(pair for pair in chosen if pair[0].has_forces)
        forces = np.asarray(predictor.derivatives(graphs, advance).forces)
        for row, of_row in zip(
            rows, np.split(forces, graphs.structures.offsets[1:-1]), strict=True
        ):
            # Further digits are noise of float32.
            row.forces = np.round(of_row, 6)


def relax_rows(
    rows: Sequence[Row],
    predictor: Predictor,
    options: Options,
    advance: Advance,
) -> None:
    """Puts relaxed structures into rows, or reasons where one could not be followed."""
    packed = Structures.pack(s for row in rows for s in row.structures)
    relaxed = relax(predictor, packed, options.fmax, options.relax_steps, advance)
    start = 0
    for row in rows:
        places = range(start, start + len(row.structures))
        start += len(row.structures)
        reasons = [relaxed.reasons[k] for k in places if relaxed.reasons[k]]
        if reasons:
            row.reason = f"on the way to a minimum it {reasons[0]}"
            continue
        row.structures = [
            dataclasses.replace(was, positions=relaxed.structures[k].positions)
            for k, was in zip(places, row.structures, strict=True)
        ]
        row.converged = bool(relaxed.converged[places[0]])
        how = "relaxed" if row.converged else "NOT yet relaxed"
        steps = int(relaxed.steps[places[0]])
        said = f"{how} after {steps} step{'s' * (steps != 1)} of FIRE"
        row.geometry = f"{row.geometry}; {said}" if row.geometry else said
