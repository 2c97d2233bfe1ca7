"""Host clocks, deadlines, and linear maps from one clock to another.

Host intervals are taken on the monotonic clock; wall clock appears once per record, through :func:`utc_now`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError

__all__ = ["MAX_DRIFT", "ClockMap", "Deadline", "fit_pings", "monotonic_s", "utc_now"]

MAX_DRIFT = 300e-6
"""Largest believable difference between two clocks, a share: three times the tolerance of a common crystal."""

_Times = TypeVar("_Times", float, NDArray[np.float64])


def monotonic_s() -> float:
    """Read the host's monotonic clock, in seconds."""
    return time.monotonic()


def utc_now() -> str:
    """Read the wall clock as ISO-8601 in UTC with seconds, for ``recorded_at``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, passed down so that nested calls share one time-out.

    Attributes:
        duration_s: Seconds allowed from construction; ``inf`` never expires.
    """

    duration_s: float
    _start_s: float = field(default_factory=lambda: monotonic_s(), repr=False)  # noqa: PLW0108 - a stand-in may take its place

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.duration_s - (monotonic_s() - self._start_s))

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self.remaining_s <= 0.0


@dataclass(frozen=True, slots=True)
class ClockMap:
    """A linear map from a device's clock to the host's: ``host = host_s + (device - device_s) * rate``.

    Attributes:
        device_s: A moment on the device's clock (sample index over nominal rate counts as a clock), seconds.
        host_s: The same moment on the host's monotonic clock, seconds.
        rate: Host seconds per device second; 1 + 50e-6 means a device clock that runs 50 ppm slow.
        error_s: Standard uncertainty of a mapped moment inside the fitted stretch, seconds.
        method: ``arrival`` (lower envelope of arrival times), ``ping`` (round trips), ``marks`` (logic inputs),
            ``pulses`` (a load pattern found in the trace) or ``given``.
    """

    device_s: float
    host_s: float
    rate: float
    error_s: float
    method: str

    def to_host(self, device_s: _Times) -> _Times:
        """Convert device times (a float or an array) to host times, seconds."""
        return self.host_s + (device_s - self.device_s) * self.rate

    def to_device(self, host_s: _Times) -> _Times:
        """Convert host times (a float or an array) to device times, seconds."""
        return self.device_s + (host_s - self.host_s) / self.rate


# ---- round trips ----------------------------------------------------------------------------------------------------


def fit_pings(
    send_s: NDArray[np.float64],
    device_s: NDArray[np.float64],
    receive_s: NDArray[np.float64],
    *,
    max_drift: float = MAX_DRIFT,
) -> ClockMap:
    """Fit a device's clock to round trips.

    A device that answers with its own time did so after the question was sent and before the answer was received, so
    every round trip gives two bounds between which the clock's line must pass.

    1. Bounds are taken relative to a rough offset (the median of the mid-points).
    2. The lines that satisfy all bounds form a polygon in the plane of the offsets at both ends, found exactly; bounds
       that contradict each other are widened by the least slack that leaves a line.
    3. The fitted line is the middle of the polygon's extent; a uniform distribution over that extent, and the slack,
       are its stated error.

    The shortest round trips decide, as in NTP's minimum filter, but nothing is assumed about how a delay divides
    between the two directions.

    Args:
        send_s: Host time before each question, seconds; float64, shape (n,).
        device_s: Device time in each answer, seconds; float64, shape (n,).
        receive_s: Host time after each answer, seconds; float64, shape (n,).
        max_drift: Largest believable difference of the clocks, a share.

    Raises:
        MeasureError: If there is no round trip, one was received before it was sent, or they contradict each other (a
            clock was set, or ran unevenly) by more than the shortest round trip.
    """
    send_s, device_s, receive_s = (np.asarray(a, dtype=np.float64) for a in (send_s, device_s, receive_s))
    if not send_s.size or send_s.shape != device_s.shape or send_s.shape != receive_s.shape:
        raise MeasureError("round trips need the times of sending, answering and receiving, as many of each")
    trip_s = receive_s - send_s
    if (trip_s < 0).any():
        raise MeasureError("a round trip was received before it was sent; take both times on the monotonic clock")
    # 1. Bounds relative to a rough offset.
    reference = float(np.median((send_s + receive_s) / 2 - device_s))
    low, high = send_s - device_s - reference, receive_s - device_s - reference
    first, span = float(device_s.min()), float(np.ptp(device_s))
    # 2. The polygon of allowed lines.
    x = (device_s - first) / span if span > 0 else np.zeros(device_s.size)
    limit = max_drift * span
    slack, corners = _find_least_slack(x, low, high, limit, float(trip_s.min()))
    # 3. Its middle and its extent.
    start, end = corners[:, 0], corners[:, 1]
    left, right = (start.min() + start.max()) / 2, (end.min() + end.max()) / 2
    # Half the extent over sqrt(3) (uniform distribution); the slack stands for a clock that wanders.
    error_s = math.hypot(max(float(np.ptp(start)), float(np.ptp(end))) / math.sqrt(12), slack)
    rate = 1.0 + (right - left) / span if span > 0 else 1.0
    return ClockMap(first, first + reference + left, float(rate), error_s, "ping")


