"""A device's clock mapped to the host's from the round trips of ordinary requests.

Every request is a round trip: the time stamps in the device's answer lie between the host's question and the arrival of
the answer. A block of inferences is one too, however long it takes: it starts after the question and ends before the
answer. The map therefore needs no time service on the device and no traffic of its own but a few quick requests, whose
bounds are the tightest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepen.clock.host_clock import MAX_DRIFT, ClockMap, fit_pings
from deepen.errors import LinkError, MeasureError

__all__ = ["DeviceClock", "RoundTrip"]

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
