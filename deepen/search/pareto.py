"""Fronts and hypervolumes, exactly. Smaller is better in every column throughout.

Two objectives need sorting only (numpy); three and more are handed to moocore (extra ``search``), whose algorithms are
those of Fonseca, Paquete and Lopez-Ibanez, "An Improved Dimension-Sweep Algorithm for the Hypervolume Indicator"
(CEC 2006), and Guerreiro and Fonseca, "Computing and Updating Hypervolume Contributions in Up to Four Dimensions"
(IEEE TEC 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepen.errors import ConfigError
from deepen.extras import require_packages

__all__ = [
    "FrontQuality",
    "assess_front",
    "check_points",
    "compute_contributions",
    "compute_hypervolume",
    "find_extremes",
    "find_knee",
    "find_pareto_front",
    "mark_nondominated",
    "rank_fronts",
]

Floats = NDArray[np.float64]

_TWO = 2


def check_points(values: ArrayLike) -> Floats:
    """Check points.

    Args:
        values: Shape (n, objectives).

    Raises:
        ConfigError: If the shape is another, or a value is NaN.
    """
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != _TWO or points.shape[1] < 1:
        raise ConfigError(f"points have shape (n, objectives), not {points.shape}")
    if np.isnan(points).any():
        row = int(np.flatnonzero(np.isnan(points).any(axis=1))[0])
        raise ConfigError(f"point {row} has a value that is missing (NaN); leave such points out")
    return points


def _check_reference(points: Floats, reference: ArrayLike) -> Floats:
    ref = np.asarray(reference, dtype=np.float64)
    if ref.shape != (points.shape[1],) or not np.isfinite(ref).all():
        raise ConfigError(f"the reference point needs {points.shape[1]} finite values, one per objective")
    return ref


def _import_moocore(why: str) -> ModuleType:
    require_packages(why, "moocore")
    import moocore

    module: ModuleType = moocore
    return module


def mark_nondominated(values: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates; equal points are all kept.

    A point dominates another if it is nowhere larger and somewhere smaller.

    Args:
        values: Points, shape (n, objectives).

    Returns:
        Shape (n,).

    Raises:
        ConfigError: If the points are malformed.
    """
    points = check_points(values)
    n, m = points.shape
    if n == 0:
        return np.zeros(0, dtype=bool)
    if m == 1:
        return np.asarray(points[:, 0] == points[:, 0].min())
    if m > _TWO:
        try:
            import moocore
        except ModuleNotFoundError:
            pass
        else:
            return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)
    # Distinct points in lexicographic order: nothing is dominated by what comes later.
    order, first = _sort_points(points)
    distinct = points[order[first]]
    if m == _TWO:
        y = distinct[:, 1]
        kept = y < np.concatenate([[np.inf], np.minimum.accumulate(y)[:-1]])
    else:
        kept = _filter_nondominated(distinct)
    mask = np.zeros(n, dtype=bool)
    mask[order] = kept[np.cumsum(first) - 1]
    return mask


