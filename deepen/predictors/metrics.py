"""The field's error measures, and their bootstrap confidence intervals.

All shares and errors are in percent. ``acc10`` is the share within 10 % of the measured energy; ``mape`` the mean
absolute percentage error; ``rmspe`` the root mean square percentage error; ``spearman`` the rank correlation (-1..1);
``in_interval`` the share inside the nominal 90 % interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.robust_statistics import compute_spearman

__all__ = ["MEASURES", "bootstrap_confidence_intervals", "compute_metrics"]

Floats = NDArray[np.float64]

MEASURES = ("acc5", "acc10", "acc20", "mape", "rmspe", "spearman")
_LEVEL = 0.95
_RESAMPLES = 1000
_RANK_RESAMPLES = 200
"""Ranks are computed anew in each resample, which costs more than a mean."""


def compute_metrics(measured: Floats, predicted: Floats) -> dict[str, Any]:
    """Compute the error measures.

    Args:
        measured: Positive, shape (n,).
        predicted: shape (n,).

    Returns:
        ``n``, ``acc5``, ``acc10``, ``acc20``, ``mape``, ``rmspe`` in percent and ``spearman``; ``None`` without rows
        (for ``spearman``: with fewer than three, or where one side is constant).
    """
    n = int(measured.size)
    if not n:
        return {"n": 0, **dict.fromkeys(MEASURES)}
    error = np.abs(predicted / measured - 1.0)
    shares = {f"acc{p}": 100.0 * float(np.mean(error <= p / 100.0)) for p in (5, 10, 20)}
    return {
        "n": n,
        **shares,
        "mape": 100.0 * float(error.mean()),
        "rmspe": 100.0 * float(np.sqrt(np.mean(error**2))),
        "spearman": _correlate_ranks(measured, predicted),
    }


def bootstrap_confidence_intervals(
    measured: Floats,
    predicted: Floats,
    keys: Sequence[str],
    inside: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals of the measures (Efron and Tibshirani, 1993, chapter 13).

    Configurations are drawn, not rows: what was measured several times, or held out by several splits, is one draw.

    Args:
        measured: Positive, shape (n,).
        predicted: shape (n,).
        keys: Configuration of each row.
        inside: Mask of the rows inside their intervals; adds ``in_interval``.
        seed: Seed of the draws.

    Returns:
        (low, high) by measure; empty with fewer than two configurations.
    """
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    groups = len(number)
    if groups < 2:
        return {}
    group = np.array([number[k] for k in keys], dtype=np.int64)
    error = np.abs(predicted / measured - 1.0)
    per_row = {f"acc{p}": 100.0 * (error <= p / 100.0) for p in (5, 10, 20)}
    per_row |= {"mape": 100.0 * error, "rmspe": error**2}
    if inside is not None:
        per_row["in_interval"] = 100.0 * inside
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=_RESAMPLES).astype(np.float64)
    rows = drawn @ np.bincount(group, minlength=groups)
    found: dict[str, list[float]] = {}
    for name, values in per_row.items():
        means = drawn @ np.bincount(group, weights=values, minlength=groups) / rows
        found[name] = _compute_interval(100.0 * np.sqrt(means) if name == "rmspe" else means)
    ranks = [_correlate_ranks(np.repeat(measured, t), np.repeat(predicted, t)) for t in _count_row_draws(drawn, group)]
    defined = np.array([r for r in ranks if r is not None])
    if defined.size == len(ranks):
        found["spearman"] = _compute_interval(defined)
    return found


def _count_row_draws(drawn: Floats, group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [draw.astype(np.int64)[group] for draw in drawn[:_RANK_RESAMPLES]]


def _compute_interval(values: Floats) -> list[float]:
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return [float(low), float(high)]


def _correlate_ranks(a: Floats, b: Floats) -> float | None:
    """Rank correlation; ``None`` with fewer than three rows, or where one side is constant."""
    rho = compute_spearman(a, b) if a.size >= 3 else np.nan
    return None if np.isnan(rho) else rho
