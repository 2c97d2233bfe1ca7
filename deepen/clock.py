"""Host clocks and deadlines.

Host intervals are taken on the monotonic clock; wall clock appears once per record, through :func:`utc_now`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["Deadline", "monotonic_s", "utc_now"]


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
