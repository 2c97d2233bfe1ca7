"""Simulated power: a timeline of known power, and a meter that reads it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.meters.energy_counter import make_step_trace
from deepen.meters.types import Scope
from deepen.records import Interval, PowerTrace, Source

__all__ = ["PowerTimeline", "SimulatedMeter"]


@dataclass(slots=True)
class PowerTimeline:
    """Exactly known power over time: an idle level plus rectangular events.

    Attributes:
        idle_w: Idle power, watts.
        events: (start_s, end_s, power_w above idle), in order of their start.
    """

    idle_w: float = 1.0
    events: list[tuple[float, float, float]] = field(default_factory=list)
    _longest_s: float = 0.0

    def add(self, start_s: float, end_s: float, power_w: float) -> None:
        """Add an event."""
        bisect.insort(self.events, (start_s, end_s, power_w))
        self._longest_s = max(self._longest_s, end_s - start_s)

    def within(self, start_s: float, end_s: float) -> list[tuple[float, float, float]]:
        """Return the events that overlap a stretch."""
        first = bisect.bisect_left(self.events, (start_s - self._longest_s,))
        last = bisect.bisect_left(self.events, (end_s,))
        return [e for e in self.events[first:last] if e[1] > start_s]

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy between two moments, joules."""
        active = sum(p * (min(e, end_s) - max(s, start_s)) for s, e, p in self.within(start_s, end_s))
        return self.idle_w * (end_s - start_s) + active

    def edges(self, start_s: float, end_s: float) -> list[float]:
        """Return the moments between two others at which power changes."""
        found = {t for s, e, _ in self.within(start_s, end_s) for t in (s, e)}
        return sorted(t for t in found if start_s < t < end_s)


class SimulatedMeter:
    """A meter that reads a timeline; its data are labelled ``simulated``.

    Faults: ``noise_w`` adds seeded Gaussian noise to the power of every stretch; ``fail_at_mark`` raises ``MeterError``
    at that mark; ``gaps`` are reported as stretches without samples.
    """

    source: Source = "simulated"

    def __init__(
        self,
        timeline: PowerTimeline,
        now: Callable[[], float] = monotonic_s,
        *,
        name: str = "simulated",
        scope: Scope = "machine",
        update_s: float = 0.0,
        resolution_j: float = 0.0,
        noise_w: float = 0.0,
        seed: int = 0,
        fail_at_mark: int | None = None,
        gaps: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Connect the meter to a timeline."""
        self.id = name
        self.calibration_id = f"timeline, idle {timeline.idle_w:g} W"
        self.scope: Scope = scope
        self.update_s = update_s
        self.resolution_j = resolution_j
        self.fail_at_mark = fail_at_mark
        self.gaps = tuple(gaps)
        self.marks = 0
        self.closed = False
        self._timeline = timeline
        self._now = now
        self._noise_w = noise_w
        self._rng = np.random.default_rng(seed)
        self._times: list[float] = []

    def start(self) -> None:
        """Begin a trace."""
        self._times = []
        self.mark()

    def mark(self) -> None:
        """Take a sample, or fail if this is ``fail_at_mark``."""
        self.marks += 1
        self._times.append(self._now())
        if self.fail_at_mark is not None and self.marks >= self.fail_at_mark:
            raise MeterError(f"{self.id}: the meter was unplugged; plug it in and try again")

    def observe(self, interval: Interval) -> None:
        """Do nothing: the timeline has the power."""

    def stop(self) -> PowerTrace:
        """End the trace: one stretch between every two samples or moments at which power changes."""
        if not self._times:
            raise MeterError(f"{self.id}: stopped before it was started")
        start, end = self._times[0], self._now()
        times = sorted({*self._times, *self._timeline.edges(start, end), end})
        self._times = []
        steps = [self._timeline.energy_j(a, b) for a, b in pairwise(times)]
        if self._noise_w:
            steps = [
                e + self._rng.normal(0.0, self._noise_w) * (b - a)
                for e, a, b in zip(steps, times[:-1], times[1:], strict=True)
            ]
        t_s, power_w = make_step_trace(times, np.concatenate([[0.0], np.cumsum(steps)]).tolist())
        return PowerTrace(t_s, power_w, 1e6, self.id, self.calibration_id, self.source, gaps=self.gaps)

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True
