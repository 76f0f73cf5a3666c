"""Turns QM9's polarizability tensors into the frame of its positions.

The tensors are in Gaussian's standard orientation, the positions are not. The axes of that
orientation are the principal axes of nuclear charge. Their signs leave four candidates, which
differ by half turns. Gaussian's documented rule (the third moment of charge is positive along y and
z) fails for a sixth of the molecules, most likely since it was applied to a geometry before the
last optimisation. So a model of the tensor, a sum over pairs of atoms that is fitted on the way,
chooses the half turn, and the rule is a second witness. Molecules without a clear choice are left
out.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from hdgnn_jax.graphs.covalent import COVALENT_RADII
from hdgnn_jax.graphs.structure import Structures

SIGNS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
"""Signs of the axes x, y, z for the four half turns. (An inversion does not change a tensor.)"""
OFF_DIAGONAL = ([0, 0, 1], [1, 2, 2])
FLIPS = SIGNS[:, OFF_DIAGONAL[0]] * SIGNS[:, OFF_DIAGONAL[1]]
"""[4, 3] signs that the half turns give to the components xy, xz, yz."""
ROUNDED = 0.0015
"""bohr^3. Smaller components count as 0, since the tensors have three decimals."""

SURE = 0.95
"""Molecules whose half turn is less certain than this are left out."""
SMALLEST_GAP = 0.005
"""Below this difference of two moments over the sum of all, the axes are not certain."""
LARGEST_RESIDUAL = 6.0
"""bohr^3. Molecules with a larger residual of the model are left out: something else is wrong."""

TYPES = {1: (0, 1, 1), 6: (1, 2, 4), 7: (4, 1, 3), 8: (7, 1, 2), 9: (9, 1, 1)}
"""For each element: its first atom type, and the fewest and most neighbours with own types."""
N_TYPES = 10
PAIR = np.zeros((N_TYPES, N_TYPES), int)
"""The number of the kind of each pair of atom types."""
for _kind, (_a, _b) in enumerate(itertools.combinations_with_replacement(range(N_TYPES), 2)):
    PAIR[_a, _b] = PAIR[_b, _a] = _kind
N_PAIRS = int(PAIR.max()) + 1


class Frames(NamedTuple):
    """Candidates for the standard orientation.

    Attributes:
      rotations: [n, 4, 3, 3] R with alpha_standard = R alpha_positions R^T; the first follows the
        rule.
      gap: [n] smallest difference of two moments, over the sum of all three.
      third: [n, 3] third moments of charge along the first candidate's axes.
    """

    rotations: np.ndarray
    gap: np.ndarray
    third: np.ndarray


def frames(structures: Structures) -> Frames:
    """The candidates, computed from the nuclei; moments descend from x to z."""
    n, most = len(structures), int(structures.n_atoms.max())
    there = np.arange(most) < structures.n_atoms[:, None]
    charge, x = np.zeros((n, most, 1)), np.zeros((n, most, 3))
    charge[there, 0], x[there] = structures.atomic_numbers, structures.positions
    x -= (charge * x).sum(1, keepdims=True) / charge.sum(1, keepdims=True)
    moments, axes = np.linalg.eigh(np.swapaxes(charge * x, 1, 2) @ x)
    moments, axes = moments[:, ::-1], np.swapaxes(axes, 1, 2)[:, ::-1]

    def third(axes: np.ndarray) -> np.ndarray:
        thirds: np.ndarray = (charge * (x @ np.swapaxes(axes, 1, 2)) ** 3).sum(1)
        return thirds

    y, z = (np.where(third(axes)[:, a, None] < 0, -1, 1) * axes[:, a] for a in (1, 2))
    axes = np.stack([np.cross(y, z), y, z], 1)
    gap = -np.diff(moments, axis=1).max(1) / moments.sum(1)
    return Frames(SIGNS[:, :, None] * axes[:, None], gap, third(axes))


def in_frame_of_positions(
    structures: Structures, tensors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """QM9's tensors, turned into the frame of the positions.

    Args:
      structures: enough molecules to fit 285 coefficients.
      tensors: [n, 3, 3] in the standard orientation, bohr^3.

    Returns:
      [n, 3, 3] turned tensors, NaN where the turn is not certain; [n] the certainty.
    """
    candidates = frames(structures)
    fit, choice = _fit(candidates.rotations, tensors, _features(structures))
    # In the axes of the first candidate, the four differ only in signs off the diagonal.
    first = candidates.rotations[:, 0]
    model = first @ _matrices(fit) @ np.swapaxes(first, 1, 2)
    deviation = _traceless(tensors)
    off, model_off = (t[:, OFF_DIAGONAL[0], OFF_DIAGONAL[1]] for t in (deviation, model))
    misfit = np.abs(off * FLIPS[choice] - model_off)
    generic = (np.abs(off) > ROUNDED).all(1)
    typical = np.median(misfit[generic]) / 0.6745
    # The model's error on the diagonal, which does not depend on the choice, counts too.
    diagonal = np.einsum("nii->ni", model - deviation)
    variance = (4 * typical**2 + (diagonal**2).sum(1)) / 6
    log = 1.5 * (off * model_off) @ FLIPS.T / variance[:, None]
    obeys = np.log1p(np.array([1, 2]) * np.abs(candidates.third[:, 1:]))
    log += np.where(generic[:, None], obeys @ (SIGNS[:, 1:] > 0).T, 0)
    probability = np.exp(log - log.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    choice = probability.argmax(1)
    # Candidates with nearly the same tensor count as one.
    apart = np.sqrt(2 * ((off[:, None] * (FLIPS - FLIPS[choice][:, None])) ** 2).sum(2)) / 3
    certainty = np.where(apart < 0.1, probability, 0).sum(1)

    rotation = candidates.rotations[np.arange(len(choice)), choice]
    turned = np.swapaxes(rotation, 1, 2) @ tensors @ rotation
    residual = np.linalg.norm(_matrices(fit) - _traceless(turned), axis=(1, 2)) / 3
    good = (certainty > SURE) & (candidates.gap >= SMALLEST_GAP) & (residual < LARGEST_RESIDUAL)
    # For a diagonal tensor, the point group has a rule of its own for the axes.
    good &= (np.abs(off) > ROUNDED).any(1)
    return np.where(good[:, None, None], turned, np.nan), certainty


def _fit(
    rotations: np.ndarray, tensors: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The model's tensors [n, 6] and the nearest candidates [n], fitted in turn to each other."""
    n, _, width = features.shape
    targets = np.empty((n, 4, 6))
    parts = [slice(k, k + 10_000) for k in range(0, n, 10_000)]
    for part in parts:
        turned = np.swapaxes(rotations[part], -1, -2) @ _traceless(tensors[part])[:, None]
        targets[part] = _six(turned @ rotations[part])
    weight = np.sqrt([1, 1, 1, 2, 2, 2])
    chosen = targets.mean(1)
    for _ in range(4):
        gram, right = np.eye(width) * 3, np.zeros(width)
        for part in parts:
            rows = (features[part] * weight[:, None]).reshape(-1, width).astype(float)
            gram += rows.T @ rows
            right += rows.T @ (chosen[part] * weight).ravel()
        coefficients = np.linalg.solve(gram, right)
        fit = features @ coefficients
        choice = ((targets - fit[:, None]) ** 2 @ weight**2).argmin(1)
        chosen = targets[np.arange(n), choice]
    return fit, choice


