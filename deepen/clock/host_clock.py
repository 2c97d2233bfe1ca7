"""Host clocks, deadlines, and linear maps from one clock to another.

Host intervals are taken on the monotonic clock; wall clock appears once per record, through :func:`utc_now`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOCK_TOLERANCE", "MAX_DRIFT", "ClockMap", "Deadline", "monotonic_s", "utc_now"]

CLOCK_TOLERANCE = 50e-6
"""Standard deviation of the rates of quartz clocks over their nominal ones (tolerances of 20 to 100 ppm are sold)."""
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
