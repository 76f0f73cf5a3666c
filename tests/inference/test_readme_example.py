"""The README's examples in Python, as they stand there; the one for ASE with a model of water."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from tblite.ase import TBLite

from experiments import train
from experiments.configs.ase import get_config

README = pathlib.Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
FRAMES = 200


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Water that swings, with energies and forces of GFN2-xTB."""
    shapes, rng = [], np.random.default_rng(0)
    for _ in range(FRAMES):
        water = molecule("H2O")
        water.positions += rng.normal(scale=0.05, size=(3, 3))
        water.calc = TBLite(method="GFN2-xTB", verbosity=0)
        energy, forces = water.get_potential_energy(), water.get_forces()
        water.calc = SinglePointCalculator(water, energy=energy, forces=forces)
        shapes.append(water)
    path = tmp_path_factory.mktemp("data") / "water.extxyz"
    ase.io.write(path, shapes)
    return path


# Four devices would take longer for so small a model.
@pytest.mark.usefixtures("one_device")
@pytest.mark.slow
def test_water_relaxes_to_its_bond_length(frames, tmp_path, monkeypatch, capsys):
    config = get_config("quick")
    config.data.path = str(frames)
    config.model.update(elements=(1, 8), layers=1, channels=16, n_gaussians=16, hidden=8)
    config.training.update(
        steps=300, batch_size=8, validate_every=300, first_validation=300, n_budgets=1, ema=0.98
    )
    config.optimizer.learning_rate = 1e-2
    train.run(json.loads(config.to_json()), tmp_path / "runs" / "forces")
    (example,) = (block for block in EXAMPLES if "HDGNNCalculator" in block)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(example, names)
    energy, length = map(float, capsys.readouterr().out.splitlines()[-1].split())
    # GFN2-xTB's own minimum.
    assert np.isfinite(energy)
    assert length == pytest.approx(0.959, abs=0.01)
    assert names["atoms"].get_angle(1, 0, 2) == pytest.approx(107.2, abs=4)


def test_examples_with_the_packages_weights_and_without_any(capsys):
    for example in EXAMPLES:
        if "HDGNNCalculator" not in example:
            exec(example, {})
    of_atoms, of_smiles, of_network = capsys.readouterr().out.splitlines()
    assert all(name in of_atoms for name in ("U0", "meV", "mu", "bohr^3"))
    # QM9 has 8.8 eV for ethanol and 6.8 for benzene.
    gaps = [float(word) for word in of_smiles.strip("[]").split()]
    np.testing.assert_allclose(gaps, (8800, 6800), rtol=0.1)
    assert np.isfinite(float(of_network))
