"""A device's clock mapped to the host's from the round trips of ordinary requests.

Every request is a round trip: the time stamps in the device's answer lie between the host's question and the arrival of
the answer. A block of inferences is one too, however long it takes: it starts after the question and ends before the
answer. The map therefore needs no time service on the device and no traffic of its own but a few quick requests, whose
bounds are the tightest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import MAX_DRIFT, ClockMap
from deepen.errors import LinkError, MeasureError

__all__ = ["DeviceClock", "RoundTrip", "fit_pings"]

KEEP_S = 60.0
"""Round trips older than this are forgotten, seconds: two crystals drift linearly for about as long."""
MOST = 32
_TICK_S = 1e-6
SLEPT_S = 0.05
"""Shortest change of CLOCK_BOOTTIME (which runs on during suspend) less CLOCK_MONOTONIC (which does not) that counts as
sleep, seconds; a shorter one is a preempted reading."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The times of one request and of its time-stamped answer.

    Attributes:
        send_s: Host time before the question, seconds.
        receive_s: Host time after the answer, seconds.
        start_s: First moment the device stamped, on its monotonic clock, seconds.
        end_s: Last moment it stamped, seconds.
        slept_s: Seconds the device has spent suspended since it started, up to an unknown constant; ``None`` where it
            has no clock for it.
    """

    send_s: float
    receive_s: float
    start_s: float
    end_s: float
    slept_s: float | None

    @classmethod
    def of(cls, send_s: float, reply: Mapping[str, Any], receive_s: float) -> RoundTrip:
        """Take the stamps off an answer to ``run`` (``devices/runner/runner.py`` has the protocol).

        Raises:
            LinkError: If the device slept in between, or the stamps make no sense: the end before the start, or more
                time in between than the host waited.
        """
        try:
            start_ns, end_ns = int(reply["start_ns"]), int(reply["end_ns"])
            boots = reply.get("start_boot_ns"), reply.get("end_boot_ns")
            first, last = (None if b is None else int(b) for b in boots)
        except (KeyError, TypeError, ValueError) as error:
            raise LinkError(f"the runner's time stamps cannot be read ({error}); use the runner shipped") from error
        if end_ns < start_ns:
            raise LinkError("the runner stamped the end of a block before its start; use the runner shipped")
        slept_s = None
        if first is not None and last is not None:
            slept_s = (first - start_ns) / 1e9
            if (last - first - (end_ns - start_ns)) / 1e9 > SLEPT_S:
                raise LinkError(
                    "the device went to sleep during a block, which is of no use now; keep it awake "
                    "('deepen device prepare') and measure again"
                )
        trip = cls(send_s, receive_s, start_ns / 1e9, end_ns / 1e9, slept_s)
        took_s = trip.end_s - trip.start_s
        if trip.slack_s < -(MAX_DRIFT * took_s + _TICK_S):
            raise LinkError(
                f"the device says that {took_s:.6g} s passed between a question and its answer, the host "
                f"{receive_s - send_s:.6g} s: the device's clock was set or runs wrong; measure again"
            )
        return trip

    @property
    def slack_s(self) -> float:
        """Width of the interval of clock offsets that this round trip allows, seconds."""
        return (self.receive_s - self.send_s) - (self.end_s - self.start_s)


class DeviceClock:
    """Collects round trips and maps moments of the device to the host."""

    def __init__(self) -> None:
        """Start without round trips."""
        self._trips: list[RoundTrip] = []
        self._map: ClockMap | None = None

    @property
    def least_slack_s(self) -> float:
        """Slack of the tightest round trip kept, seconds; 0 without one."""
        return max(0.0, min((t.slack_s for t in self._trips), default=0.0))

    def add(self, trip: RoundTrip) -> None:
        """Add a round trip; if the device slept since the last one, the earlier ones are discarded."""
        last = self._trips[-1].slept_s if self._trips else None
        if last is not None and trip.slept_s is not None and abs(trip.slept_s - last) > SLEPT_S:
            self._trips.clear()
        self._map = None
        self._trips = [t for t in self._trips if trip.receive_s - t.receive_s <= KEEP_S]
        self._trips.append(trip)
        if len(self._trips) > MOST:  # drop the loosest bound of the older half
            older = self._trips[: MOST // 2]
            self._trips.remove(max(older, key=lambda t: t.slack_s))

    def map(self) -> ClockMap:
        """Return the map from the device's monotonic clock to the host's.

        Raises:
            MeasureError: If there is no round trip yet, or they contradict each other (a clock was set or stopped).
        """
        if self._map is None:
            send = np.array([t.send_s for t in self._trips for _ in range(2)])
            receive = np.array([t.receive_s for t in self._trips for _ in range(2)])
            device = np.array([s for t in self._trips for s in (t.start_s, t.end_s)])
            self._map = fit_pings(send, device, receive)
        return self._map

    def locate(self, trip: RoundTrip) -> tuple[float, float, float]:
        """Return the host times of the start and end of a block, and their standard uncertainty, seconds.

        Raises:
            MeasureError: If the device's clock contradicts the host's also on this round trip alone.
        """
        try:
            found = self.map()
        except MeasureError:  # the clock was set or stopped since: earlier round trips no longer apply
            self._trips = [trip]
            self._map = None
            found = self.map()
        start_s, end_s = float(found.to_host(trip.start_s)), float(found.to_host(trip.end_s))
        return start_s, max(start_s, end_s), found.error_s


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
