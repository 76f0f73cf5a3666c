"""Trains PaiNN or SchNet of SchNetPack for a given time; `python -m experiments.peer` calls it.

    python schnetpack_models.py MOLECULES.npz TASK
    python schnetpack_models.py

It needs SchNetPack but nothing of ours, so it may run in an environment of its own. TASK is a JSON
object: `model` (painn, schnet), `seed`, `seconds`, `rate`, `batch_size`, `validations` (their
number, including the one at the end) and `test` (whether to predict the test split).
It prints a JSON object per line: its progress (`seconds`, `molecules`), with `validation` after a
validation, and the results last. Without arguments it prints versions.

Training is like ours: L1 loss, warm-up and cosine (by the clock, not by steps), clipped gradients,
averaged weights; the weights that are best on validation count. Validation does not count as
training time. It uses the cores it is given.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from typing import Any, TypeAlias

import numpy as np
import schnetpack
import torch
from schnetpack import properties
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Json: TypeAlias = dict[str, Any]

FEATURES, INTERACTIONS = 64, 3
GAUSSIANS = {"painn": 20, "schnet": 50}
REPRESENTATIONS = {
    "painn": schnetpack.representation.PaiNN,
    "schnet": schnetpack.representation.SchNet,
}
WARMUP, CLIP, DECAY, WEIGHT_DECAY = 0.05, 1.0, 0.99, 1e-4
EVERY = 0.5
"""Seconds between two lines of progress."""


class Molecules:
    """One part of the file; makes batches in SchNetPack's format.

    Molecule k has atoms `atoms[k]` to `atoms[k + 1]` and edges `edges[k]` to `edges[k + 1]`;
    `positions` and, for periodic structures, the senders' `shifts` are in Å.
    """

    def __init__(self, file: Any, name: str):
        self.data = {
            key.removeprefix(f"{name}_"): file[key] for key in file if key.startswith(f"{name}_")
        }

    def __len__(self) -> int:
        return len(self.data["target"])

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The batch of the molecules at these indices."""
        data, parts, start = self.data, [], 0
        for k, row in enumerate(rows):
            atom = slice(*data["atoms"][row : row + 2])
            edge = slice(*data["edges"][row : row + 2])
            i, j, r = data["receivers"][edge], data["senders"][edge], data["positions"][atom]
            vectors = r[j] - r[i]
            if "shifts" in data:
                vectors = vectors + data["shifts"][edge]
            n = len(r)
            parts.append((data["numbers"][atom], vectors, i + start, j + start, np.full(n, k)))
            start += n
        z, r_ij, i, j, owner = (
            torch.from_numpy(np.concatenate(p)) for p in zip(*parts, strict=True)
        )
        return {
            properties.Z: z.long(), properties.Rij: r_ij, properties.idx_i: i.long(),
            properties.idx_j: j.long(), properties.idx_m: owner.long(),
        }  # fmt: skip


class Model(torch.nn.Module):
    """A representation and a sum over atoms, whose terms start near zero, as ours do."""

    def __init__(self, name: str, cutoff: float):
        super().__init__()
        self.representation = REPRESENTATIONS[name](
            FEATURES,
            INTERACTIONS,
            schnetpack.nn.GaussianRBF(GAUSSIANS[name], cutoff),
            schnetpack.nn.CosineCutoff(cutoff),
        )
        self.head = schnetpack.atomistic.Atomwise(FEATURES)
        with torch.no_grad():
            list(self.head.parameters())[-2].mul_(0.03)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """[molecules] standardised targets."""
        return self.head(self.representation(inputs))["y"]


def say(**content: object) -> None:
    """Prints a line of JSON; numbers that are not finite become null."""
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()
    }
    print(json.dumps(finite), flush=True)


def train(file: Any, task: Json) -> None:
    """Trains one model; errors are printed in the target's unit."""
    torch.manual_seed(task["seed"])
    rng = np.random.default_rng(task["seed"])
    molecules, validation = Molecules(file, "train"), Molecules(file, "validation")
    model, scale = Model(task["model"], float(file["cutoff"])), float(file["scale"])
    seconds, rate, size = task["seconds"], task["rate"], min(task["batch_size"], len(molecules))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    target = torch.from_numpy(molecules.data["target"]).float()
    least, best = math.inf, average.state_dict()
    steps, validations, said, order = 0, 0, 0.0, np.empty(0, int)
    began, paused = time.monotonic(), 0.0
    while True:
        now = time.monotonic() - began - paused
        t = now / seconds
        if t >= 1 or int(t * task["validations"]) > validations:
            validations = int(t * task["validations"])
            mae = error(average, validation) * scale
            if mae < least:
                least, best = mae, copy.deepcopy(average.state_dict())
            say(seconds=now, molecules=steps * size, validation=mae)
            paused = time.monotonic() - began - now
            if t >= 1:
                break
        elif now >= said + EVERY:
            said = now
            say(seconds=now, molecules=steps * size)
        if len(order) < size:
            order = rng.permutation(len(molecules))
        rows, order = order[:size], order[size:]
        optimizer.param_groups[0]["lr"] = rate * rate_at(t)
        loss = (model(molecules.batch(rows)) - target[rows]).abs().mean()
        if update(model, optimizer, loss):
            average.update_parameters(model)
        steps += 1
    tested = {}
    if task["test"]:
        average.load_state_dict(best)
        tested = {"test": error(average, Molecules(file, "test")) * scale}
    say(
        found=True,
        parameters=sum(p.numel() for p in model.parameters()),
        steps=steps,
        molecules=steps * size,
        seconds=now,
        validation=least,
        size=f"F = {FEATURES}, {INTERACTIONS} interactions, {GAUSSIANS[task['model']]} Gaussians",
        **tested,
    )


def rate_at(t: float) -> float:
    """The learning rate after a share t of the time, as a share of the highest."""
    return min(t / WARMUP, 0.5 + 0.5 * math.cos(math.pi * max(t - WARMUP, 0) / (1 - WARMUP)))


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> bool:
    """Takes a step unless the gradient is not finite; returns whether it did."""
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    return finite


@torch.no_grad()
def error(model: torch.nn.Module, molecules: Molecules) -> float:
    """The mean absolute error, standardised."""
    out = [
        model(molecules.batch(rows))
        for rows in np.array_split(np.arange(len(molecules)), len(molecules) // 64 + 1)
    ]
    return float(np.abs(torch.cat(out).numpy() - molecules.data["target"]).mean())


def main() -> None:
    """The program."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if len(sys.argv) == 1:
        say(schnetpack=schnetpack.__version__, torch=torch.__version__)
        return
    path, task = sys.argv[1:]
    with np.load(path) as file:
        # As a dictionary: an NpzFile reads an array again at each access.
        train(dict(file), json.loads(task))


if __name__ == "__main__":
    main()
