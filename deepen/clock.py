"""Host clocks and deadlines.

Host intervals are taken on the monotonic clock; wall clock appears once per record, through :func:`utc_now`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClockMap", "Deadline", "monotonic_s", "utc_now"]

_Times = TypeVar("_Times", float, NDArray[np.float64])


def monotonic_s() -> float:
    """Read the host's monotonic clock, in seconds."""
    return time.monotonic()


def utc_now() -> str:
    """Read the wall clock as ISO-8601 in UTC with seconds, for ``recorded_at``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, passed down instead of re-counting time-outs.

    Attributes:
        duration_s: Seconds allowed from construction; ``inf`` never expires.
    """

    duration_s: float
    _start_s: float = field(default_factory=monotonic_s, repr=False)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.duration_s - (monotonic_s() - self._start_s))

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining_s <= 0.0


@dataclass(frozen=True, slots=True)
class ClockMap:
    """One clock told in another: ``host = host_s + (device - device_s) * rate``.

    Attributes:
        device_s: A moment on the device's clock (sample index over nominal rate counts as a clock), seconds.
        host_s: The same moment on the host's monotonic clock, seconds.
        rate: Host seconds per device second; 1 + 50e-6 is a device clock that runs 50 ppm slow.
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
        """Host time of device times (a float or an array), seconds."""
        return self.host_s + (device_s - self.device_s) * self.rate

    def to_device(self, host_s: _Times) -> _Times:
        """Device time of host times (a float or an array), seconds."""
        return self.device_s + (host_s - self.host_s) / self.rate
