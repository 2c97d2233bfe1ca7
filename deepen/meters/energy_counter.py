"""Meters around energy counters: their readings become a power trace that integrates back to their differences."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap, monotonic_s
from deepen.errors import MeterError
from deepen.meters.sampling_thread import SamplingThread
from deepen.meters.types import Scope
from deepen.records import Interval, PowerTrace, Source, TraceWarning

__all__ = ["CounterMeter", "SampledCounter", "guard_counter_monotonic", "make_step_trace", "unwrap_counter"]


def make_step_trace(t_s: Sequence[float], energy_j: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make a trace whose power is constant between readings.

    A counter gives the mean power between two readings, but not its course. Each stretch becomes two points (one just
    after its start, one at its end), so the trapezoid over any pair of readings gives the counter's own difference.

    Args:
        t_s: Times of the readings, seconds, ascending; readings at the same time keep the last.
        energy_j: Counter values at those times, joules, unwrapped.

    Returns:
        ``(t_s, power_w)``, float64, shape (2m,) for m stretches; empty for fewer than two distinct times.
    """
    times = np.asarray(t_s, dtype=np.float64)
    energy = np.asarray(energy_j, dtype=np.float64)
    if times.size:
        last = np.append(np.diff(times) > 0, True)
        times, energy = times[last], energy[last]
    if times.size < 2:
        return np.empty(0), np.empty(0)
    power = np.diff(energy) / np.diff(times)
    points = np.empty(2 * power.size)
    # The first stretch starts at its reading; later ones one representable step after it, as times must ascend.
    points[0::2] = np.concatenate([times[:1], np.nextafter(times[1:-1], np.inf)])
    points[1::2] = times[1:]
    return points, np.repeat(power, 2)


def unwrap_counter(previous: int, current: int, limit: int) -> int:
    """Return the difference of two counter readings, the second possibly past one wrap.

    Args:
        previous: Earlier reading.
        current: Later reading.
        limit: Largest value before the counter starts again at zero (``max_energy_range_uj``).
    """
    return current - previous if current >= previous else limit - previous + current


def guard_counter_monotonic(
    read_j: Callable[[], float], meter: str, reason: str, slack_j: float = 0.0
) -> Callable[[], float]:
    """Wrap the reader of a counter that never goes back by itself.

    Args:
        read_j: Reads the counter, joules.
        meter: Driver name, for the message.
        reason: Cause of a counter that goes back, for example ``the device restarted``.
        slack_j: Largest decrease caused by rounding, joules.

    Returns:
        The same reader, which raises ``MeterError`` when the counter goes back: energy across that is unknown.
    """
    last_j = -math.inf

    def guarded_j() -> float:
        nonlocal last_j
        before_j, last_j = last_j, read_j()
        if last_j < before_j - slack_j:
            raise MeterError(
                f"the counter went back from {before_j:.6g} J to {last_j:.6g} J ({reason})",
                subject=meter,
                cure="measure again",
            )
        return last_j

    return guarded_j


class SampledCounter(ABC):
    """A meter around energy counters, read at marks and often enough in between not to miss a wrap.

    Attributes:
        id: Name of the power source.
        calibration_id: Names of the counters read.
        update_s: Time between two updates of the counters, seconds.
        resolution_j: Smallest step of the counters, joules.
    """

    source: Source = "measured"
    scope: Scope = "machine"

    def __init__(
        self,
        name: str,
        calibration_id: str,
        *,
        update_s: float,
        resolution_j: float,
        poll_s: float,
        warnings: Sequence[TraceWarning] = (),
    ) -> None:
        """Set up the counters; nothing is read yet.

        Args:
            name: Name of the power source.
            calibration_id: Names of the counters to read.
            update_s: Time between two updates of the counters, seconds.
            resolution_j: Smallest step of the counters, joules.
            poll_s: Time between two polls, seconds.
            warnings: Warnings added to every trace of this meter.
        """
        self.id = name
        self.calibration_id = calibration_id
        self.update_s = update_s
        self.resolution_j = resolution_j
        self._warnings = tuple(warnings)
        self._lock = threading.Lock()
        self._sampler = SamplingThread(self.mark, poll_s)

    def start(self) -> None:
        """Begin a trace.

        Raises:
            MeterError: If the counters do not answer.
        """
        self._sampler.stop()
        with self._lock:
            self._forget()
        self.mark()
        self._sampler.start()

    @abstractmethod
    def mark(self) -> None:
        """Read the counters.

        Raises:
            MeterError: If they do not answer.
        """

    def observe(self, interval: Interval) -> None:  # noqa: B027 - part of the protocol, with nothing to do here
        """Do nothing: a counter measures by itself."""

    @abstractmethod
    def stop(self) -> PowerTrace:
        """End the trace."""

    def close(self) -> None:
        """Stop sampling."""
        self._sampler.stop()

    @abstractmethod
    def _forget(self) -> None:
        """Forget the readings of the last trace; called under the lock."""

    def _make_trace(
        self, t_s: NDArray[np.float64], power_w: NDArray[np.float64], clock: ClockMap | None = None
    ) -> PowerTrace:
        return PowerTrace(
            t_s,
            power_w,
            1 / self.update_s,
            self.id,
            self.calibration_id,
            self.source,
            clock=clock,
            warnings=self._warnings,
        )


class CounterMeter(SampledCounter):
    """A meter around energy counters without a clock of their own."""

    def __init__(self, name: str, calibration_id: str, read_j: Callable[[], float], **settings: Any) -> None:
        """Set up the counters; nothing is read yet.

        Args:
            name: Name of the power source.
            calibration_id: Names of the counters to read.
            read_j: Reads the energy so far, joules; called under a lock.
            settings: ``update_s``, ``resolution_j``, ``poll_s`` and ``warnings`` of :class:`SampledCounter`.
        """
        super().__init__(name, calibration_id, **settings)
        self._read_j = read_j
        self._times: list[float] = []
        self._energy_j: list[float] = []

    def mark(self) -> None:
        """Read the counters.

        Raises:
            MeterError: If they do not answer.
        """
        with self._lock:
            before = monotonic_s()
            energy_j = self._read_j()
            self._times.append((before + monotonic_s()) / 2)
            self._energy_j.append(energy_j)

    def stop(self) -> PowerTrace:
        """End the trace."""
        self._sampler.stop()
        self.mark()
        return self._make_trace(*make_step_trace(self._times, self._energy_j))

    def _forget(self) -> None:
        self._times, self._energy_j = [], []
