"""A virtual clock, which moves only when told to."""

from __future__ import annotations

from deepen.measure.blocks import SessionClock

__all__ = ["VirtualClock"]


class VirtualClock:
    """Simulated monotonic time."""

    def __init__(self, start_s: float = 1000.0) -> None:
        """Start at a moment that is not zero, as real clocks do."""
        self._now_s = start_s

    def now(self) -> float:
        """Return the time, seconds."""
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Let time pass."""
        self._now_s += max(0.0, duration_s)

    def as_clock(self) -> SessionClock:
        """The functions a session takes as its clock."""
        return SessionClock(now=self.now, sleep=self.sleep)
