"""Capture of a stream: from bytes with arrival times to a power trace, for every streaming meter.

It has no thread, port or clock: :meth:`StreamCapture.pump` receives bytes and their arrival time, so that a test, a
reader thread and a simulation in virtual time all run the same code. The time of a sample is its index in the
instrument's own stream, converted by a clock map fitted to the arrivals (``deepen.clock``), never the moment at which
its bytes happened to be read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepen.clock import ArrivalFit, ArrivalLog, SampleLoss, fit_arrivals
from deepen.clock.host_clock import ClockMap
from deepen.errors import MeterError
from deepen.meters.stream.types import Parser, StreamCounts
from deepen.records import Accuracy, PowerTrace, Source, TraceWarning, WarningCode

__all__ = ["OpenSink", "PositionIntervals", "SampleSink", "StreamCapture", "StreamSummary", "describe_stream_counts"]

_RECENT = 64
_RECONCILE_S = 0.25
"""Longest delay, after a jump of the counter, with which the clock can show that nothing is missing, seconds."""
_COVER_MARGIN_S = 5e-3
"""Margin over the estimated time of the last sample, seconds: the uncertainty of the delay floor during a stream."""


class SampleSink(Protocol):
    """A receiver of samples that are not kept in memory (``deepen.traces.TraceWriter``)."""

    def append(
        self, index: NDArray[np.int64], power_w: NDArray[np.float64], logic: NDArray[np.uint8] | None = None
    ) -> None:
        """Receive samples: positions in the instrument's stream, power in watts, digital inputs; each of shape (n,)."""


OpenSink = Callable[[bool, float], SampleSink]
"""Makes a sink once the first samples have come; takes whether they have digital inputs, and the approximate host time
of position 0 (s)."""


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """Summary of a stream that has ended.

    Attributes:
        arrivals: Clock map, true rate, and losses that only the clock shows.
        samples: Number of samples received.
        dropped: Number of samples lost, by the counters and by the clock.
        doubled: Number of samples too many, by the clock: something was counted twice.
        gaps: Stretches (start_s, end_s) of host time without trustworthy samples, ascending, not overlapping.
        index_gaps: The same as positions (last trustworthy, next trustworthy) in the instrument's stream.
        warnings: Warnings for the reader.
        start_s: Host time of the first sample, seconds.
        end_s: Host time of the last sample, seconds.
        mean_w: Mean of the samples, watts.
        min_w: Least sample, watts.
        max_w: Largest sample, watts.
    """

    arrivals: ArrivalFit
    samples: int
    dropped: int
    doubled: int
    gaps: tuple[tuple[float, float], ...]
    index_gaps: tuple[tuple[int, int], ...]
    warnings: tuple[TraceWarning, ...]
    start_s: float
    end_s: float
    mean_w: float
    min_w: float
    max_w: float

    @property
    def clock(self) -> ClockMap:
        """Map from a sample's position over the nominal rate, losses inserted, to its host time."""
        return self.arrivals.clock

    @property
    def loss(self) -> float:
        """Share of the samples that were lost, 0..1."""
        return self.dropped / (self.dropped + self.samples)


class PositionIntervals:
    """Stretches of positions in bounded memory: if there are too many, neighbours are merged (stretches only grow)."""

    def __init__(self, limit: int = 8192) -> None:
        """Keep at most ``limit`` stretches."""
        self._limit = limit
        self._join = 0
        self._items: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Add a stretch; its start is not before the start of the last one added."""
        if self._items and start < self._items[-1][1] + self._join:
            self._items[-1] = (self._items[-1][0], max(end, self._items[-1][1]))
            return
        self._items.append((start, end))
        while len(self._items) > self._limit:
            self._join = max(1, 2 * self._join)
            items, self._items = self._items, []
            for first, last in items:
                self.add(first, last)

    @property
    def items(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches, ascending and disjoint."""
        return tuple(self._items)


