"""Energies and forces, or dipole moments, of structures in a file that ASE reads.

    python -m experiments.prepare molecules
    python -m experiments.train --config=experiments/configs/ase.py:quick --workdir=runs/forces

trains in ten minutes on two cores, on molecules in motion made by the first command;
`--config.data.path=FILE.extxyz` takes a file of yours, with `config.model.elements` as it needs.
`--config.target=dipole --config.training.forces_weight=0` learns its dipole moments. `ase.py` alone
is at the scale of `qm9.py`.

`training.forces_weight` is the weight of an error of forces relative to one of energies, both
divided by the standard deviation of the energies. `training.stress_weight` is that of the stress
times the volume, per atom; it is 0, since molecules have no stress. All choices here are
ours: the paper has no forces.
"""

from ml_collections import ConfigDict, config_dict

from experiments.configs import qm9
from hdgnn_jax.errors import InputError


def get_config(variant: str = "full") -> ConfigDict:
    """`full` (for accelerators) or `quick` (ten minutes on two cores)."""
    if variant not in ("full", "quick"):
        raise InputError(f"ase.py has the variants full and quick, not {variant!r}")
    config = qm9.get_config(variant)
    config.target = "energy"
    config.data = ConfigDict()
    config.data.set = "ase"
    config.data.path = config_dict.placeholder(str)  # None: molecules made here
    config.data.validation_path = config_dict.placeholder(str)  # None: held out of that file
    config.data.test_path = config_dict.placeholder(str)
    config.data.held_out = 0.1
    config.data.split = "blocks"  # of neighbouring frames, where the file has no groups; or random
    config.data.train_size = config_dict.placeholder(int)  # None: all that are not held out
    config.data.reference = config_dict.placeholder(str)  # None: the default of the target
    config.data.energy_unit = "eV"  # or meV, Ha, Ry, kcal/mol, kJ/mol
    config.data.length_unit = "Å"  # or bohr, nm, pm; forces are in energy_unit / length_unit
    config.data.energy_key = config_dict.placeholder(str)  # None: as ASE's calculators store them
    config.data.forces_key = config_dict.placeholder(str)
    config.data.stress_key = config_dict.placeholder(str)
    config.data.dipole_key = config_dict.placeholder(str)
    config.data.atom_energies = config_dict.placeholder(str)  # of isolated atoms: H=-13.6,C=-1029.8
    config.data.cache = config_dict.placeholder(str)  # None: ~/.cache/hdgnn_jax
    # In training too: frames drawn at each step would have forces of their own.
    config.model.frame = "canonical"
    # With 1, energies of `quick` are a fifth and forces half worse; with 16, energies are worse.
    config.training.forces_weight = 4.0
    config.training.auxiliary = False
    if variant == "quick":
        # Forces turn with the molecule: more points of the sphere than energies alone need.
        config.model.sphere_order = 5
        config.optimizer.learning_rate = 2e-3
        config.training.batch_size = 8
        config.training.steps = 3_000
        config.training.validate_every = 1_500
    return config
