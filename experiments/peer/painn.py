"""PaiNN of SchNetPack on the molecules of a study, as long as a run of the study took.

    python -m venv peer && peer/bin/pip install schnetpack==2.1.1
    peer/bin/python experiments/peer/painn.py runs/study/peer/*.npz

Needs SchNetPack alone, nothing of ours, and `python -m experiments.peer` before. Trained as ours
is: L1 loss, the same batch size and edges, warm-up and cosine (by the clock, in place of steps),
clipped gradients, averaged weights. The clock is PaiNN's for training alone, where ours includes
compilation and the predictions of the report. It takes the cores it is given: where the study's
runs were held to one, so should this be.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np
import schnetpack
import torch
from schnetpack import properties

FEATURES, INTERACTIONS, GAUSSIANS = 64, 3, 20
RATE = 3e-3
"""Of 1e-3, 3e-3 and 1e-2 the best on validation after 40 s, for U0 and for gap."""
SEEDS = 3
WARMUP, CLIP, DECAY = 0.05, 1.0, 0.99


class Molecules:
    """One part of a file: batches of it as SchNetPack's inputs."""

    def __init__(self, file: Any, name: str):
        self.data = {
            key: file[f"{name}_{key}"]
            for key in ("atoms", "numbers", "positions", "edges", "receivers", "senders", "target")
        }

    def __len__(self) -> int:
        return len(self.data["target"])

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The molecules at these places."""
        data, parts, start = self.data, [], 0
        for k, row in enumerate(rows):
            atom = slice(*data["atoms"][row : row + 2])
            edge = slice(*data["edges"][row : row + 2])
            i, j, r = data["receivers"][edge], data["senders"][edge], data["positions"][atom]
            n = len(r)
            parts.append((data["numbers"][atom], r[j] - r[i], i + start, j + start, np.full(n, k)))
            start += n
        z, r_ij, i, j, owner = (
            torch.from_numpy(np.concatenate(p)) for p in zip(*parts, strict=True)
        )
        return {
            properties.Z: z.long(), properties.Rij: r_ij, properties.idx_i: i.long(),
            properties.idx_j: j.long(), properties.idx_m: owner.long(),
        }  # fmt: skip


class Model(torch.nn.Module):
    """PaiNN and a sum of atoms' numbers, which start near zero as ours do."""

    def __init__(self, cutoff: float):
        super().__init__()
        self.painn = schnetpack.representation.PaiNN(
            FEATURES,
            INTERACTIONS,
            schnetpack.nn.GaussianRBF(GAUSSIANS, cutoff),
            schnetpack.nn.CosineCutoff(cutoff),
        )
        self.head = schnetpack.atomistic.Atomwise(FEATURES)
        with torch.no_grad():
            list(self.head.parameters())[-2].mul_(0.03)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(self.painn(inputs))["y"]


def train(file: Any, seed: int) -> dict[str, float]:
    """One run: validation and test error in the target's unit, steps and seconds."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    parts = {name: Molecules(file, name) for name in ("train", "validation", "test")}
    model, seconds, size = Model(float(file["cutoff"])), float(file["seconds"]), file["batch_size"]
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )
    target = torch.from_numpy(parts["train"].data["target"]).float()
    began, steps, order = time.monotonic(), 0, np.empty(0, int)
    while (t := (time.monotonic() - began) / seconds) < 1:
        if len(order) < size:
            order = rng.permutation(len(parts["train"]))
        rows, order = order[:size], order[size:]
        optimizer.param_groups[0]["lr"] = RATE * min(
            t / WARMUP, 0.5 + 0.5 * math.cos(math.pi * max(t - WARMUP, 0) / (1 - WARMUP))
        )
        loss = (model(parts["train"].batch(rows)) - target[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        average.update_parameters(model)
        steps += 1
    found = {"seed": seed, "steps": steps, "seconds": time.monotonic() - began}
    return found | {
        name: error(average, parts[name]) * float(file["scale"]) for name in ("validation", "test")
    }


@torch.no_grad()
def error(model: torch.nn.Module, molecules: Molecules) -> float:
    """Mean absolute error, standardised."""
    out = [
        model(molecules.batch(rows))
        for rows in np.array_split(np.arange(len(molecules)), len(molecules) // 64 + 1)
    ]
    return float(np.abs(torch.cat(out).numpy() - molecules.data["target"]).mean())


def main() -> None:
    """The targets whose files are given; results in TARGET.json, what is there is not run again."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for path in map(pathlib.Path, sys.argv[1:]):
        out, runs, seconds = path.with_suffix(".json"), [], float(np.load(path)["seconds"])
        if out.exists() and json.loads(out.read_text())["budget"] == seconds:
            runs = json.loads(out.read_text())["runs"]
        for seed in range(SEEDS):
            if any(run["seed"] == seed for run in runs):
                continue
            runs.append(train(np.load(path), seed))
            print(path.stem, runs[-1], flush=True)
            model = {
                "name": f"PaiNN, SchNetPack {schnetpack.__version__}, F = {FEATURES}, "
                f"{INTERACTIONS} interactions",
                "parameters": sum(p.numel() for p in Model(5.0).parameters()),
                "budget": seconds,
                "finished": len(runs) == SEEDS,
                "runs": runs,
            }
            out.write_text(json.dumps(model, indent=1))


if __name__ == "__main__":
    main()