class StreamCapture:
    """Collects one stream.

    Attributes:
        samples: Number of samples so far.
    """

    def __init__(
        self,
        parser: Parser,
        rate_hz: float,
        *,
        sampling: Literal["point", "mean"] = "point",
        quantum: int = 1,
        began_s: float | None = None,
        open_sink: OpenSink | None = None,
    ) -> None:
        """Start with a fresh parser.

        Args:
            parser: Parser of the stream.
            rate_hz: Nominal sample rate, hertz.
            sampling: Meaning of a sample (see ``PowerTrace``). Sample ``k`` is complete at the end of period ``k``; a
                mean carries that time, a point the middle of the period.
            quantum: Losses that the instrument's counter cannot see are multiples of this.
            began_s: Host time before which no sample can have been taken, seconds; ``None`` where unknown.
            open_sink: Makes the receiver of samples; ``None`` keeps them in memory for :meth:`trace`.
        """
        self.samples = 0
        self._began_s = began_s
        self._parser = parser
        self._rate_hz = rate_hz
        self._open_sink = open_sink
        self._sink: SampleSink | None = None
        self._inputs = False
        self._sampling: Literal["point", "mean"] = sampling
        self._quantum = quantum
        self._log = ArrivalLog(rate_hz)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._first = self._last = -1
        self._first_s = float("nan")
        self._first_tally_lost = 0
        self._chunks: list[tuple[int, NDArray[np.int64] | None, NDArray[np.float64], NDArray[np.uint8] | None]] = []
        self._holes = PositionIntervals()
        self._suspects = PositionIntervals()
        self._doubts = PositionIntervals()
        self._received = 0
        self._suspect = self._repeated = self._invalid = 0
        self._sum_w, self._min_w, self._max_w = 0.0, float("inf"), float("-inf")

    def pump(self, data: bytes, host_s: float) -> int:
        """Process received bytes.

        Args:
            data: All bytes available when the port was read.
            host_s: Time at which the read returned, on the host's monotonic clock, seconds.

        Returns:
            Number of samples they completed.
        """
        found = self._parser.feed(data)
        for start, end in _pop_all(getattr(self._parser, "doubts", None)):
            self._doubts.add(start, end)
        # A parser that holds samples back until they are confirmed reports the position reached by the stream.
        received: int | None = getattr(self._parser, "received", None)
        if received is not None and received > self._received:
            self._received = received
            self._arrived(received, host_s)
        index, power_w, logic = found.index, found.power_w, found.logic
        if not index.size:
            return 0
        keep = self._select_valid_samples(index, power_w)
        if keep is not None:
            index, power_w = index[keep], power_w[keep]
            logic = None if logic is None else logic[keep]
            if not index.size:
                return 0
        if self._first < 0:
            self._first = int(index[0])
            self._first_s = host_s
            self._first_tally_lost = self._parser.tally.lost
            self._inputs = logic is not None
            if self._open_sink is not None:
                self._sink = self._open_sink(self._inputs, host_s - int(index[-1]) / self._rate_hz)
        if self._inputs and logic is None:
            logic = np.zeros(index.size, np.uint8)
        self._note_holes(index)
        if found.suspect is not None:
            self._note_suspects(index, found.suspect if keep is None else found.suspect[keep])
        self._last = int(index[-1])
        self.samples += int(index.size)
        self._sum_w += float(power_w.sum())
        self._min_w = min(self._min_w, float(power_w.min()))
        self._max_w = max(self._max_w, float(power_w.max()))
        if received is None:
            self._arrived(self._last + 1, host_s)
        if self._sink is not None:
            self._sink.append(index, power_w, logic if self._inputs else None)
        else:
            whole = self._last - int(index[0]) == index.size - 1
            self._chunks.append((int(index[0]), None if whole else index, power_w, logic))
        return int(index.size)

    def _arrived(self, position: int, host_s: float) -> None:
        self._log.add(position, host_s)
        self._recent.append(host_s - position / self._rate_hz)

    def started(self) -> bool:
        """True once the stream covers the moment at which its first samples came in."""
        return self.samples > 0 and self.has_reached(self._first_s)

    def has_reached(self, host_s: float) -> bool:
        """Return whether samples of a moment of host time have come in, as far as known during the stream."""
        if not self._recent:
            return False
        floor_s = min(tuple(self._recent))
        return (self._last + 1) / self._rate_hz + floor_s >= host_s + _COVER_MARGIN_S + 2 / self._rate_hz

    def finish(self, name: str, extra: Iterable[TraceWarning] = ()) -> StreamSummary:
        """Fit the clock, and account for lost samples.

        Args:
            name: Name of the instrument in messages.
            extra: Further warnings.

        Raises:
            MeterError: If not one sample came in.
        """
        if not self.samples:
            what = "; ".join(describe_stream_counts(self._parser.tally)) or "nothing could be decoded"
            raise MeterError(
                f"{name} gave no samples ({what})", cure="check that it is the right instrument, and its settings"
            )
        begun = None if self._began_s is None else (self._first, self._began_s)
        arrivals = fit_arrivals(*self._arrivals(), self._rate_hz, begun=begun, quantum=self._quantum)
        # The fit gives the start of period k; a sample's time lies half a period or a whole one later.
        shift_s = (1.0 if self._sampling == "mean" else 0.5) / self._rate_hz
        arrivals = replace(arrivals, clock=replace(arrivals.clock, device_s=arrivals.clock.device_s - shift_s))
        arrivals, refuted = self._reconcile(arrivals)
        tally = self._parser.tally
        # Positions without a sample are losses, except those at which the instrument measured itself. A parser may also
        # count a loss without moving its index.
        missing = self._last - self._first + 1 - self.samples
        counted = max(missing - tally.paused, tally.lost - self._first_tally_lost, 0)
        counted = max(counted - refuted, 0)
        by_clock = sum(max(0, loss.samples) for loss in arrivals.losses) + arrivals.unlocated_losses
        if refuted:
            text = f"counter: it jumped by {refuted} samples that are not missing by the clock"
            extra = (TraceWarning("trace", text), *extra)
        warnings = [*self._warnings(counted), *(TraceWarning("loss", text) for text in arrivals.problems), *extra]
        index_gaps = self._gaps(arrivals)
        at, back = np.unique(np.array([*index_gaps, (self._first, self._last)], dtype=np.int64), return_inverse=True)
        edges = [(float(a), float(b)) for a, b in arrivals.times(at)[back.reshape(-1, 2)]]
        return StreamSummary(
            arrivals=arrivals,
            samples=self.samples,
            dropped=counted + by_clock,
            doubled=-sum(min(0, loss.samples) for loss in arrivals.losses) - refuted,
            gaps=tuple(edges[:-1]),
            index_gaps=index_gaps,
            warnings=tuple(dict.fromkeys(warnings)),
            start_s=edges[-1][0],
            end_s=edges[-1][1],
            mean_w=self._sum_w / self.samples,
            min_w=self._min_w,
            max_w=self._max_w,
        )

    def trace(
        self,
        ending: StreamSummary,
        *,
        meter_id: str,
        calibration_id: str,
        source: Source,
        accuracy: Accuracy,
    ) -> PowerTrace:
        """Make the trace of the samples kept in memory, and release them.

        Args:
            ending: Summary from :meth:`finish`.
            meter_id: Name of the power source.
            calibration_id: Name of the calibration applied.
            source: Label.
            accuracy: Accuracy the instrument states.
        """
        chunks, self._chunks = self._chunks, []
        index = np.concatenate(
            [np.arange(first, first + power.size) if exact is None else exact for first, exact, power, _ in chunks]
        )
        power_w = np.concatenate([power for _, _, power, _ in chunks])
        logic = np.concatenate([inputs for *_, inputs in chunks if inputs is not None]) if self._inputs else None
        return PowerTrace(
            t_s=ending.arrivals.times(index),
            power_w=power_w,
            rate_hz=self._rate_hz,
            meter_id=meter_id,
            calibration_id=calibration_id,
            source=source,
            gaps=ending.gaps,
            dropped=ending.dropped,
            sampling=self._sampling,
            logic=logic,
            clock=ending.clock,
            accuracy=accuracy,
            warnings=ending.warnings,
        )

    def _select_valid_samples(self, index: NDArray[np.int64], power_w: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Return the mask of samples to keep: those with a number, at new positions; ``None`` for all."""
        finite = np.isfinite(power_w)
        ahead = np.maximum.accumulate(np.concatenate([[self._last], index[:-1]])) < index
        if finite.all() and ahead.all():
            return None
        self._repeated += int(np.count_nonzero(~ahead))
        self._invalid += int(np.count_nonzero(~finite & ahead))
        keep: NDArray[np.bool_] = finite & ahead
        return keep

    def _note_holes(self, index: NDArray[np.int64]) -> None:
        if self._last >= 0 and index[0] > self._last + 1:
            self._holes.add(self._last, int(index[0]))
        if index[-1] - index[0] != index.size - 1:
            for k in np.flatnonzero(np.diff(index) > 1).tolist():
                self._holes.add(int(index[k]), int(index[k + 1]))

    def _note_suspects(self, index: NDArray[np.int64], suspect: NDArray[np.bool_]) -> None:
        """Add each run of suspect samples, from the good sample before it to the good one after it."""
        count = int(np.count_nonzero(suspect))
        if not count:
            return
        self._suspect += count
        edges = np.flatnonzero(np.diff(np.concatenate([[False], suspect, [False]]).astype(np.int8)))
        for a, b in edges.reshape(-1, 2).tolist():
            self._suspects.add(int(index[a]) - 1, int(index[b - 1]) + 1)

    def _arrivals(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and arrival times, without those in stretches with wrong positions if others are left.

        Such a stretch ends before the position where the stream continued.
        """
        index, host_s = self._log.arrays()
        keep = np.ones(index.size, bool)
        for start, end in self._doubts.items:
            keep &= (index <= start + 1) | (index > end)
        return (index[keep], host_s[keep]) if keep.any() else (index, host_s)

    def _reconcile(self, arrivals: ArrivalFit) -> tuple[ArrivalFit, int]:
        """Correct the counter where the clock finds too many samples just after the counter reported a loss.

        Returns:
            The fit with those corrections at the jumps of the counter, and the number of samples wrongly counted as
            lost.
        """
        losses, refuted = list(arrivals.losses), 0
        reach = round(_RECONCILE_S * self._rate_hz)
        for start, end in self._holes.items:
            size = end - start - 1
            near = [n for n in losses if n.samples < 0 and n.after_index - reach <= end <= n.before_index]
            if not near:
                continue
            if self._quantum == 1 and abs(size + sum(n.samples for n in near)) <= size // 4:
                samples = -size  # exactly the jump of the counter
            else:
                near = [min(near, key=lambda n: abs(size + n.samples))]
                samples = near[0].samples
            refuted += min(size, -samples)
            error = math.hypot(*(n.error_samples for n in near))
            losses = [n for n in losses if n not in near]
            losses.append(SampleLoss(min(start, end + samples - 1), samples, error, end))
        losses.sort(key=lambda loss: loss.before_index)
        return replace(arrivals, losses=tuple(losses)), refuted

    def _gaps(self, arrivals: ArrivalFit) -> tuple[tuple[int, int], ...]:
        """Return the stretches without trustworthy samples within the stream, overlapping ones merged."""
        unsure = [(loss.after_index, max(loss.before_index, loss.after_index + 1)) for loss in arrivals.losses]
        merged: list[tuple[int, int]] = []
        for a, b in sorted([*self._holes.items, *self._suspects.items, *self._doubts.items, *unsure]):
            start, end = max(a, self._first), min(b, self._last)
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            elif end > start:
                merged.append((start, end))
        return tuple(merged)

    def _warnings(self, counted: int) -> list[TraceWarning]:
        return [
            *_describe_counts(
                (counted, "loss", "lost: {} samples are missing by the instrument's own counter"),
                (self._suspect, "trace", "suspect: {} samples are not to be trusted (out of range or not settled)"),
                (self._repeated, "trace", "duplicates: {} samples came at positions seen before and were left out"),
                (self._invalid, "loss", "invalid: {} samples had no number and count as lost"),
            ),
            *describe_stream_counts(self._parser.tally),
        ]


def _pop_all(doubts: list[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Remove and return all items of a list."""
    if not doubts:
        return []
    found = doubts[:]
    doubts.clear()
    return found


def describe_stream_counts(tally: StreamCounts) -> list[TraceWarning]:
    """List the errors of a stream, one line each, beginning with a stable word."""
    return [
        *_describe_counts(
            (
                tally.ambiguous,
                "trace",
                "ambiguous: {} breaks are longer than the counter can tell; their length is the clock's",
            ),
            (tally.corrupt, "trace", "corrupt: {} frames were refused for a bad checksum, length or value"),
            (tally.skipped_bytes, "trace", "resynchronised: {} bytes were thrown away to find the next frame"),
            (tally.duplicates, "trace", "duplicates: {} frames came twice"),
            (
                tally.uncalibrated,
                "trace",
                "uncalibrated: {} samples came before the calibration was known and were left out",
            ),
            (tally.paused, "trace", "paused: the instrument calibrated itself for {} sample periods"),
            (tally.clipped, "clipping", "clipped: {} samples are at the end of a range"),
            (tally.range_switches, "range-switching", "range switches: {}"),
        ),
        *tally.notes,
    ]


def _describe_counts(*counted: tuple[int, WarningCode, str]) -> list[TraceWarning]:
    return [TraceWarning(code, text.format(count)) for count, code, text in counted if count]
