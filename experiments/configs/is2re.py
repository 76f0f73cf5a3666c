"""OC20 IS2RE: the relaxed energy of an adsorbate on a slab, from its initial structure.

    python -m experiments.prepare is2re --source=DIR
    python -m experiments.train --config=experiments/configs/is2re.py --workdir=runs/is2re

trains at the authors' scale. `is2re.py:shells` sees the nearest 12 neighbours at L = 6 and the
others, up to 40, at L = 4 with smaller networks, as their published run does. `is2re.py:quick` is
for the stand-in data alone, slabs of seven metals made by `python -m experiments.prepare slabs`, on
which it trains in ten minutes on two cores; it knows none of OC20's other elements.

The authors' (`hdgnn_jax/models/README.md`, section 9): K, C, H, L, m_max, L', C0, B, Gaussians,
cutoff, number of neighbours, shells, AdamW with amsgrad, rate, drops, batch, epochs, EMA, clip. As
in `qm9.py`: the rest of the model (`ablations.py` tells how theirs departs), warm-up, weight decay.
Ours: tags, validation systems held out of training, and every choice of `quick`.
"""

from ml_collections import ConfigDict

from experiments.configs import qm9
from hdgnn_jax.errors import InputError

SYSTEMS = 460_328
"""Number of systems in OC20's training part."""


def get_config(variant: str = "full") -> ConfigDict:
    """`full` (the authors' scale), `shells` (two shells) or `quick` (the stand-in data)."""
    if variant not in ("full", "shells", "quick"):
        raise InputError(f"is2re.py has the variants full, shells and quick, not {variant!r}")
    config = qm9.get_config("quick" if variant == "quick" else "full")
    config.target = "relaxed_energy"

    del config.data.split, config.data.positions
    config.data.set = "is2re"
    config.data.name = "oc20"
    config.data.validation_size = 4_000
    config.training.validation_size = config.data.get_ref("validation_size")

    config.model.elements = tuple(range(1, 91))
    config.model.tags = True
    config.model.max_neighbors = 40
    if variant == "quick":
        _quick(config)
        return config
    config.model.cutoff = 8.0
    config.model.degree = 6
    config.model.layers = 16
    config.model.channels = 128
    config.model.hidden = 512
    config.model.edge_channels = 128
    config.model.invariant_channels = 256
    config.model.n_gaussians = 400
    config.model.tensor_product = "metp"
    config.model.remat = True
    if variant == "shells":
        config.model.near_neighbors = 12
        config.model.far_degree = 4
        config.model.far_hidden = 128

    epoch = (SYSTEMS - config.data.validation_size) // 56
    config.optimizer.learning_rate = 4e-4
    config.optimizer.amsgrad = True
    config.optimizer.drops = (0.5, 0.7, 0.8, 0.9)
    config.optimizer.clip = 100.0
    config.training.batch_size = 56
    config.training.steps = 20 * epoch
    config.training.validate_every = epoch
    config.training.n_budgets = 2
    return config


def _quick(config: ConfigDict) -> None:
    """The stand-in data; the network of `qm9.py:quick`.

    Validation errors, 200 systems, single runs unless said. Atoms of the bulk see no neighbours: a
    step takes 73 instead of 134 ms, side by side on a core each, and 2,000 steps end at 201.9 meV
    instead of 203.4, 4,000 at 194.0. With the energy of the initial positions as a second target:
    168.4; three seeds 174.6, and 176.3 with fourteen points on the sphere in place of six.
    Turned slabs are then off by 9 to 11 instead of 65 to 174 meV. The weights that are kept have
    the least mean error of both targets. `--config.target=relaxed_energy` has one, as
    `experiments.search` and `--config.head` need.

    Undecided: the atoms' ways to their relaxed positions as a third target (167.2; it begins
    slower). Without effect: seven more copies of each system with the adsorbate moved by 0.1 Å
    (190.7); the same with half of them part of the way to their relaxed positions (191.4). Relaxed
    positions as further examples were worse (211 for 198 to 202). A linear model alone is 2.5 eV
    off on catalysts that were not trained on (`ood_cat`).
    """
    config.target = "relaxed_energy,initial_energy"
    config.data.name = "slabs"
    config.data.validation_size = 200
    config.data.train_size = None
    config.data.reference = None
    config.training.auxiliary = False
    config.model.elements = (13, 28, 29, 46, 47, 78, 79)
    config.model.cutoff = 6.0
    config.model.max_neighbors = 12
    config.model.neighborhood = "surface"
    config.model.sphere_order = 5
    config.training.steps = 4000
    config.training.validate_every = 1000
