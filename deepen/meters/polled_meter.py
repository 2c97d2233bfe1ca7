"""Meters that are polled for the present power: SCPI analysers, files of on-board sensors."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable

import numpy as np

from deepen.clock.host_clock import ClockMap, monotonic_s
from deepen.errors import MeterError
from deepen.meters.sampling_thread import SamplingThread
from deepen.meters.types import Scope
from deepen.records import Accuracy, Interval, PowerTrace, Source, TraceWarning

__all__ = ["PolledMeter"]

_GAP_PERIODS = 5.0
"""Periods without a reading above which a stretch is a gap with unknown power."""


class PolledMeter:
    """A meter around a function that reads the power, called at marks and at a steady rate in between.

    A reading is stamped with the middle of its query on the host's clock. The value was valid at some moment of the
    query (half the round trip either way) or up to one update of the sensor before it; both limits make up
    ``clock.error_s`` as uniform distributions (JCGM 100:2008, 4.3.7). Readings that are not a number count as lost,
    and the stretch between their neighbours is a gap; so is any stretch longer than five periods.

    Attributes:
        id: Name of the power source.
        calibration_id: Name of the sensor and its settings.
        update_s: Time between two fresh readings, seconds: the sensor's own or that of polling, whichever is longer.
        resolution_j: Smallest step of energy, joules; 0 where it has none.
        source: measured, modelled or simulated.
        accuracy: Accuracy the maker states.
    """

    scope: Scope = "machine"

    def __init__(
        self,
        name: str,
        calibration_id: str,
        read_w: Callable[[], float],
        *,
        update_s: float,
        resolution_j: float,
        poll_s: float,
        accuracy: Accuracy | None = None,
        source: Source = "measured",
        now: Callable[[], float] = monotonic_s,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Set up the sensor; nothing is read yet.

        Args:
            name: Name of the power source.
            calibration_id: Name of the sensor and its settings.
            read_w: Reads the present power, watts; called under a lock, never concurrently. NaN if the sensor has no
                valid reading; raises ``MeterError`` when it does not answer.
            update_s: Time between two updates of the sensor, seconds; 0 where every reading is fresh.
            resolution_j: Smallest step of energy, joules.
            poll_s: Time between two polls, seconds.
            accuracy: Accuracy the maker states; unknown by default.
            source: measured, modelled or simulated.
            now: The monotonic clock; replaceable by tests.
            on_close: Releases what ``read_w`` uses; called once.

        Raises:
            ValueError: If ``poll_s`` is not positive.
        """
        if not poll_s > 0:
            raise ValueError(f"polling needs a period above zero, not {poll_s}")
        self.id = name
        self.calibration_id = calibration_id
        self.update_s = max(update_s, poll_s)
        self.resolution_j = resolution_j
        self.source: Source = source
        self.accuracy = accuracy or Accuracy()
        self._read_w = read_w
        self._sensor_s = update_s
        self._now = now
        self._on_close = on_close
        self._lock = threading.Lock()
        self._sampler = SamplingThread(self.mark, poll_s)
        self._t_s, self._power_w, self._trip_s = array("d"), array("d"), array("d")

    def start(self) -> None:
        """Begin a trace and take its first reading.

        Raises:
            MeterError: If the sensor does not answer.
        """
        self._sampler.stop()
        with self._lock:
            self._t_s, self._power_w, self._trip_s = array("d"), array("d"), array("d")
        self.mark()
        self._sampler.start()

    def mark(self) -> None:
        """Read the sensor.

        Raises:
            MeterError: If the sensor does not answer.
        """
        with self._lock:
            before = self._now()
            power_w = float(self._read_w())
            after = self._now()
            t_s = (before + after) / 2
            if not self._t_s or t_s > self._t_s[-1]:  # of two within one tick of the clock, the first is kept
                self._t_s.append(t_s)
                self._power_w.append(power_w)
                self._trip_s.append(after - before)

    def observe(self, interval: Interval) -> None:
        """Do nothing: a sensor measures by itself."""

    def stop(self) -> PowerTrace:
        """Take the last reading and return the trace.

        Raises:
            MeterError: If the sensor stopped answering, or fewer than two readings were numbers.
        """
        self._sampler.stop()
        self.mark()
        with self._lock:
            t_s, power_w, trip_s = (np.array(a) for a in (self._t_s, self._power_w, self._trip_s))
        valid = np.isfinite(power_w)
        invalid = int(t_s.size - np.count_nonzero(valid))
        if t_s.size - invalid < 2:
            raise MeterError(
                f"{self.id}: {invalid} of {t_s.size} readings were no number",
                cure="check its range and wiring, and record for longer",
            )
        good_s, good_w = t_s[valid], power_w[valid]
        before = np.flatnonzero(valid)
        wide = (np.diff(good_s) > _GAP_PERIODS * self.update_s) | (np.diff(before) > 1)
        gaps = [(float(good_s[i]), float(good_s[i + 1])) for i in np.flatnonzero(wide)]
        # Readings without a number at the very edges are outside the extent of the trace.
        warnings = []
        if invalid:
            text = f"invalid readings: {invalid} of {t_s.size} were no number (over range?); left out as gaps"
            warnings.append(TraceWarning("loss", text))
        late = int(np.count_nonzero(np.diff(t_s) > _GAP_PERIODS * self.update_s))
        if late:
            text = (
                f"late readings: {late} stretches longer than {_GAP_PERIODS:g} periods of {self.update_s:g} s, "
                f"the longest {float(np.diff(t_s).max()):.3g} s; left out as gaps"
            )
            warnings.append(TraceWarning("loss", text))
        half_s = float(np.sqrt(np.mean(trip_s[valid] ** 2))) / 2
        error_s = math.hypot(half_s, self._sensor_s) / math.sqrt(3)
        origin = float(good_s[0])
        return PowerTrace(
            good_s,
            good_w,
            1 / self.update_s,
            self.id,
            self.calibration_id,
            self.source,
            gaps=tuple(gaps),
            dropped=invalid,
            clock=ClockMap(origin, origin, 1.0, error_s, "ping"),
            accuracy=self.accuracy,
            warnings=tuple(warnings),
        )

    def close(self) -> None:
        """Stop polling and release the sensor; harmless when called again."""
        try:
            self._sampler.stop()
        finally:
            on_close, self._on_close = self._on_close, None
            if on_close is not None:
                on_close()
