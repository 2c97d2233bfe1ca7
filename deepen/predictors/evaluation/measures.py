"""The field's error measures.

All shares and errors are in percent. ``acc10`` is the share within 10 % of the measured energy; ``mape`` the mean
absolute percentage error; ``rmspe`` the root mean square percentage error; ``spearman`` the rank correlation (-1..1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["metrics", "spearman"]

Floats = NDArray[np.float64]


def metrics(measured: Floats, predicted: Floats) -> dict[str, Any]:
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
        return {"n": 0, **dict.fromkeys(("acc5", "acc10", "acc20", "mape", "rmspe", "spearman"))}
    error = np.abs(predicted / measured - 1.0)
    shares = {f"acc{p}": 100.0 * float(np.mean(error <= p / 100.0)) for p in (5, 10, 20)}
    return {
        "n": n,
        **shares,
        "mape": 100.0 * float(error.mean()),
        "rmspe": 100.0 * float(np.sqrt(np.mean(error**2))),
        "spearman": spearman(measured, predicted),
    }


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation with ties at their mean rank; ``None`` where it is not defined."""
    if a.size < 3:
        return None
    p, q = _ranks(a), _ranks(b)
    p, q = p - p.mean(), q - q.mean()
    norm = float(np.sqrt((p @ p) * (q @ q)))
    return float(p @ q) / norm if norm > 0 else None


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((2 * last - counts + 1) / 2.0)[inverse.reshape(-1)])