def _sort_points(points: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Sort rows lexicographically; returns the order, and whether each row is the first of equal ones."""
    order = np.lexsort(points.T[::-1])
    first = np.ones(len(points), dtype=bool)
    for column in points.T:
        first[1:] &= column[order[1:]] == column[order[:-1]]
    first[1:] = ~first[1:]
    return order, first


_BLOCK = 256


def _filter_nondominated(ordered: Floats) -> NDArray[np.bool_]:
    """Mark nondominated points among distinct ones in lexicographic order, for any number of objectives, in blocks."""
    kept = np.zeros(len(ordered), dtype=bool)
    found = ordered[:0]
    for start in range(0, len(ordered), _BLOCK):
        block = ordered[start : start + _BLOCK]
        inside = np.tril((block[:, None, :] >= block[None, :, :]).all(axis=2), -1).any(axis=1)
        alive: NDArray[np.bool_] = np.asarray(~inside)
        for chunk in range(0, len(found), 4 * _BLOCK):
            part = found[chunk : chunk + 4 * _BLOCK]
            covered = (block[alive][:, None, :] >= part[None, :, :]).all(axis=2)
            alive[alive] &= ~np.any(covered, axis=1)
        kept[start : start + _BLOCK] = alive
        found = np.concatenate([found, block[alive]])
    return kept


def find_pareto_front(values: ArrayLike) -> NDArray[np.int64]:
    """Find the rows of the Pareto front, by the first objective; of equal points, the first only.

    Args:
        values: Points, shape (n, objectives).
    """
    points = check_points(values)
    rows = np.flatnonzero(mark_nondominated(points))
    order, first = _sort_points(points[rows])
    return np.asarray(rows[order[first]], dtype=np.int64)


def rank_fronts(values: ArrayLike) -> NDArray[np.int64]:
    """Rank points by front: 0 for the Pareto front, 1 for the front of the remaining points, and so on."""
    points = check_points(values)
    ranks = np.full(len(points), -1, dtype=np.int64)
    left = np.arange(len(points))
    level = 0
    while left.size:
        mask = mark_nondominated(points[left])
        ranks[left[mask]] = level
        left = left[~mask]
        level += 1
    return ranks


def compute_hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Compute the volume that points dominate up to a reference point; points beyond it do not count.

    Args:
        values: Points, shape (n, objectives).
        reference: Worst value of each objective.

    Raises:
        ConfigError: If the points are malformed, or there are three objectives or more and moocore is not installed.
    """
    points = check_points(values)
    ref = _check_reference(points, reference)
    points = points[(points < ref).all(axis=1)]
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(ref[0] - points.min())
    if points.shape[1] > _TWO:
        return float(_import_moocore("the hypervolume of three objectives or more").hypervolume(points, ref=ref))
    ordered = points[find_pareto_front(points)]
    below = np.concatenate([[ref[1]], ordered[:-1, 1]])
    return float(((ref[0] - ordered[:, 0]) * (below - ordered[:, 1])).sum())


def compute_contributions(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Compute the hypervolume that a front loses without one of its points: SEMOA's Delta_r(x, P).

    Dominated points get zero and do not change the contributions of others. Each of several equal points gets zero.

    Args:
        values: Points, shape (n, objectives).
        reference: Worst value of each objective.

    Returns:
        Shape (n,).

    Raises:
        ConfigError: As for :func:`compute_hypervolume`.
    """
    points = check_points(values)
    ref = _check_reference(points, reference)
    found = np.zeros(len(points))
    kept = np.flatnonzero(mark_nondominated(points))
    order, first = _sort_points(points[kept])
    alone = first & np.append(first[1:], True)
    single = np.zeros(len(points), dtype=bool)
    single[kept[order[alone]]] = True
    rows = kept[order[first]]
    rows = rows[(points[rows] < ref).all(axis=1)]
    if not rows.size:
        return found
    if points.shape[1] == 1:
        found[rows] = ref[0] - points[rows, 0]
    elif points.shape[1] == _TWO:
        x, y = points[rows].T
        found[rows] = (np.append(x[1:], ref[0]) - x) * (np.append(ref[1], y[:-1]) - y)
    else:
        found[rows] = _import_moocore("the hypervolume of three objectives or more").hv_contributions(
            points[rows], ref=ref
        )
    found[~single] = 0.0
    return found


def find_extremes(values: ArrayLike) -> NDArray[np.int64]:
    """Find the row of the best point in each objective; of equal ones, the best in the other objectives.

    Returns:
        Shape (objectives,).

    Raises:
        ConfigError: If there is no point.
    """
    points = check_points(values)
    if not len(points):
        raise ConfigError("extremes of no points at all; give at least one")
    m = points.shape[1]
    # lexsort's last key is the first to decide.
    return np.array(
        [np.lexsort([*(points[:, k] for k in reversed(range(m)) if k != j), points[:, j]])[0] for j in range(m)],
        dtype=np.int64,
    )


def find_knee(values: ArrayLike) -> int:
    """Find the row of the knee: the point of the front farthest below the plane through the extremes.

    Objectives are scaled so that the front spans 0..1 in each; for two, the line through the extremes is then sum = 1
    (I. Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection", Structural
    Optimization 18, 1999). For more objectives, the plane sum = 1 is used as well.

    Raises:
        ConfigError: If there is no point.
    """
    points = check_points(values)
    rows = find_pareto_front(points)
    if not rows.size:
        raise ConfigError("the knee of no points at all; give at least one")
    low, high = points[rows].min(axis=0), points[rows].max(axis=0)
    scaled = (points[rows] - low) / np.where(high > low, high - low, 1.0)
    return int(rows[np.argmin(scaled.sum(axis=1))])


@dataclass(frozen=True, slots=True)
class FrontQuality:
    """Quality of a front against the true one: recall, hypervolume and regret.

    Attributes:
        recall: Share of the true front's points that were found, 0..1.
        hypervolume: Of the points found, as a share of the box between ideal and reference point.
        regret: Hypervolume of the true front less that, in the same unit.
        found: Points of the true front that were found.
        front: Points of the true front.
    """

    recall: float
    hypervolume: float
    regret: float
    found: int
    front: int


def assess_front(found: ArrayLike, truth: ArrayLike, reference: ArrayLike | None = None) -> FrontQuality:
    """Assess the points found against all points.

    Args:
        found: Points found, shape (k, objectives).
        truth: All points, shape (n, objectives).
        reference: Reference point of the hypervolume; default: the worst value of each objective among all points.

    Raises:
        ConfigError: If points are malformed or there is no truth.
    """
    every, some = check_points(truth), check_points(found)
    if not len(every):
        raise ConfigError("there is no point to compare with; give the whole table")
    ref = every.max(axis=0) if reference is None else _check_reference(every, reference)
    true = every[find_pareto_front(every)]
    box = float(np.prod(np.where(ref > true.min(axis=0), ref - true.min(axis=0), 1.0)))
    best, reached = compute_hypervolume(true, ref) / box, compute_hypervolume(some, ref) / box if len(some) else 0.0
    have = {tuple(p) for p in some.tolist()}
    hits = sum(tuple(p) in have for p in true.tolist())
    return FrontQuality(hits / len(true), reached, best - reached, hits, len(true))