def _features(structures: Structures) -> np.ndarray:
    """[n, 6, 285] float32: sums of traceless v v^T over the pairs of each kind of atom types.

    The sums are over bonds; bonds, weighted by how far they are stretched; 1-3 pairs; normals of
    the planes of angles; all farther pairs, weighted by r^-3; and 1-4 pairs.
    """
    numbers, x, n = structures.atomic_numbers, structures.positions, len(structures)
    molecule = np.repeat(np.arange(n), structures.n_atoms)
    blocks: list[np.ndarray] = []

    def add(
        at: np.ndarray, kind: np.ndarray, v: np.ndarray, weight: np.ndarray, n_kinds: int = N_PAIRS
    ) -> None:
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        entries = _six(v[:, :, None] * v[:, None] - np.eye(3) / 3) * weight[:, None]
        cells = molecule[at] * n_kinds + kind
        sums = [np.bincount(cells, e, n * n_kinds).reshape(n, n_kinds) for e in entries.T]
        blocks.append(np.stack(sums, 1).astype(np.float32))

    i, j = _all_pairs(structures)
    r = np.linalg.norm(x[j] - x[i], axis=1)
    radius = COVALENT_RADII[numbers]
    bonded = r < 1.25 * (radius[i] + radius[j])
    bi, bj = i[bonded], j[bonded]
    degree = np.bincount(np.concatenate([bi, bj]), minlength=len(numbers))
    first, low, high = np.array([TYPES.get(z, (0, 0, 0)) for z in range(10)])[numbers].T
    types = first + np.clip(degree, low, high) - low

    kind = PAIR[types[bi], types[bj]]
    length = r[bonded]
    mean = np.bincount(kind, length, N_PAIRS) / np.maximum(np.bincount(kind, None, N_PAIRS), 1)
    add(bi, kind, x[bj] - x[bi], np.ones(len(bi)))
    add(bi, kind, x[bj] - x[bi], (length - mean[kind]) / 0.05)

    order = np.argsort(np.concatenate([bi, bj]), kind="stable")
    neighbor, start = np.concatenate([bj, bi])[order], np.cumsum(degree) - degree
    angles = []
    for d in np.unique(degree[degree > 1]):
        centre, (p, q) = np.flatnonzero(degree == d), np.triu_indices(d, 1)
        ends = neighbor[start[centre][:, None] + np.arange(d)]
        angles.append([ends[:, p].ravel(), np.repeat(centre, len(p)), ends[:, q].ravel()])
    a, c, b = np.concatenate(angles, 1)
    add(c, PAIR[types[a], types[b]], x[b] - x[a], np.ones(len(a)))
    normal = np.cross(x[a] - x[c], x[b] - x[c])
    bent = np.linalg.norm(normal, axis=1) > 0.3
    add(c[bent], types[c[bent]], normal[bent], 1 / (degree[c[bent]] - 1), N_TYPES)

    def key(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        keys: np.ndarray = np.minimum(s, t) * len(numbers) + np.maximum(s, t)
        return keys

    far = ~bonded & ~np.isin(key(i, j), key(a, b))
    add(i[far], PAIR[types[i[far]], types[j[far]]], x[j[far]] - x[i[far]], (3 / r[far]) ** 3)
    dihedral = []
    for s, t in itertools.product(range(1, degree.max() + 1), repeat=2):
        at = (degree[bi] == s) & (degree[bj] == t)
        p = np.repeat(neighbor[start[bi[at]][:, None] + np.arange(s)], t, 1)
        q = np.tile(neighbor[start[bj[at]][:, None] + np.arange(t)], (1, s))
        good = (p != bj[at][:, None]) & (q != bi[at][:, None]) & (p != q)
        dihedral.append([p[good], q[good]])
    p, q = np.concatenate(dihedral, 1)
    add(p, PAIR[types[p], types[q]], x[q] - x[p], np.ones(len(p)))
    return np.concatenate(blocks, 2)


def _all_pairs(structures: Structures) -> np.ndarray:
    """[2, pairs] indices of atoms i < j in the same molecule."""
    n_atoms = structures.n_atoms
    pairs = [
        (structures.offsets[:-1][n_atoms == n][:, None, None] + np.array(np.triu_indices(n, 1)))
        .transpose(1, 0, 2).reshape(2, -1)
        for n in np.unique(n_atoms)
    ]  # fmt: skip
    return np.concatenate(pairs, 1)


def _traceless(tensors: np.ndarray) -> np.ndarray:
    trace = np.trace(tensors, axis1=-2, axis2=-1)[..., None, None]
    traceless: np.ndarray = tensors - trace / 3 * np.eye(3)
    return traceless


def _six(tensors: np.ndarray) -> np.ndarray:
    """[..., 6] components xx, yy, zz, xy, xz, yz of symmetric tensors."""
    return tensors[..., [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def _matrices(six: np.ndarray) -> np.ndarray:
    return six[..., [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(*six.shape[:-1], 3, 3)
