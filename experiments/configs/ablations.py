"""The variants that the paper compares (model.md, section 7), and one of ours.

    python -m experiments.train --config=experiments/configs/ablations.py:so2 --workdir=runs/so2

Each is `qm9.py:quick` with the fields of `VARIANTS` changed, and nothing else:
`--config.training.steps=300` and the like set the rest. Tables are the paper's.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs import qm9

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    # Table 3: what the non-equivariant terms are worth.
    "linear": {"pathway": "linear"},
    "fully_tp": {"pathway": "none", "tensor_product": "fully_connected"},
    "unrestricted": {"pathway": "unrestricted", "tensor_product": "none"},
    # Table 4: attention; baseline has `sigmoid`.
    "softmax": {"attention": "softmax"},
    "equal_weights": {"attention": (0.25, 0.25, 0.25, 0.25)},
    "learned_weights": {"attention": (0.3, 0.3, 0.3, 0.1)},
    # Table 5: parts of the learned pathway.
    "no_layer_norm": {"layer_norm": False},
    "extra_linear": {"extra_linear": True},
    "unshared_mlp": {"pathway": "unshared"},
    "nn_of_rotated": {"pathway": "nn_of_rotated"},
    # Appendix E: one part left out.
    "no_metp": {"tensor_product": "none"},
    "no_invariant_branch": {"invariant_branch": False},
    "mmax_full": {"m_max": 2},
    # Ours: the learned pathway exactly equivariant.
    "so2": {"pathway": "so2"},
}


def get_config(variant: str = "baseline") -> ConfigDict:
    """`qm9.py:quick` with one variant's fields."""
    if variant not in VARIANTS:
        raise ValueError(f"ablations.py has {', '.join(VARIANTS)}, not {variant!r}")
    config = qm9.get_config("quick")
    for name, value in VARIANTS[variant].items():
        config.model[name] = value
    return config
