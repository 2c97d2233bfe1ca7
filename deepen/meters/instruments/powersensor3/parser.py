"""Parser of the PowerSensor3's stream into samples.

Protocol (firmware 1.6, ``PowerSensor.ino`` and ``PowerSensor.cc`` of nlesc-recruit/PowerSensor3): every value is two
bytes, ``1 iii aaaa`` and ``0 m bbbbbb``: sensor i, ten-bit level ab, marker m. A frame is a time stamp (sensor 7 with m
set, level in microseconds, wraps at 1024) and the levels of sensors 0 to 7; only sensor 0 can carry a marker. Even
sensors measure current, the odd one after each measures its voltage. There is no checksum: the top bits distinguish
first from second bytes, the order of sensors a whole frame from a torn one, and the time stamps show losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepen.meters.instruments.powersensor3.config import ADC_V, LEVELS, SENSORS, SensorConfig
from deepen.meters.stream.outliers import OutlierCounter
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["FRAME", "PowerSensor3Parser", "measure_frame_period_us"]

FRAME = 2 + 2 * SENSORS
WRAP_US = 1024
MARKER, DOUBTFUL = 1 + SENSORS, 2
"""Column of the marker in the table of frames, and a bit set there for frames that came in two versions."""

TOLERANCE, TOLERANCE_US = 0.2, 10.0
"""Tolerance of a time stamp as a share of the period, and its upper limit (stamps are made in software)."""

RECENT = 16
"""Frames within which one that is the same to the last bit, stamp included, came twice: stamps repeat later."""


def measure_frame_period_us(data: bytes) -> float:
    """Measure the time between two frames of a stream from its time stamps.

    Args:
        data: A piece of the stream, cut anywhere.

    Returns:
        The mean of the steps near the median one, microseconds; ``nan`` with fewer than 16 frames, or where none is.
    """
    raw = np.frombuffer(data, np.uint8)
    stamps = _unpack_levels(_find_frames(raw)[1])[:, 0].astype(np.int64)
    if stamps.size < 16:
        return math.nan
    steps = np.diff(stamps) % WRAP_US
    middle = float(np.median(steps))
    near = steps[np.abs(steps - middle) <= _compute_tolerance_us(middle)]
    return float(near.mean()) if near.size else math.nan


def _compute_tolerance_us(period_us: float) -> float:
    return min(TOLERANCE * period_us, TOLERANCE_US)


_OFFSETS = np.arange(FRAME)

_CHECKED = np.array([0xF0, 0x80, 0xF0, 0x80, *(0xF0, 0xC0) * (SENSORS - 1)], np.uint8)
"""Bits of a frame's bytes that must be as expected: all but the levels and the markers of time stamp and sensor 0."""

_EXPECTED = np.array([0xF0, 0x00, *(b for k in range(SENSORS) for b in (0x80 | k << 4, 0x00))], np.uint8)


