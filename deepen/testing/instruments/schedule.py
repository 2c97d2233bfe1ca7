"""A signal planned ahead while the emulator runs, for playing back a device."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.signal import StepSignal

__all__ = ["PowerSchedule"]

Times = NDArray[np.float64]

KEEP_S = 300.0
"""Time for which past power is kept, seconds."""

SHORTEST_S = 1e-9
"""Shortest piece kept, seconds: the resolution of a monotonic clock after some years."""


class PowerSchedule:
    """A signal that takes plans.

    A plan gives the power from a moment on without end; it replaces earlier plans for that moment and later.
    """

    def __init__(self, power_w: float = 0.0) -> None:
        """Start at a level."""
        self._times: list[float] = []
        self._levels = [power_w]

    def plan(self, start_s: float, durations_s: Sequence[float], levels_w: Sequence[float]) -> None:
        """Plan the power from a moment on.

        Args:
            start_s: Start of the plan, seconds.
            durations_s: Duration of each level but the last, seconds; the last one holds until the next plan.
            levels_w: Power, watts; one more than durations.

        Raises:
            ValueError: If there is not one level more than durations, or a duration is negative.
        """
        spans = np.asarray(durations_s, np.float64).reshape(-1)
        levels = np.asarray(levels_w, np.float64).reshape(-1)
        if levels.size != spans.size + 1 or (spans < 0).any():
            raise ValueError("a plan has one level more than durations, and no duration below zero")
        kept = np.append(spans > SHORTEST_S, True)
        edges = start_s + np.concatenate([[0.0], np.cumsum(spans)])
        first = bisect.bisect_left(self._times, start_s)
        del self._times[first:], self._levels[first + 1 :]
        self._times += edges[kept].tolist()
        self._levels += levels[kept].tolist()
        old = bisect.bisect_left(self._times, start_s - KEEP_S)
        del self._times[:old], self._levels[:old]

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments; shapes (n,), watts."""
        if not start_s.size:
            return np.zeros(0)
        first = bisect.bisect_left(self._times, float(start_s.min()))
        last = bisect.bisect_right(self._times, float(end_s.max()))
        return StepSignal(self._times[first:last], self._levels[first : last + 1]).mean_w(start_s, end_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        mean = self.mean_w(np.array([start_s]), np.array([end_s]))
        return float(mean[0]) * (end_s - start_s)
