"""The supply between an instrument and its load: a voltage that is set, switched off or sags, and the current."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.signal import PowerSignal, StepSignal

__all__ = ["EmulatedSupply"]

Times = NDArray[np.float64]


class EmulatedSupply:
    """A load of known power behind a voltage that may change.

    The load takes the power of its signal whenever there is a voltage (as a device with its own converters does), so
    current is power over voltage; without a voltage it takes none.

    Attributes:
        signal: Power the load wants over true time.
        history: (t_s, volts) of every setting, in order; 0 V is off.
    """

    def __init__(self, signal: PowerSignal, volts: float = 0.0) -> None:
        """Connect a load; the initial voltage holds for all earlier times."""
        self.signal = signal
        self.history: list[tuple[float, float]] = [(-np.inf, volts)]
        self._sags: list[tuple[float, float, float]] = []

    @property
    def volts(self) -> float:
        """Return the voltage set last, volts."""
        return self.history[-1][1]

    def set(self, t_s: float, volts: float) -> None:
        """Set the voltage from a moment on; 0 switches off.

        Raises:
            ValueError: If the moment lies before the last setting, or the voltage below zero.
        """
        if t_s < self.history[-1][0] or volts < 0:
            raise ValueError("voltages are set in the order of time and never below zero")
        self.history.append((t_s, volts))

    def sag(self, start_s: float, end_s: float, drop_v: float) -> None:
        """Lower the voltage by ``drop_v`` for a while, but never to zero while it is on."""
        self._sags.append((start_s, end_s, drop_v))

    def mean_v(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean voltage between moments; shapes (n,), volts."""
        if not start_s.size:
            return np.zeros(0)
        low, high = float(start_s.min()), float(end_s.max())
        stretch = self._stretch(low, high)
        if len(stretch) == 1 and not any(a < high and b > low for a, b, _ in self._sags):
            return np.full(start_s.shape, stretch[0][2])
        edges = {a for a, _, _ in stretch} | {t for a, b, _ in self._sags for t in (a, b)}
        inside = sorted(t for t in edges if low < t < high)
        return StepSignal(inside, [self._at(t) for t in [low, *inside]]).mean_w(start_s, end_s)

    def mean_w(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean power the load took between moments; shapes (n,), watts."""
        if not start_s.size:
            return np.zeros(0)
        stretch = self._stretch(float(start_s.min()), float(end_s.max()))
        if all(volts > 0 for *_, volts in stretch):
            return self.signal.mean_w(start_s, end_s)
        total = np.zeros(start_s.shape)
        for begin, end, volts in stretch:
            if volts > 0:
                left, right = np.clip(start_s, begin, end), np.clip(end_s, begin, end)
                total += self.signal.mean_w(left, right) * (right - left)
        return np.divide(total, end_s - start_s, out=total, where=end_s > start_s)

    def mean_a(self, start_s: Times, end_s: Times) -> Times:
        """Return the mean current between moments: mean power over mean voltage; shapes (n,), amperes."""
        power, volts = self.mean_w(start_s, end_s), self.mean_v(start_s, end_s)
        return np.divide(power, volts, out=np.zeros(power.shape), where=volts > 0)

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the energy the load took between two moments, joules."""
        parts = self._stretch(start_s, end_s)
        return sum(
            self.signal.energy_j(max(begin, start_s), min(end, end_s)) for begin, end, volts in parts if volts > 0
        )

    def _stretch(self, start_s: float, end_s: float) -> list[tuple[float, float, float]]:
        """Return the settings (begin_s, end_s, volts) that overlap a stretch."""
        ends = [t for t, _ in self.history[1:]] + [np.inf]
        found = [(a, b, v) for (a, v), b in zip(self.history, ends, strict=True) if a < end_s and b > start_s and b > a]
        return found or [(start_s, end_s, self.volts)]

    def _at(self, t_s: float) -> float:
        """Set the voltage from a moment on."""
        volts = next(v for t, v in reversed(self.history) if t <= t_s)
        drop = sum(d for a, b, d in self._sags if a <= t_s < b)
        return max(volts - drop, 0.01 * volts)
