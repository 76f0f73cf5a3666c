"""The variants that the paper compares (models/README.md, section 7), `so2`, and the dial, ours.

    python -m experiments.train --config=experiments/configs/ablations.py:so2 --workdir=runs/so2

Each is `qm9.py:quick` with the fields of `BASELINE`, which make it the paper's network, then those
of `VARIANTS`, and nothing else; `--config.training.steps=300` and the like set the rest. Tables are
the paper's.

`released` has the authors' latitude-longitude grid, a SiLU behind each edge network, sums that are
not rescaled, no envelope, no residual sum, no lambda term in the head, and five sigmoid gates, the
fifth for one channel of all degrees. Other departures of their code are left as in `baseline`,
because a config does not reach them or no user would want them: rolls drawn anew in evaluation
(predictions would not repeat) and rotations without gradient (forces would be wrong); a plain sum
over neighbours and x / sqrt(3) before messages; ReLU and a quarter of the width in the
attention; a1 on the sender and a2 on the receiver (names alone, as long as they share NN1); c_ij
apart for NN1 and NN2; reduction 16 and an unweighted mean in squeeze-and-excitation; the
embedding's extra layer and its start within 0.001; 128 spiral points in the head; the antipode's
sign, which is wrong there for odd L; two shells of neighbours, which are for IS2RE.
"""

from ml_collections import ConfigDict

from experiments.configs import qm9
from hdgnn_jax.errors import InputError
from hdgnn_jax.types import Json

BASELINE: Json = {
    "degree": 2,
    "channels": 16,
    "hidden": 32,
    "invariant_channels": 32,
    "pathway": "edge_networks",
    "tensor_product": "metp",
    "product_degree": 2,
    "attention": "sigmoid",
    "invariant_branch": True,
    "update_channels": 32,
    "squeeze_excite": True,
    "sphere_order": 7,
}
"""The paper's network at a size for two cores."""

VARIANTS: dict[str, Json] = {
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
    # The authors' published code where it departs from the paper, except as said at the top.
    "released": {
        "sphere_rule": "product",
        "sphere_order": None,
        "envelope": False,
        "residual": False,
        "rescale": False,
        "last_silu": True,
        "invariant_weight": 0.0,
        "full_product": True,
    },
    # Ours: the learned pathway exactly equivariant.
    "so2": {"pathway": "so2"},
}

DIAL: dict[str, Json] = {
    f"dial_{share}": {"attention": (*(share / 300,) * 3, 1 - share / 100)}
    for share in (0, 25, 50, 75, 100)
}
"""Ours: a fixed share of the weights of eq. 11, in percent, for the learned terms together."""


def get_config(variant: str = "baseline") -> ConfigDict:
    """`qm9.py:quick` with the paper's network and one variant's fields."""
    return vary(qm9.get_config("quick"), variant)


def vary(config: ConfigDict, variant: str) -> ConfigDict:
    """Gives a config the paper's network and one variant's fields; returns it."""
    variants = VARIANTS | DIAL
    if variant not in variants:
        raise InputError(f"ablations.py has {', '.join(variants)}, not {variant!r}")
    for name, value in {**BASELINE, **variants[variant]}.items():
        config.model[name] = value
    return config
