"""Statistics that a few wrong values cannot move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.robust_statistics import compute_spearman

__all__ = [
    "compute_log_log_residuals",
    "correlate_with_neighbours",
]

_ITERATIONS = 50

COPY = 0.9995
"""Correlation above which a column of work is a copy of another: fitting both would fit the noise between them."""


def correlate_with_neighbours(values: NDArray[np.float64], work: NDArray[np.float64], nearest: int = 4) -> float:
    """Rank correlation of each value with the median of those nearest in work; repeats of one work are left out.

    Args:
        values: float64, shape (n,).
        work: Coordinates, float64, shape (n, k); scaled to equal spread here.
        nearest: Neighbours to take the median of.
    """
    spread = work.std(axis=0)
    places = work[:, spread > 1e-9] / spread[spread > 1e-9]
    if not places.shape[1]:
        return float("nan")
    unique, inverse = np.unique(np.round(places, 9), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    if len(unique) <= nearest:
        return float("nan")
    counts = np.bincount(inverse)
    middle = np.bincount(inverse, weights=values) / counts
    found = np.concatenate(
        [
            np.argsort(((part[:, None] - unique) ** 2).sum(axis=2), axis=1, kind="stable")[:, : nearest + 1]
            for part in np.array_split(unique, -(-len(unique) // 256))
        ]
    )
    return compute_spearman(middle, np.median(middle[found[:, 1:]], axis=1))


def compute_log_log_residuals(values: NDArray[np.float64], work: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residuals of ``log(value)`` after a power law in the columns of ``work``.

    Least absolute deviations by iteratively reweighted least squares, so that up to about a third of the values may be
    wrong by orders of magnitude without moving the fit.

    Args:
        values: Positive values; float64, shape (n,).
        work: Amounts of work, at least 0; float64, shape (n, k). Columns that do not vary, or only with an earlier
            one, are left out.

    Returns:
        float64, shape (n,), natural logarithm.
    """
    y = np.log(values)
    logs = np.log1p(work)
    logs = logs[:, np.ptp(logs, axis=0) > 1e-9]
    kept: list[int] = []
    for place in range(logs.shape[1]):
        if all(abs(np.corrcoef(logs[:, place], logs[:, other])[0, 1]) < COPY for other in kept):
            kept.append(place)
    logs = logs[:, kept]
    design = np.column_stack([np.ones_like(y), logs - logs.mean(axis=0)])
    weights = np.ones_like(y)
    for _ in range(_ITERATIONS):
        root = np.sqrt(weights)[:, None]
        solution, *_ = np.linalg.lstsq(design * root, y * root[:, 0], rcond=1e-10)
        weights = 1.0 / np.maximum(np.abs(y - design @ solution), 1e-3)
    return np.asarray(y - design @ solution, dtype=np.float64)
