"""Robust statistics: ranks, rank correlation, and a scale that a few wrong values cannot move; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["compute_spearman", "compute_spearman_interval", "estimate_mad_scale", "rank_values"]

_MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def rank_values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0, ties sharing their mean rank; shape (n,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray((first + (counts - 1) / 2.0)[inverse], dtype=np.float64)


def compute_spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; ``nan`` where either side is constant.

    Args:
        a: float64, shape (n,).
        b: float64, shape (n,).
    """
    x, y = rank_values(a), rank_values(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def compute_spearman_interval(rho: float, count: int) -> tuple[float, float]:
    """90 % confidence interval of a rank correlation.

    Fisher's transformation with the variance 1.06 / (n - 3) of Fieller, Hartley and Pearson (Biometrika 44, 1957).

    Args:
        rho: The correlation.
        count: Number of pairs; at least 4.
    """
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    half = 1.645 * np.sqrt(1.06 / (count - 3))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def estimate_mad_scale(values: NDArray[np.float64], centre: float | None = None) -> float:
    """Estimate the standard deviation of a normal distribution from the median absolute deviation.

    Args:
        values: float64, shape (n,).
        centre: Deviations are taken from here; by default, from the median.
    """
    middle = np.median(values) if centre is None else centre
    return _MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))