def _find_least_slack(
    x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], limit: float, most: float
) -> tuple[float, NDArray[np.float64]]:
    """Return the least widening of the bounds that allows a line, seconds, and the corners of the lines allowed then.

    Args:
        x: Device times scaled to 0..1; shape (n,).
        low: Lower bounds of the offset, seconds; shape (n,).
        high: Upper bounds, seconds; shape (n,).
        limit: Largest difference between the offsets at both ends, seconds.
        most: Largest widening to try, seconds.
    """
    corners = _find_allowed_lines(x, low, high, limit)
    if corners.size:
        return 0.0, corners
    slack = most
    widest = _find_allowed_lines(x, low - slack, high + slack, limit)
    if not widest.size:
        raise MeasureError(
            f"round trips contradict each other by more than the shortest of them ({1e3 * most:.3f} ms): a clock was "
            "set or stopped in between; measure again"
        )
    least = 0.0
    for _ in range(20):  # to a millionth of the shortest round trip
        middle = (least + slack) / 2
        found = _find_allowed_lines(x, low - middle, high + middle, limit)
        if found.size:
            slack, widest = middle, found
        else:
            least = middle
    return slack, widest


def _find_allowed_lines(
    x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], limit: float
) -> NDArray[np.float64]:
    """Return the corners of the set of lines between the bounds.

    A line is the pair of its offsets at x = 0 and at x = 1; shape (k, 2), with k = 0 where no line fits. The square of
    offsets is cut by one half-plane per bound (Sutherland and Hodgman, Comm. ACM 17, 1974).
    """
    least, most = float(low.min()) - limit, float(high.max()) + limit
    corners = [(least, least), (most, least), (most, most), (least, most)]
    planes = [(-1.0, 1.0, limit), (1.0, -1.0, limit)]
    planes += [(1 - a, a, h) for a, h in zip(x.tolist(), high.tolist(), strict=True)]
    planes += [(a - 1, -a, -w) for a, w in zip(x.tolist(), low.tolist(), strict=True)]
    for p, q, bound in planes:
        kept: list[tuple[float, float]] = []
        for k, (u, v) in enumerate(corners):
            s, t = corners[k - 1]
            here, there = p * u + q * v - bound, p * s + q * t - bound
            if (here <= 0) != (there <= 0):
                f = there / (there - here)
                kept.append((s + f * (u - s), t + f * (v - t)))
            if here <= 0:
                kept.append((u, v))
        corners = kept
        if not corners:
            break
    return np.array(corners, dtype=np.float64).reshape(-1, 2)
