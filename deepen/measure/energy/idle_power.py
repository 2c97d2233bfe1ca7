"""Idle power over time: measured at some moments, linear in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError

__all__ = ["IdlePower", "IdlePowerLine"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Idle power at one moment.

    Attributes:
        t_s: Middle of the measurement, seconds.
        power_w: Mean power, watts.
        std_w: Standard uncertainty of the mean, watts.
    """

    t_s: float
    power_w: float
    std_w: float


@dataclass(frozen=True, slots=True)
class IdlePowerLine:
    """Idle power through several measurements: linear between two, constant before the first and after the last.

    Attributes:
        points: The measurements, at least one, by ascending time.
        same_meter: Whether the meter that measures the energy measured these, so that its offset cancels.
    """

    points: tuple[IdlePower, ...]
    same_meter: bool = True

    def __post_init__(self) -> None:
        times = [p.t_s for p in self.points]
        if not times or any(b <= a for a, b in pairwise(times)):
            raise MeasureError("idle power needs at least one measurement, and their times must ascend")

    @classmethod
    def through(cls, points: Sequence[IdlePower]) -> IdlePowerLine:
        """Make a line through measurements in any order; of several at one time the last counts."""
        return cls(tuple(sorted({p.t_s: p for p in points}.values(), key=lambda p: p.t_s)))

    @classmethod
    def constant(cls, power_w: float) -> IdlePowerLine:
        """Idle power known from elsewhere, taken as exact."""
        return cls((IdlePower(0.0, power_w, 0.0),), same_meter=False)

    def power_w(self, t_s: _Floats) -> _Floats:
        """Idle power at moments, watts; float64, same shape."""
        times, watts, _ = self._columns()
        return np.asarray(np.interp(t_s, times, watts), dtype=np.float64)

    def energy_j(self, start_s: _Floats, end_s: _Floats) -> _Floats:
        """Idle energy of stretches, joules: the exact integral of the line; float64, shape (n,)."""
        return self._primitive(end_s) - self._primitive(start_s)

    def standard_w(self, start_s: _Floats, end_s: _Floats) -> _Floats:
        """Standard uncertainty of mean idle power over stretches, watts; float64, shape (n,).

        Two parts: the uncertainty of the measurements on both sides, interpolated with their weights, and how far the
        course in between may be from a line. The worst of what commonly happens is one step from the one level to the
        other at an unknown moment (a background program starts): at the share w of the way power is then the later
        level with probability w, so its standard deviation is the difference times sqrt(w (1 - w)).
        """
        times, watts, std = self._columns()
        middle = (start_s + end_s) / 2
        if times.size == 1:
            return np.full(middle.shape, std[0])
        i = np.clip(np.searchsorted(times, middle, side="right") - 1, 0, times.size - 2)
        w = np.clip((middle - times[i]) / (times[i + 1] - times[i]), 0.0, 1.0)
        known = np.hypot((1 - w) * std[i], w * std[i + 1])
        course = np.abs(watts[i + 1] - watts[i]) * np.sqrt(w * (1 - w))
        combined: _Floats = np.hypot(known, course)
        return combined

    def change_w(self, start_s: _Floats, end_s: _Floats) -> _Floats:
        """Change of idle power between the measurements around stretches, watts; float64, shape (n,)."""
        times, watts, _ = self._columns()
        if times.size == 1:
            return np.zeros(start_s.shape)
        before = np.clip(np.searchsorted(times, start_s, side="right") - 1, 0, times.size - 1)
        after = np.clip(np.searchsorted(times, end_s, side="left"), 0, times.size - 1)
        return watts[after] - watts[before]

    def _columns(self) -> tuple[_Floats, _Floats, _Floats]:
        table = np.array([(p.t_s, p.power_w, p.std_w) for p in self.points], dtype=np.float64)
        return table[:, 0], table[:, 1], table[:, 2]

    def _primitive(self, t_s: _Floats) -> _Floats:
        """Integral of the line from its first point to moments, joules."""
        times, watts, _ = self._columns()
        steps = np.diff(times) * (watts[1:] + watts[:-1]) / 2
        running = np.concatenate([[0.0], np.cumsum(steps)])
        i = np.clip(np.searchsorted(times, t_s, side="right") - 1, 0, times.size - 1)
        inside = np.clip(t_s, times[0], times[-1])
        here = (inside - times[i]) * (watts[i] + np.interp(inside, times, watts)) / 2
        outside = np.where(t_s < times[0], (t_s - times[0]) * watts[0], np.maximum(t_s - times[-1], 0.0) * watts[-1])
        total: _Floats = running[i] + here + outside
        return total
