"""Meters around energy counters with the device's own time, so that a late answer does not shift their energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.counter_readings import fit_counter_clock
from deepen.clock.host_clock import MAX_DRIFT, ClockMap, monotonic_s
from deepen.errors import MeterError
from deepen.meters.energy_counter import SampledCounter, make_step_trace
from deepen.records import PowerTrace

__all__ = ["TimestampedCounterMeter"]

_STEP_S = 2.0
"""Lead of device time over the host's beyond which its clock was set, seconds: far more than any cache causes."""


class TimestampedCounterMeter(SampledCounter):
    """A meter around energy counters, each read together with the device time at which it was valid."""

    def __init__(
        self,
        name: str,
        calibration_id: str,
        read: Callable[[], Sequence[tuple[float, float]]],
        *,
        quantum_s: float = 1e-3,
        now: Callable[[], float] = monotonic_s,
        sleep: Callable[[float], None] = time.sleep,
        **settings: Any,
    ) -> None:
        """Set up the counters; nothing is read yet.

        Args:
            name: Name of the power source.
            calibration_id: Names of the counters to read.
            read: Reads (device time in seconds, energy so far in joules) of every counter, always the same ones in the
                same order; called under a lock.
            quantum_s: Step of the device time, seconds.
            now: The monotonic clock; replaceable by tests.
            sleep: Waits for a number of seconds; replaceable by tests.
            settings: ``update_s``, ``resolution_j``, ``poll_s`` and ``warnings`` of :class:`SampledCounter`.
        """
        super().__init__(name, calibration_id, **settings)
        self._read = read
        self._quantum_s = quantum_s
        self._now = now
        self._sleep = sleep
        self._trips: list[tuple[float, float]] = []
        self._readings: list[Sequence[tuple[float, float]]] = []

    def mark(self) -> None:
        """Read the counters.

        Raises:
            MeterError: If they do not answer.
        """
        with self._lock:
            before = self._now()
            reading = self._read()
            self._trips.append((before, self._now()))
            self._readings.append(reading)

    def stop(self) -> PowerTrace:
        """Read until the counters cover the moment of this call, and return the trace.

        Raises:
            MeterError: If they stopped advancing, or went back.
        """
        self._sampler.stop()
        asked = self._now()
        patience = asked + 2.0 + 10 * self.update_s
        while True:
            self.mark()
            trips, times_s, energy_j = self._arrays()
            clock = fit_counter_clock(times_s[:, 0], trips[:, 0], trips[:, 1], self.update_s, self._quantum_s)
            if clock.to_host(float(times_s[-1].min())) >= asked or self._now() >= patience:
                break
            self._sleep(self.update_s / 2)
        return self._trace(clock, times_s, energy_j)

    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        with self._lock:
            trips = np.array(self._trips, dtype=np.float64).reshape(-1, 2)
            readings = np.array(self._readings, dtype=np.float64)
        times_s, energy_j = readings[:, :, 0], readings[:, :, 1]
        if bool(np.any(np.diff(times_s, axis=0) < 0)) or bool(np.any(np.diff(energy_j, axis=0) < 0)):
            raise MeterError(
                f"{self.id}: its clock or a counter went back, so the device restarted", cure="measure again"
            )
        # Device time may lag behind (values are cached), but it cannot run faster than the host's.
        most_s = (trips[1:, 1] - trips[:-1, 0]) * (1 + MAX_DRIFT) + _STEP_S + 2 * self.update_s
        ahead_s = np.diff(times_s, axis=0) - most_s[:, None]
        if ahead_s.size and float(ahead_s.max()) > 0:
            raise MeterError(
                f"{self.id}: the device's clock jumped ahead by {float(ahead_s.max()) + _STEP_S:.3g} s",
                cure="measure again",
            )
        return trips, times_s, energy_j

    def _trace(self, clock: ClockMap, times_s: NDArray[np.float64], energy_j: NDArray[np.float64]) -> PowerTrace:
        start, end = float(times_s[0].max()), float(times_s[-1].min())
        if not end > start:
            raise MeterError(
                f"{self.id}: the counters did not advance while recording",
                cure="see that the device is awake, and record for longer",
            )
        # Each counter ticks in its own rhythm, and is taken to run evenly between two of its ticks.
        ticks = np.unique(times_s)
        ticks = ticks[(ticks >= start) & (ticks <= end)]
        total_j = np.zeros(ticks.size)
        for k in range(times_s.shape[1]):
            fresh = np.append(np.diff(times_s[:, k]) > 0, True)  # of readings with one time the last is complete
            total_j += np.interp(ticks, times_s[fresh, k], energy_j[fresh, k] - energy_j[0, k])
        return self._make_trace(*make_step_trace(clock.to_host(ticks).tolist(), total_j.tolist()), clock)

    def _forget(self) -> None:
        self._trips, self._readings = [], []
