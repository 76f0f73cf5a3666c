"""AdamW with warm-up, cosine decay and gradient clipping."""

from __future__ import annotations

import optax


def make_optimizer(
    *,
    steps: int,
    learning_rate: float,
    warmup: float,
    final: float = 0.0,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """The optimiser of a run.

    Args:
      steps: of the whole run.
      learning_rate: at the top.
      warmup: share of the steps that the linear warm-up takes.
      final: share of `learning_rate` left at the end of the cosine.
      weight_decay: of AdamW.
      clip: largest norm of the whole gradient.
      b1, b2: of Adam.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=max(1, round(warmup * steps)),
        decay_steps=steps,
        end_value=final * learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay),
    )
