"""The line under the arrival times: the floor of the transport delay, its slope, and the uncertainty of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import CLOCK_TOLERANCE
from deepen.robust_statistics import estimate_mad_scale

_Values = TypeVar("_Values", float, NDArray[np.float64])

__all__ = [
    "UNKNOWN_TRANSPORT_S",
    "DelayFloor",
    "combine_with_clock_prior",
    "estimate_robust_slope",
    "fit_delay_floor",
    "fit_supporting_line",
    "select_least_delayed",
]

UNKNOWN_TRANSPORT_S = 1e-3
"""Bound of the least transport delay where no round trip is known, seconds: one USB full-speed frame. The median delay
above the floor is the bound where it is larger."""
_WANDER_S = 60.0
"""Streams shorter than this are too short to estimate the wander of the clock, seconds."""


@dataclass(frozen=True, slots=True)
class DelayFloor:
    """Floor of the arrival delays: ``intercept + slope * x``.

    Attributes:
        slope: Seconds of delay per second of device time.
        intercept: Delay at device time 0, seconds.
        error_s: Standard uncertainty of the floor within the stream, seconds.
        slope_error: Standard uncertainty of ``slope``.
    """

    slope: float
    intercept: float
    error_s: float
    slope_error: float

    def at(self, x: _Values) -> _Values:
        """Return the delay of the floor at device times ``x``, seconds."""
        return self.intercept + self.slope * x


def select_least_delayed(
    t_s: NDArray[np.float64], y: NDArray[np.float64], among: NDArray[np.int64] | None = None, bin_s: float = 0.01
) -> NDArray[np.int64]:
    """Return the indices of the least delayed arrival in every stretch of ``bin_s`` seconds, in order of time.

    Args:
        t_s: Times by which arrivals are grouped, seconds; shape (n,).
        y: Delays, seconds; shape (n,).
        among: Indices of the arrivals to consider; ``None`` for all.
        bin_s: Length of a stretch, seconds.
    """
    among = np.arange(t_s.size, dtype=np.int64) if among is None else among
    stretch = np.floor((t_s[among] - t_s[0]) / bin_s).astype(np.int64)
    order = np.lexsort((y[among], stretch))
    first = np.append(True, np.diff(stretch[order]) != 0)
    found: NDArray[np.int64] = among[order[first]]
    return found


def _find_lower_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Return the indices of the lower convex hull, left to right (Andrew's monotone chain)."""
    hull: list[int] = []
    xs, ys = x.tolist(), y.tolist()
    for i in range(len(xs)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (xs[b] - xs[a]) * (ys[i] - ys[a]) <= (ys[b] - ys[a]) * (xs[i] - xs[a]):
                hull.pop()
            else:
                break
        hull.append(i)
    return hull


def fit_supporting_line(x: NDArray[np.float64], y: NDArray[np.float64], middle: float) -> tuple[float, float]:
    """Return slope and intercept of the edge of the lower hull that spans ``middle``."""
    hull = _find_lower_hull(x, y)
    if len(hull) == 1:
        return 0.0, float(y[hull[0]])
    right = next((k for k in range(1, len(hull)) if x[hull[k]] >= middle), len(hull) - 1)
    a, b = hull[right - 1], hull[right]
    if x[b] == x[a]:
        return 0.0, float(min(y[a], y[b]))
    slope = float((y[b] - y[a]) / (x[b] - x[a]))
    return slope, float(y[a] - slope * x[a])


def fit_delay_floor(x: NDArray[np.float64], y: NDArray[np.float64], max_drift: float) -> DelayFloor:
    """Fit the floor of the delays ``y`` over the device times ``x``.

    1. The supporting line of the lower hull gives slope and intercept.
    2. The least delays of pieces of the stream scatter around that line; their scatter is its uncertainty. In streams
       of at least ``_WANDER_S`` it also shows how far the clock wanders.
    3. A slope within ``max_drift`` is combined with the prior of quartz clocks (:data:`CLOCK_TOLERANCE`), which draws
       it towards zero, the more so the less certain it is.

    Args:
        x: Device times, seconds; shape (n,), ascending.
        y: Arrival times less device times, seconds; shape (n,).
        max_drift: Largest believable difference of the clocks, a share.
    """
    span = float(x[-1] - x[0])
    slope, intercept = fit_supporting_line(x, y, float(x.mean()))
    above = y - intercept - slope * x
    pieces = min(16, x.size // 8)
    if pieces >= 4:
        floors = np.array([part.min() for part in np.array_split(above, pieces)])
        scatter = float(np.std(floors)) / math.sqrt(pieces)
        wander = float(np.quantile(floors, 0.9)) if span >= _WANDER_S else 0.0
    else:  # a few arrivals may agree by chance
        scatter, wander = max(float(np.median(above)), UNKNOWN_TRANSPORT_S) / math.sqrt(x.size), 0.0
    slope_error = scatter * math.sqrt(12) / span if span > 0 else math.inf
    if abs(slope) < max_drift + 5 * slope_error:
        slope, slope_error = combine_with_clock_prior(slope, slope_error)
        intercept = float(np.min(y - slope * x))
    error_s = math.hypot(scatter, slope_error * span / math.sqrt(12), wander)
    return DelayFloor(slope, intercept, error_s, slope_error)


def combine_with_clock_prior(slope: float, error: float) -> tuple[float, float]:
    """Combine a fitted slope with the prior of quartz clocks (both normal); return the mean and its standard error."""
    if not math.isfinite(error):
        return 0.0, CLOCK_TOLERANCE
    trust = CLOCK_TOLERANCE**2 / (CLOCK_TOLERANCE**2 + error**2)
    return trust * slope, CLOCK_TOLERANCE * math.sqrt(1 - trust)


def estimate_robust_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Estimate the slope of the floor and its error, robustly against a few steps.

    The estimate is the median slope between the floors of pieces some distance apart; of several distances, the one
    with the least spread is used (near ones cross few steps, far ones have less noise). In a short stream the slope is
    that of the supporting line and its error infinite.
    """
    pieces = min(64, x.size // 24)
    if pieces < 8:
        return fit_supporting_line(x, y, float(x.mean()))[0], math.inf
    lowest = np.array([part[np.argmin(y[part])] for part in np.array_split(np.arange(x.size), pieces)])
    best = (0.0, math.inf)
    for lag in (1, 2, 4, 8, 16):
        if lag > pieces // 4:
            break
        slopes = (y[lowest[lag:]] - y[lowest[:-lag]]) / (x[lowest[lag:]] - x[lowest[:-lag]])
        middle = float(np.median(slopes))
        error = estimate_mad_scale(slopes) / math.sqrt(slopes.size / lag)
        best = min(best, (middle, error), key=lambda pair: pair[1])
    return best