def _find_frames(raw: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Find whole frames: a time stamp and the eight sensors in order, with no byte missing or added.

    Args:
        raw: Bytes; shape (n,).

    Returns:
        Where whole frames begin, shape (m,), and their bytes, shape (m, 18); and where time stamps begin that no whole
        frame follows, shape (c,), of which those in the last 17 bytes may yet become whole.
    """
    starts = np.flatnonzero((raw[:-1] >= 0xF0) & ((raw[1:] & 0xC0) == 0x40))
    complete = int(np.searchsorted(starts, raw.size - FRAME, side="right"))
    frames = raw[starts[:complete, None] + _OFFSETS]
    wrong = ((frames & _CHECKED) != _EXPECTED).any(axis=1)
    if not wrong.any():
        return starts[:complete], frames, starts[complete:]
    return starts[:complete][~wrong], frames[~wrong], np.concatenate([starts[:complete][wrong], starts[complete:]])


def _unpack_levels(frames: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack whole frames, shape (m, 18), into time stamp, levels of the sensors, and marker; shape (m, 10)."""
    levels = np.empty((len(frames), 2 + SENSORS), np.uint16)
    np.bitwise_and(frames[:, 0::2], 0x0F, out=levels[:, :-1])
    levels[:, :-1] <<= 6
    levels[:, :-1] |= frames[:, 1::2] & 0x3F
    levels[:, MARKER] = frames[:, 3] >> 6
    return levels


def _build_step_table(period_us: float) -> tuple[NDArray[np.int64], int]:
    """Build the table of periods for a difference of time stamps: the fewest that fit.

    Losses longer than the 1024 us after which stamps repeat still leave a remainder that mostly fits one number of
    periods only.

    Args:
        period_us: Time between two frames, microseconds.

    Returns:
        Periods for every difference modulo 1024, shape (1024,), at least 1; and the smallest invisible loss.
    """
    far = np.full(WRAP_US, math.inf)
    steps = np.ones(WRAP_US, np.int64)
    for n in range(1, 2 + math.ceil(2 * WRAP_US / period_us)):
        away = np.abs((np.arange(WRAP_US) - n * period_us + WRAP_US / 2) % WRAP_US - WRAP_US / 2)
        # The first number that fits stays; a difference that fits none (a damaged stamp) takes the nearest.
        better = (away < far) & (far > _compute_tolerance_us(period_us))
        steps[better], far[better] = n, away[better]
    further = np.arange(1, 1 + math.ceil(8 * WRAP_US / period_us)) * period_us % WRAP_US
    unseen = np.flatnonzero(np.minimum(further, WRAP_US - further) <= _compute_tolerance_us(period_us))
    return steps, int(unseen[0]) + 1 if unseen.size else 1


class PowerSensor3Parser:
    """Parser of frames into samples; power is the sum of current times voltage over pairs.

    Attributes:
        tally: Counts of the faults so far. A break of the time stamps is ``ambiguous`` unless the discarded bytes
            account for it. The frame before a break is suspect: it may be made of parts of two.
        quantum: Losses that the time stamps cannot see are multiples of this.
    """

    def __init__(
        self,
        sensors: Sequence[SensorConfig],
        pairs: Sequence[int],
        *,
        period_us: float = 50.0,
        voltage_v: float = math.nan,
    ) -> None:
        """Prepare the tables.

        Args:
            sensors: Configuration of the eight sensors.
            pairs: Pairs to add up; pair p is sensors 2p and 2p+1.
            period_us: Time between two frames, microseconds, 1 to 1023.
            voltage_v: Voltage of pairs whose voltage sensor is not in use.
        """
        self.tally = StreamCounts()
        self._period_us = round(period_us)
        self._steps, self.quantum = _build_step_table(period_us)
        self._pairs = tuple(pairs)
        self._values = {2 * p: sensors[2 * p].values() for p in pairs}
        for k in (2 * p + 1 for p in pairs):
            self._values[k] = sensors[k].values() if sensors[k].in_use else np.full(LEVELS, voltage_v)
        used = [k for k in self._values if sensors[k].in_use]
        self._ends = {k: np.zeros(LEVELS, np.bool_) for k in used}
        for k, ends in self._ends.items():
            # The lowest level of a sensor whose zero lies above it is a limit; else it is 0 V.
            ends[-1], ends[0] = True, sensors[k].reference_v > ADC_V / (LEVELS - 1)
        self._outliers = OutlierCounter()
        self._rest = b""
        self._taken = 0  # bytes of the stream before the rest
        self._end = 0  # where the last whole frame ended in the stream
        self._index = 0  # position of the next frame if nothing is lost
        self._before = np.empty(0, np.int64)  # time stamp of the last frame taken
        self._held = np.empty((0, 2 + SENSORS), np.uint16)  # the frame after it, until the next one is there
        self._held_thrown = np.empty(0, np.int64)
        self._recent = np.empty((0, 2 + SENSORS), np.uint16)  # the last frames, as they came

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes, split anywhere, and return the samples they complete."""
        raw = np.frombuffer(self._rest + data, np.uint8)
        starts, frames, torn = _find_frames(raw)
        unfinished = torn[torn + FRAME > raw.size]
        end = int(unfinished[0]) if unfinished.size else raw.size - int(raw.size and raw[-1] >= 0xF0)
        self._count(raw[:end], starts, torn.size - unfinished.size)
        ends = np.concatenate([[self._end], starts + (self._taken + FRAME)])
        thrown = np.diff(ends) - FRAME
        self._rest, self._taken, self._end = raw[end:].tobytes(), self._taken + end, int(ends[-1])
        return self._place(*self._new(_unpack_levels(frames), thrown))

    def _count(self, raw: NDArray[np.uint8], starts: NDArray[np.int64], torn: int) -> None:
        """Count the bytes that are in no frame.

        Args:
            raw: Processed bytes; shape (n,).
            starts: Starts of whole frames in them; shape (m,).
            torn: Number of time stamps that no whole frame follows.
        """
        self.tally.corrupt += torn
        stray = raw.size - FRAME * starts.size
        if stray:
            outside = np.ones(raw.size, np.bool_)
            outside[(starts[:, None] + np.arange(FRAME)).ravel()] = False
            # The signal that a stream has stopped is neither data nor damage.
            stops = (raw[:-1] == 0xFF) & (raw[1:] == 0x3F) & outside[:-1] & outside[1:]
            self.tally.skipped_bytes += stray - 2 * int(np.count_nonzero(stops))

    def _new(
        self, frames: NDArray[np.uint16], thrown: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Put the held frame before new ones, and leave out frames that came twice.

        Args:
            frames: As of :func:`_unpack_levels`, shape (m, 10).
            thrown: Bytes thrown away before each, shape (m,).
        """
        known = np.concatenate([self._recent, frames])
        stamps = known[:, 0].astype(np.int64)
        self._recent = known[-RECENT:]
        if (self._steps[np.diff(stamps) % WRAP_US] != 1).any():
            twice = np.zeros(len(known), np.bool_)
            for lag in range(1, min(RECENT, len(known) - 1) + 1):
                twice[lag:] |= (known[lag:] == known[:-lag]).all(axis=1)
            new = ~twice[len(known) - len(frames) :]
            self.tally.duplicates += len(frames) - int(np.count_nonzero(new))
            frames, thrown = frames[new], thrown[new]
        frames, thrown = np.concatenate([self._held, frames]), np.concatenate([self._held_thrown, thrown])
        again = frames[1:, 0] == frames[:-1, 0]
        if again.any():
            # Two different frames with one stamp: one of them is made of parts of two, but which is unknown.
            self.tally.duplicates += int(np.count_nonzero(again))
            frames[1:][again, MARKER] |= DOUBTFUL
            keep = np.append(~again, True)
            frames, thrown = frames[keep], thrown[keep]
        return frames, thrown

    def _place(self, frames: NDArray[np.uint16], thrown: NDArray[np.int64]) -> Samples:
        """Assign positions to frames and convert them to samples; arguments as of :meth:`_new`."""
        # The last frame waits: the next one shows whether time jumped there, or only its stamp is damaged.
        count = len(frames) - 1
        self._held, self._held_thrown = frames[-1:], thrown[-1:]
        if count < 1:
            return Samples.none()
        stamps = frames[:, 0].astype(np.int64)
        # Before a break a frame may be made of parts of two.
        doubtful = (self._steps[np.diff(stamps) % WRAP_US] != 1) | (frames[:count, MARKER] & DOUBTFUL != 0)
        accounted = np.rint(thrown / FRAME).astype(np.int64)
        steps, damaged = self._periods(stamps, accounted)
        missing = steps - 1
        self.tally.corrupt += damaged
        self.tally.lost += int(missing.sum())
        self.tally.ambiguous += int(np.count_nonzero((missing > 0) & (missing != accounted[:count])))
        index = self._index + np.cumsum(steps) - 1
        self._index = int(index[-1]) + 1
        self._before = stamps[count - 1 : count]
        return self._convert(frames[:count], index, doubtful)

    def _periods(self, stamps: NDArray[np.int64], accounted: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """Return the periods between each frame and the previous one.

        A stamp that fits neither the one before nor the one after, while these fit each other, is damaged.

        Args:
            stamps: Time stamps, shape (m + 1,); damaged ones are corrected in place. The last only judges.
            accounted: Frames missing before each, as far as bytes were thrown away; shape (m + 1,).

        Returns:
            Periods, shape (m,), and the number of damaged stamps.
        """
        first = self._before.size
        line = np.concatenate([self._before, stamps])
        steps = self._steps[np.diff(line) % WRAP_US]
        damaged = 0
        for k in np.flatnonzero((steps[:-1] != 1) & (steps[1:] != 1)).tolist():
            # Around line[k + 1], which is stamps[k + 1 - first].
            gone = int(accounted[k + 1 - first])
            if steps[k] == 1 or self._steps[(line[k + 2] - line[k]) % WRAP_US] != 2 + gone:
                continue
            if (line[k + 1] - line[k] - (1 + gone) * self._period_us) % WRAP_US == 0:
                continue
            line[k + 1] = (line[k] + (1 + gone) * self._period_us) % WRAP_US
            steps[k : k + 2] = self._steps[np.diff(line[k : k + 3]) % WRAP_US]
            damaged += 1
        stamps[:] = line[first:]
        # The very first frame of a stream is taken as it comes.
        return np.append(np.ones(1 - first, np.int64), steps)[: stamps.size - 1], damaged

    def _convert(self, frames: NDArray[np.uint16], index: NDArray[np.int64], doubtful: NDArray[np.bool_]) -> Samples:
        """Convert frames to samples; shapes (n, 10), (n,) and (n,), n at least 1."""
        value = {k: table[frames[:, 1 + k]] for k, table in self._values.items()}
        step = {k: abs(float(table[1] - table[0])) for k, table in self._values.items()}
        power_w, step_w = np.zeros(index.size), np.zeros(index.size)
        for p in self._pairs:
            current_a, voltage_v = value[2 * p], value[2 * p + 1]
            power_w += current_a * voltage_v
            step_w += np.abs(voltage_v) * step[2 * p] + np.abs(current_a) * step[2 * p + 1]
        clipped = np.zeros(index.size, np.bool_)
        for k, ends in self._ends.items():
            clipped |= ends[frames[:, 1 + k]]
        self.tally.clipped += int(np.count_nonzero(clipped))
        sure = ~doubtful
        self._outliers.feed(power_w[sure], step_w[sure], np.zeros(int(np.count_nonzero(sure)), np.uint8))
        self._outliers.report(self.tally)
        suspect = clipped | doubtful
        single = self._pairs[0] if len(self._pairs) == 1 else None
        return Samples(
            index=index,
            power_w=power_w,
            current_a=None if single is None else value[2 * single],
            voltage_v=None if single is None else value[2 * single + 1],
            logic=(frames[:, MARKER] & 1).astype(np.uint8),
            suspect=suspect if suspect.any() else None,
        )
