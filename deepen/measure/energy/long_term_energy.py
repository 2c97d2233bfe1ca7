"""Energy totals of a meter over hours or weeks, in bounded memory.

A meter gives a trace when it is stopped. :class:`TraceEnergyTotal` stops it every so often, adds up the trace's energy,
and starts it anew; :class:`StreamEnergyTotal` lets an instrument stream into a running sum. Neither ever loses what was
counted before a meter failed.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepen.errors import DeepenError, MeterError
from deepen.measure.energy.integrate import integrate_power
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import Meter
from deepen.records import Interval, PowerTrace

__all__ = ["EnergyCount", "EnergyTotal", "StreamEnergyTotal", "TraceEnergyTotal", "make_energy_total"]

_LINEAR = ("gain", "offset")
"""Terms that are the same error in every segment, and so add up; the others are independent."""

_MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class EnergyCount:
    """Energy a meter has counted.

    Attributes:
        energy_j: Energy, idle power included, joules.
        covered_s: Time it was counted over, seconds.
        linear_j: Standard uncertainty that all of it shares (gain, offset), joules.
        random_j: Standard uncertainty of the rest, joules.
        bridged_s: Part of ``covered_s`` in which the power was taken from before and after, seconds.
    """

    energy_j: float = 0.0
    covered_s: float = 0.0
    linear_j: float = 0.0
    random_j: float = 0.0
    bridged_s: float = 0.0

    @property
    def uncertainty_j(self) -> float:
        """Standard uncertainty, joules."""
        return math.hypot(self.linear_j, self.random_j)

    def plus(self, other: EnergyCount) -> EnergyCount:
        """Add the energy of another stretch of time."""
        return EnergyCount(
            self.energy_j + other.energy_j,
            self.covered_s + other.covered_s,
            self.linear_j + other.linear_j,
            math.hypot(self.random_j, other.random_j),
            self.bridged_s + other.bridged_s,
        )


class EnergyTotal(Protocol):
    """A meter and the energy it has counted.

    Attributes:
        meter: The meter.
        counted: The energy, as of the last :meth:`roll`.
        notes: Remarks for the reader; each once, a limited number.
        states_accuracy: Whether the instrument's accuracy is stated.
    """

    meter: Meter
    counted: EnergyCount
    notes: list[str]
    states_accuracy: bool

    def start(self) -> None:
        """Begin to count.

        Raises:
            MeterError: If the meter does not answer.
        """

    def tick(self) -> None:
        """Look at the meter; called about once a second.

        Raises:
            MeterError: If it does not answer.
        """

    def roll(self) -> None:
        """Bring ``counted`` up to now; starts a meter that has failed again.

        Raises:
            MeterError: If it does not answer; what was counted before stays.
        """

    def finish(self) -> None:
        """Bring ``counted`` up to now and end; harmless for a meter that has failed.

        Raises:
            MeterError: If it does not answer; what was counted before stays.
        """


def make_energy_total(meter: Meter) -> EnergyTotal:
    """The kind of account a meter needs."""
    return StreamEnergyTotal(meter) if isinstance(meter, StreamMeter) else TraceEnergyTotal(meter)


class TraceEnergyTotal:
    """Account of a meter that is stopped and started anew every so often."""

    def __init__(self, meter: Meter) -> None:
        """Describe it; nothing is measured before :meth:`start`."""
        self.meter = meter
        self.counted = EnergyCount()
        self.notes: list[str] = []
        self.states_accuracy = False
        self._running = False
        self._last: tuple[float, float] | None = None  # time and power at the end of the last segment

    def start(self) -> None:
        """Begin to count."""
        self.meter.start()
        self._running = True

    def tick(self) -> None:
        """Read the meter, so that sources that do not sample by themselves have readings in between."""
        if self._running:
            self.meter.mark()

    def roll(self) -> None:
        """End a segment and begin the next one."""
        try:
            self._close_segment()
        finally:
            self.meter.start()
            self._running = True

    def finish(self) -> None:
        """End the last segment."""
        self._close_segment()

    def _close_segment(self) -> None:
        if not self._running:
            return
        self._running = False
        try:
            trace = self.meter.stop()
        except Exception:
            self._last = None  # the power in what follows is not known: no bridge across it
            raise
        self._add(trace)

    def _add(self, trace: PowerTrace) -> None:
        if trace.t_s.size < 2:
            return
        start_s, end_s = float(trace.t_s[0]), float(trace.t_s[-1])
        if self._last is not None:
            self._bridge(self._last, start_s, float(trace.power_w[0]))
        # However much a trace has lost, its energy is told, with the loss in its uncertainty and in the notes.
        window = integrate_power(trace, [Interval(start_s, end_s, "training")], max_loss=1.0)[0]
        terms = window.gross_budget.terms()
        linear = math.hypot(*(terms.pop(name) for name in _LINEAR))
        rest = math.hypot(*terms.values())
        missing_s = sum(b - a for a, b in trace.gaps)
        self.counted = self.counted.plus(EnergyCount(window.gross_j, end_s - start_s, linear, rest, missing_s))
        self._last = end_s, float(trace.power_w[-1])
        self.states_accuracy = bool(trace.accuracy.reference)
        for warning in trace.warnings:
            add_note(self.notes, f"{self.meter.id}: {warning}")

    def _bridge(self, last: tuple[float, float], start_s: float, power_w: float) -> None:
        """Count the moment between two segments with the power on both sides of it."""
        length_s = start_s - last[0]
        if length_s <= 0:
            return
        energy_j = (last[1] + power_w) / 2 * length_s
        doubt_j = abs(power_w - last[1]) * length_s / math.sqrt(12)
        linear_j = self.counted.linear_j / self.counted.covered_s * length_s  # as in the segments so far
        self.counted = self.counted.plus(EnergyCount(energy_j, length_s, linear_j, doubt_j, length_s))


class _PowerIntegral:
    """Sink of a stream: the integral of power over positions, and nothing else."""

    def __init__(self) -> None:
        self.integral = 0.0  # watts times sample periods
        self.span = 0  # sample periods
        self._lock = threading.Lock()
        self._last: tuple[int, float] | None = None

    def append(
        self, index: NDArray[np.int64], power_w: NDArray[np.float64], logic: NDArray[np.uint8] | None = None
    ) -> None:
        """Add samples; across lost ones the power is a straight line."""
        if not index.size:
            return
        with self._lock:
            if self._last is not None:
                index = np.concatenate([[self._last[0]], index])
                power_w = np.concatenate([[self._last[1]], power_w])
            steps = np.diff(index)
            self.integral += float(((power_w[1:] + power_w[:-1]) / 2 * steps).sum())
            self.span += int(steps.sum())
            self._last = int(index[-1]), float(power_w[-1])


class StreamEnergyTotal:
    """Account of an instrument that streams: thousands of samples a second, of which only the sum is kept."""

    def __init__(self, meter: StreamMeter) -> None:
        """Describe it; nothing is measured before :meth:`start`."""
        self.meter: Meter = meter
        self.counted = EnergyCount()
        self.notes: list[str] = []
        self.states_accuracy = bool(meter.instrument.accuracy.reference)
        self._stream = meter
        self._before = EnergyCount()  # streams that have ended
        self._sum: _PowerIntegral | None = None

    def start(self) -> None:
        """Start the stream."""
        sink = _PowerIntegral()
        self._stream.start(lambda _inputs, _start_s: sink)
        self._sum = sink

    def tick(self) -> None:
        """Say whether the stream has broken off."""
        if self._sum is not None and not self._stream.is_streaming:
            raise MeterError(f"{self.meter.id}: the stream broke off", cure="check its cable and supply")

    def roll(self) -> None:
        """Bring the sum up to now; a stream that broke off is started anew."""
        if self._sum is not None and not self._stream.is_streaming:
            self.finish()
        if self._sum is None:
            self.start()
            return
        self.counted = self._before.plus(self._so_far(self._sum, self._sum.span * self.meter.update_s))

    def finish(self) -> None:
        """End the stream; from here on its true rate is known."""
        sink, self._sum = self._sum, None
        if sink is None:
            return
        try:
            self._stream.stop_sink()
        except DeepenError as error:
            add_note(self.notes, f"{self.meter.id}: {error}")
        ending = self._stream.ending
        length_s = sink.span * self.meter.update_s
        if ending is not None:
            length_s = ending.end_s - ending.start_s
            for warning in ending.warnings:
                add_note(self.notes, f"{self.meter.id}: {warning}")
        now = self._so_far(sink, length_s)
        if ending is not None and ending.samples and sink.span:
            lost_s = length_s * ending.loss
            doubt_j = lost_s * (ending.max_w - ending.min_w) / math.sqrt(12)
            now = now.plus(EnergyCount(random_j=doubt_j, bridged_s=lost_s))
        self._before = self.counted = self._before.plus(now)

    def _so_far(self, sink: _PowerIntegral, length_s: float) -> EnergyCount:
        if not sink.span:
            return EnergyCount()
        energy_j = sink.integral / sink.span * length_s
        accuracy = self._stream.instrument.accuracy
        linear_j = math.hypot(accuracy.gain * energy_j, accuracy.offset_w * length_s)
        return EnergyCount(energy_j, length_s, linear_j)


def add_note(notes: list[str], text: str) -> None:
    """Add a note once; the last place is for saying that there were more."""
    if text in notes or len(notes) >= _MOST_NOTES:
        return
    notes.append(text if len(notes) < _MOST_NOTES - 1 else "further notes are left out")
