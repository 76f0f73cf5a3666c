"""A trained model as an ASE calculator."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress

from hdgnn_jax.data.ase_files import structure_of
from hdgnn_jax.graphs.structure import StructureError, Structures
from hdgnn_jax.inference.predictor import Predictor, PredictorError

NAME = "the structure"


class DomainWarning(UserWarning):
    """Atoms are unlike all, or most, that the model was trained on."""


class HDGNNCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and, for structures periodic in three directions, stress (eV/Å^3).

    Programs are compiled for sizes in steps of a quarter: while atoms move they are compiled anew
    only where the number of neighbours grows past a step, and then kept.

        atoms.calc = HDGNNCalculator("runs/quick")

    Forces of a model that was trained on energies alone come with a `DomainWarning`, too.

    With `evaluation_frame=8` forces of a model with a learned pathway are smoother under rotation,
    at 8 times the cost. If atoms leave what the model was trained on, as when two come nearer than
    any did in training, the calculator warns, once for each kind; with `strict` it stops. Of
    molecules that are as small as few in training it only warns.
    """

    # ASE declares it on the instance, so it is no ClassVar.
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        model: str | os.PathLike[str] | Predictor | None = None,
        evaluation_frame: int | None = None,
        strict: bool = False,
        repulsion: bool = True,
        dtype: Literal["float32", "float64"] = "float32",
        **options: object,
    ):
        """Loads the model.

        Args:
          model: folder of a run, or a predictor; None: the weights that come with the package,
            which were trained on QM9's relaxed molecules alone.
          evaluation_frame: see `Predictor.load`.
          strict: whether to raise a `StructureError` instead of a `DomainWarning`.
          repulsion: whether atoms that come nearer than in training repel each other as bare
            nuclei do (`models.repulsion`).
          dtype: type of all computation; `float64` for vibrations and phonons, whose differences
            of forces are small.
          **options: `label`, `atoms` and `directory` of ASE's `Calculator`.

        Raises:
          CheckpointError: where the run cannot be read.
          PredictorError: where the model predicts no energy, or for another dtype.
          TypeError: for another option, or several models.
        """
        if unknown := set(options) - {"restart", "label", "atoms", "directory"}:
            raise TypeError(f"HDGNNCalculator has no option {min(unknown)!r}")
        super().__init__(**options)  # type: ignore[no-untyped-call]  # ASE has no types
        if isinstance(model, (list, tuple)):
            raise TypeError("a calculator has one model: for several use ASE's AverageCalculator")
        if not isinstance(model, Predictor):
            model = Predictor.load(model)
        if evaluation_frame is not None:
            model = model.averaged(evaluation_frame)
        if dtype in ("float64", np.float64):
            model = model.in_float64()
        elif dtype not in ("float32", np.float32):
            raise PredictorError(f"dtype must be float32 or float64, not {dtype!r}")
        if not repulsion:
            model = dataclasses.replace(model, repulsive=False)
        model.energy_unit()  # raises before atoms move
        self.predictor, self.strict = model, strict
        self._warned: set[str] = set()

    def set(self, **options: object) -> dict[str, object]:
        """Of ASE; options are given when a calculator is made.

        Raises:
          TypeError: for any option.
        """
        if options:
            raise TypeError(f"give {min(options)} when the calculator is made")
        changed: dict[str, object] = super().set()  # type: ignore[no-untyped-call]  # ASE
        return changed

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """The changes since the last calculation; tags count too."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]  # ASE
        known: Any = self.atoms
        if known is not None and not np.array_equal(known.get_tags(), atoms.get_tags()):
            changes = [*changes, "tags"]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Computes all properties; see ASE.

        Raises:
          StructureError: where the model cannot use the atoms.

        Warns:
          DomainWarning: where the atoms are unlike all that the model was trained on.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]  # ASE
        own: Any = self.atoms
        structure = structure_of(own, NAME)
        try:
            graphs = self.predictor.prepare(Structures.pack([structure]))
        except StructureError as error:
            raise StructureError(error.reason, NAME) from error
        doubts = [structure.doubt] * bool(structure.doubt) + self.predictor.doubts(graphs)[0]
        rare = list(filter(None, self.predictor.rare_sizes(graphs)))
        self._warn(doubts, stacklevel=7, rare=rare)
        found = self.predictor.derivatives(graphs)
        energy = float(found.value[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": np.array(found.forces)}
        if own.pbc.all():
            stress = np.asarray(found.virial[0]) / own.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """A property of the atoms; see ASE.

        Raises:
          PropertyNotImplementedError: for the stress of atoms not periodic in three directions.

        Warns:
          DomainWarning: for forces and stress of a model that was trained on energies alone.
        """
        if name in ("forces", "stress"):
            self._warn(self.predictor.doubts_of_forces(), stacklevel=5)
        if name == "stress" and atoms is not None and not atoms.pbc.all():
            raise PropertyNotImplementedError(
                "stress is that of structures that are periodic in three directions"
            )
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]  # ASE

    def _warn(self, doubts: Sequence[str], stacklevel: int, rare: Sequence[str] = ()) -> None:
        """Warns, once for each kind, why a prediction is doubtful; raises if `strict`.

        Args:
          doubts: why it leaves what the model was trained on, in words.
          stacklevel: of `warnings.warn`, up to the line that calls `atoms.get_...`.
          rare: why larger errors are to be expected all the same. It stops nothing.
        """
        if self.strict and doubts:
            raise StructureError(f"leaves what the model was trained on: {doubts[0]}", NAME)
        for doubt in [*doubts, *rare]:
            # The distances in a doubt change with each step; its kind does not.
            kind = re.sub(r"[\d.]+", "", doubt)
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(doubt, DomainWarning, stacklevel=stacklevel)
