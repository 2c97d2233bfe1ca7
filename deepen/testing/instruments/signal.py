"""Input signals of emulated instruments: power over true time with an exact integral, and digital inputs.

Every signal has an exact mean over any stretch, so that an emulator can average as its instrument does and still
know the true energy. All are vectorised: a million stretches cost about ten milliseconds.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepen.testing.power import PowerTimeline

__all__ = [
    "BlockSignal",
    "DecaySignal",
    "EventSignal",
    "LogicInputs",
    "PowerSignal",
    "RampSignal",
    "SineSignal",
    "StepSignal",
    "SummedSignal",
    "SwitchedSignal",
]

Times = NDArray[np.float64]


@runtime_checkable
class PowerSignal(Protocol):
    """Power over true time."""

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments; shapes (n,), watts; where both are equal, the power at that moment."""

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""


def _integrate_power(signal: PowerSignal, start_s: float, end_s: float) -> float:
    mean = signal.mean_w(np.array([start_s]), np.array([end_s]))
    return float(mean[0]) * (end_s - start_s)


@dataclass(frozen=True, slots=True, eq=False)
class StepSignal:
    """Power that is constant between edges.

    Attributes:
        edges_s: Moments at which it changes; strictly increasing, shape (m,).
        levels_w: Power before, between and after them; shape (m + 1,).
    """

    edges_s: Times
    levels_w: Times
    _sums: Times = field(init=False, repr=False)

    def __init__(self, edges_s: ArrayLike, levels_w: ArrayLike) -> None:
        """Take the edges and the levels.

        Raises:
            ValueError: If there is not one level more than edges, or the edges do not increase.
        """
        edges = np.array(edges_s, np.float64).reshape(-1)
        levels = np.array(levels_w, np.float64).reshape(-1)
        if levels.size != edges.size + 1 or (np.diff(edges) <= 0).any():
            raise ValueError("steps need strictly increasing edges and one level more than edges")
        object.__setattr__(self, "edges_s", edges)
        object.__setattr__(self, "levels_w", levels)
        object.__setattr__(self, "_sums", np.concatenate([[0.0], np.cumsum(levels[1:-1] * np.diff(edges))]))

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments; exactly the level if no edge lies between them."""
        first = np.searchsorted(self.edges_s, start_s, side="right")
        last = np.maximum(np.searchsorted(self.edges_s, end_s, side="left"), first)
        mean = self.levels_w[first]
        over = np.flatnonzero(last > first)
        if over.size:
            i, j, start, end = first[over], last[over], start_s[over], end_s[over]
            energy = self.levels_w[i] * (self.edges_s[i] - start) + (self._sums[j - 1] - self._sums[i])
            energy += self.levels_w[j] * (end - self.edges_s[j - 1])
            mean[over] = energy / (end - start)
        return mean

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return _integrate_power(self, start_s, end_s)


class BlockSignal(StepSignal):
    """Windows of activity over an idle level."""

    def __init__(self, idle_w: float, active_w: float, windows: ArrayLike) -> None:
        """Take the levels and the windows.

        Args:
            idle_w: Power outside the windows, watts.
            active_w: Power inside, watts.
            windows: (start_s, end_s) of each, in order and apart; shape (n, 2).

        Raises:
            ValueError: If windows touch, overlap or are empty.
        """
        edges = np.array(windows, np.float64).reshape(-1)
        super().__init__(edges, np.resize([idle_w, active_w], edges.size + 1))


@dataclass(frozen=True, slots=True, eq=False)
class RampSignal:
    """Power that runs linearly between points and is constant before the first and after the last.

    Attributes:
        t_s: Moments; strictly increasing, shape (m,).
        power_w: Power at them; shape (m,).
    """

    t_s: Times
    power_w: Times
    _sums: Times = field(init=False, repr=False)

    def __init__(self, t_s: ArrayLike, power_w: ArrayLike) -> None:
        """Take the points.

        Raises:
            ValueError: If there are none, or the moments do not increase.
        """
        times, power = np.array(t_s, np.float64).reshape(-1), np.array(power_w, np.float64).reshape(-1)
        if not times.size or times.size != power.size or (np.diff(times) <= 0).any():
            raise ValueError("a ramp needs points at strictly increasing moments")
        object.__setattr__(self, "t_s", times)
        object.__setattr__(self, "power_w", power)
        areas = 0.5 * (power[1:] + power[:-1]) * np.diff(times)
        object.__setattr__(self, "_sums", np.concatenate([[0.0], np.cumsum(areas)]))

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments: the power half-way if no point lies between them, else trapezia."""
        first = np.searchsorted(self.t_s, start_s, side="right")
        last = np.maximum(np.searchsorted(self.t_s, end_s, side="left"), first)
        mean = np.interp(0.5 * (start_s + end_s), self.t_s, self.power_w)
        over = np.flatnonzero(last > first)
        if over.size:
            i, j, start, end = first[over], last[over] - 1, start_s[over], end_s[over]
            left, right = (np.interp(t, self.t_s, self.power_w) for t in (start, end))
            energy = 0.5 * (left + self.power_w[i]) * (self.t_s[i] - start) + (self._sums[j] - self._sums[i])
            energy += 0.5 * (self.power_w[j] + right) * (end - self.t_s[j])
            mean[over] = energy / (end - start)
        return mean

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return _integrate_power(self, start_s, end_s)


