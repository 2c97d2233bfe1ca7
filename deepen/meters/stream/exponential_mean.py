"""Exponential averages of a stream, batch by batch."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

__all__ = ["compute_exponential_mean"]


def compute_exponential_mean(values: NDArray[np.float64], share: float, start: float) -> NDArray[np.float64]:
    """Average a batch: ``y[k] = (1 - share) * y[k - 1] + share * values[k]``, from ``y[-1] = start`` on.

    The result does not depend on how a stream is split into batches. SciPy computes the same sums some ten times
    faster than Python does, and is used where it is installed.

    Args:
        values: float64, shape (n,).
        share: Weight of the newest value, 0..1.
        start: The average before the first value.

    Returns:
        The average after each value; float64, shape (n,).
    """
    rest = 1.0 - share
    try:
        from scipy.signal import lfilter
    except ModuleNotFoundError:
        averages = accumulate(values.tolist(), lambda mean, value: rest * mean + share * value, initial=start)
        return np.fromiter(averages, np.float64, values.size + 1)[1:]
    filtered: NDArray[np.float64] = lfilter([share], [1.0, -rest], values, zi=[rest * start])[0]
    return filtered