@dataclass(frozen=True, slots=True)
class DecaySignal:
    """Power that falls exponentially from one level towards another, as when something cools or a battery sags.

    Attributes:
        start_s: When it begins to fall.
        before_w: Power until then, watts.
        after_w: Power it falls (or rises) to, watts.
        time_constant_s: Time constant, seconds.
    """

    start_s: float
    before_w: float
    after_w: float
    time_constant_s: float

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power: the integral of ``exp(-t / tau)`` is ``tau * (exp(-a / tau) - exp(-b / tau))``."""
        tau, width = self.time_constant_s, end_s - start_s
        begin, end = np.maximum(start_s, self.start_s), np.maximum(end_s, self.start_s)
        fade = np.exp(-(begin - self.start_s) / tau)
        area = np.maximum(0.0, self.start_s - start_s) - np.maximum(0.0, self.start_s - end_s)
        area = area - tau * fade * np.expm1(-(end - begin) / tau)
        share = np.divide(area, width, out=fade, where=width > 0)
        mean: Times = self.after_w + (self.before_w - self.after_w) * share
        return mean

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return _integrate_power(self, start_s, end_s)


@dataclass(frozen=True, slots=True)
class SineSignal:
    """A sinusoidal power without an offset.

    Attributes:
        amplitude_w: Amplitude, watts.
        frequency_hz: Frequency, hertz.
        phase: Phase at time zero, radians.
    """

    amplitude_w: float
    frequency_hz: float
    phase: float = 0.0

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power: the sine half-way times ``sin(x) / x`` with ``x = pi * frequency * width``."""
        middle = 2 * np.pi * self.frequency_hz * 0.5 * (start_s + end_s) + self.phase
        mean: Times = self.amplitude_w * np.sin(middle) * np.sinc(self.frequency_hz * (end_s - start_s))
        return mean

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return _integrate_power(self, start_s, end_s)


class SummedSignal:
    """The sum of several signals."""

    def __init__(self, *parts: PowerSignal) -> None:
        """Take the parts."""
        self.parts = parts

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the sum of the means, watts."""
        total = np.zeros(start_s.shape)
        for part in self.parts:
            total += part.mean_w(start_s, end_s)
        return total

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the sum of the energies, joules."""
        return sum(part.energy_j(start_s, end_s) for part in self.parts)


class EventSignal:
    """A :class:`~deepen.testing.power.PowerTimeline`: the events of a running workload, added while it runs."""

    def __init__(self, timeline: PowerTimeline) -> None:
        """Follow a timeline."""
        self.timeline = timeline

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments; events may overlap."""
        if not start_s.size:
            return np.zeros(0)
        found = [e for e in self.timeline.within(float(start_s.min()), float(end_s.max())) if e[1] > e[0]]
        times = np.array([t for start, end, _ in found for t in (start, end)])
        steps = np.array([w for _, _, power in found for w in (power, -power)])
        edges, which = np.unique(times, return_inverse=True)
        changes = np.bincount(which, steps, edges.size) if found else steps
        return StepSignal(edges, self.timeline.idle_w + np.concatenate([[0.0], np.cumsum(changes)])).mean_w(
            start_s, end_s
        )

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return self.timeline.energy_j(start_s, end_s)


class SwitchedSignal:
    """Power switched while the emulator runs, from another process or by a test that moves virtual time."""

    def __init__(self, power_w: float = 0.0) -> None:
        """Start at a level."""
        self._times: list[float] = []
        self._levels = [power_w]

    def switch(self, t_s: float, power_w: float) -> None:
        """Switch the power from a moment on.

        Raises:
            ValueError: If the moment lies before the last change.
        """
        if self._times and t_s < self._times[-1]:
            raise ValueError("power is switched in the order of time")
        if self._times and t_s == self._times[-1]:
            self._levels[-1] = power_w
        else:
            self._times.append(t_s)
            self._levels.append(power_w)

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power between moments."""
        if not start_s.size:
            return np.zeros(0)
        first = bisect.bisect_left(self._times, float(start_s.min()))
        last = bisect.bisect_right(self._times, float(end_s.max()))
        return StepSignal(self._times[first:last], self._levels[first : last + 1]).mean_w(start_s, end_s)

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy between two moments, joules."""
        return _integrate_power(self, start_s, end_s)


class LogicInputs:
    """Eight digital inputs over true time, all low at first."""

    def __init__(self) -> None:
        """Start with every input low."""
        self._times: list[float] = []
        self._values = [0]

    def set(self, t_s: float, bit: int, high: bool) -> None:
        """Drive an input from a moment on.

        Raises:
            ValueError: If there is no such input, or the moment lies before the last change.
        """
        if not 0 <= bit < 8 or (self._times and t_s < self._times[-1]):
            raise ValueError("inputs 0 to 7 are driven in the order of time")
        value = self._values[-1] | 1 << bit if high else self._values[-1] & ~(1 << bit)
        self._times.append(t_s)
        self._values.append(value)

    def pulse(self, start_s: float, end_s: float, bit: int) -> None:
        """Drive an input high for a while."""
        self.set(start_s, bit, True)
        self.set(end_s, bit, False)

    def at(self, t_s: Times) -> NDArray[np.uint8]:
        """Return the inputs at moments; bit k is input k, shape (n,)."""
        which = np.searchsorted(np.array(self._times), t_s, side="right")
        return np.array(self._values, np.uint8)[which]
