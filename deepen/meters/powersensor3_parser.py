"""PowerSensor3: bytes to samples, and the sensors' configuration.

Protocol (firmware 1.6, ``PowerSensor.ino`` and ``PowerSensor.cc`` of nlesc-recruit/PowerSensor3): every value is two
bytes, ``1 iii aaaa`` and ``0 m bbbbbb``: sensor i, ten-bit level ab, marker m. A frame is a time stamp (sensor 7 with m
set, level in microseconds, wraps at 1024) and the levels of sensors 0 to 7; only sensor 0 can carry a marker. Even
sensors measure current, the odd one after each measures its voltage. There is no checksum: the top bits tell first from
second bytes, the order of sensors tells a whole frame from a torn one, and the time stamps tell what is missing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.meters.outliers import Outliers
from deepen.meters.stream import Samples, Tally

__all__ = ["CONFIG_BYTES", "FRAME", "SENSORS", "PowerSensor3Parser", "Sensor", "frame_period_us", "parse_config"]

SENSORS = 8
FRAME = 2 + 2 * SENSORS
WRAP_US = 1024
LEVELS = 1024
ADC_V = 3.3
"""Full scale of the converter, volts."""

RECORD = struct.Struct("<16s16sff?")
"""A sensor's configuration: type, name of the pair, reference voltage, sensitivity, in use."""

CONFIG_BYTES = SENSORS * RECORD.size

TOLERANCE = 0.2
"""How far a time stamp may be from its place, as a share of the period (the firmware stamps after averaging)."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor's configuration.

    Attributes:
        type: What is plugged in, for example ``MLX10``.
        pair: Name of the pair of sensors.
        reference_v: Output at zero, volts.
        sensitivity: Volts per ampere of a current sensor; gain of a voltage sensor.
        in_use: Whether anything is plugged in.
    """

    type: str
    pair: str
    reference_v: float
    sensitivity: float
    in_use: bool

    def values(self) -> NDArray[np.float64]:
        """Amperes (volts) of every level: ``(3.3 level / 1023 - reference) / sensitivity``; float64, shape (1024,)."""
        return (ADC_V * np.arange(LEVELS) / (LEVELS - 1) - self.reference_v) / self.sensitivity

    @property
    def defect(self) -> str:
        """Why it cannot be used; empty if it can."""
        if not math.isfinite(self.sensitivity) or self.sensitivity == 0:
            return f"its sensitivity is {self.sensitivity:g}"
        if not 0 <= self.reference_v <= ADC_V:
            return f"its reference voltage is {self.reference_v:g} V"
        return ""


def parse_config(data: bytes) -> tuple[Sensor, ...] | None:
    """Read the configuration of all sensors.

    Args:
        data: ``CONFIG_BYTES`` bytes.

    Returns:
        Eight sensors, or ``None`` if no PowerSensor3 wrote this.
    """
    if len(data) != CONFIG_BYTES:
        return None
    sensors = []
    for k in range(0, CONFIG_BYTES, RECORD.size):
        record = data[k : k + RECORD.size]
        kind, pair, reference_v, sensitivity, in_use = RECORD.unpack(record)
        names = [raw.partition(b"\0")[0] for raw in (kind, pair)]
        if record[-1] > 1 or (in_use and any(b < 0x20 for name in names for b in name)):
            return None
        kind, pair = (name.decode("utf-8", "replace").strip() for name in names)
        sensors.append(Sensor(kind, pair, reference_v, sensitivity, in_use))
    return tuple(sensors)


def frame_period_us(data: bytes) -> float:
    """Time between two frames of a stream, from its time stamps.

    Args:
        data: A piece of the stream, cut anywhere.

    Returns:
        The mean of the steps near the median one, microseconds; ``nan`` with fewer than 16 frames.
    """
    raw = np.frombuffer(data, np.uint8)
    stamps = _levels(raw, _frames(raw)[0])[:, 0].astype(np.int64)
    if stamps.size < 16:
        return math.nan
    steps = np.diff(stamps) % WRAP_US
    middle = float(np.median(steps))
    return float(steps[np.abs(steps - middle) <= TOLERANCE * middle].mean())


_FIRST = np.array([0xF0, *(0x80 | k << 4 for k in range(SENSORS))], np.uint8)
"""Upper halves of the first bytes of a frame."""

_CLEAR = np.array([0x80, 0x80, *(0xC0,) * (SENSORS - 1)], np.uint8)
"""Bits of the second bytes of a frame that must be clear: the top one; the marker, but for time stamp and sensor 0."""


def _frames(raw: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find whole frames: a time stamp and the eight sensors in order, with no byte missing or added.

    Args:
        raw: Bytes; shape (n,).

    Returns:
        Where whole frames begin, shape (m,), and where time stamps begin that no whole frame follows, shape (c,); those
        of the last 17 bytes may yet become whole.
    """
    starts = np.flatnonzero((raw[:-1] >= 0xF0) & ((raw[1:] & 0xC0) == 0x40))
    complete = starts + FRAME <= raw.size
    whole = complete.copy()
    if complete.any():
        window = np.lib.stride_tricks.sliding_window_view(raw, FRAME)[starts[complete]]
        whole[complete] = ((window[:, 0::2] & 0xF0) == _FIRST).all(axis=1) & ~(window[:, 1::2] & _CLEAR).any(axis=1)
    return starts[whole], starts[~whole]


def _levels(raw: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Time stamp, levels of the sensors, and marker of whole frames; shape (m, 10)."""
    if not starts.size:
        return np.empty((0, 2 + SENSORS), np.uint16)
    window = np.lib.stride_tricks.sliding_window_view(raw, FRAME)[starts].astype(np.uint16)
    levels = ((window[:, 0::2] & 0x0F) << 6) | (window[:, 1::2] & 0x3F)
    return np.column_stack([levels, (window[:, 3] >> 6) & 1])


def _step_table(period_us: float) -> tuple[NDArray[np.int64], int]:
    """How many periods a difference of time stamps stands for: the fewest that fit.

    Losses longer than the 1024 us after which stamps repeat still leave a remainder that mostly fits one number of
    periods only.

    Args:
        period_us: Time between two frames, microseconds.

    Returns:
        Periods for every difference modulo 1024, shape (1024,), at least 1; and the loss that leaves no trace.
    """
    far = np.full(WRAP_US, math.inf)
    steps = np.ones(WRAP_US, np.int64)
    for n in range(1, 2 + math.ceil(2 * WRAP_US / period_us)):
        away = np.abs((np.arange(WRAP_US) - n * period_us + WRAP_US / 2) % WRAP_US - WRAP_US / 2)
        # The first number that fits stays; a difference that fits none (a damaged stamp) takes the nearest.
        better = (away < far) & (far > TOLERANCE * period_us)
        steps[better], far[better] = n, away[better]
    further = np.arange(1, 1 + math.ceil(8 * WRAP_US / period_us)) * period_us % WRAP_US
    unseen = np.flatnonzero(np.minimum(further, WRAP_US - further) <= TOLERANCE * period_us)
    return steps, int(unseen[0]) + 1 if unseen.size else 1


class PowerSensor3Parser:
    """Frames to samples: power is the sum over pairs of current times voltage.

    Attributes:
        tally: What went wrong so far. A break of the time stamps is ``ambiguous`` unless the bytes thrown away account
            for it.
        quantum: Losses that the time stamps cannot see are multiples of this.
    """

    def __init__(
        self, sensors: Sequence[Sensor], pairs: Sequence[int], *, period_us: float = 50.0, voltage_v: float = math.nan
    ) -> None:
        """Prepare the tables.

        Args:
            sensors: Configuration of the eight sensors.
            pairs: Which pairs to add up; pair p is sensors 2p and 2p+1.
            period_us: Time between two frames, microseconds, 1 to 1023.
            voltage_v: Voltage of pairs whose voltage sensor is not in use.
        """
        self.tally = Tally()
        self._period_us = round(period_us)
        self._steps, self.quantum = _step_table(period_us)
        self._pairs = tuple(pairs)
        self._values = {2 * p: sensors[2 * p].values() for p in pairs}
        for k in (2 * p + 1 for p in pairs):
            self._values[k] = sensors[k].values() if sensors[k].in_use else np.full(LEVELS, voltage_v)
        used = [k for k in self._values if sensors[k].in_use]
        self._columns = np.array([1 + k for k in used])
        # The lowest level of a sensor whose zero lies above it is a limit; else it is 0 V.
        self._lowest = np.array([0 if sensors[k].reference_v > ADC_V / (LEVELS - 1) else -1 for k in used])
        self._outliers = Outliers()
        self._rest = b""
        self._taken = 0  # bytes of the stream before the rest
        self._end = 0  # where the last whole frame ended in the stream
        self._index = 0  # position of the next frame if nothing is lost
        self._before = np.empty((0, 2 + SENSORS), np.uint16)  # the last frame
        self._held = np.empty((0, 2 + SENSORS), np.uint16)  # a frame after a break, until the next one judges its stamp
        self._held_thrown = np.empty(0, np.int64)

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes."""
        raw = np.frombuffer(self._rest + data, np.uint8)
        starts, torn = _frames(raw)
        unfinished = torn[torn + FRAME > raw.size]
        end = int(unfinished[0]) if unfinished.size else raw.size - int(raw.size and raw[-1] >= 0xF0)
        self._count(raw[:end], starts, torn.size - unfinished.size)
        frames = np.concatenate([self._held, _levels(raw, starts)])
        ends = np.concatenate([[self._end], starts + (self._taken + FRAME)])
        thrown = np.concatenate([self._held_thrown, np.diff(ends) - FRAME])
        self._rest, self._taken, self._end = raw[end:].tobytes(), self._taken + end, int(ends[-1])
        return self._place(frames, thrown)

    def _count(self, raw: NDArray[np.uint8], starts: NDArray[np.int64], torn: int) -> None:
        """Count what is in no frame.

        Args:
            raw: Bytes that are done with; shape (n,).
            starts: Where whole frames begin in them; shape (m,).
            torn: Time stamps that no whole frame follows.
        """
        self.tally.corrupt += torn
        stray = raw.size - FRAME * starts.size
        if stray:
            outside = np.ones(raw.size, np.bool_)
            outside[(starts[:, None] + np.arange(FRAME)).ravel()] = False
            # The signal that a stream has stopped is no data and no damage.
            stops = (raw[:-1] == 0xFF) & (raw[1:] == 0x3F) & outside[:-1] & outside[1:]
            self.tally.skipped_bytes += stray - 2 * int(np.count_nonzero(stops))

    def _place(self, frames: NDArray[np.uint16], thrown: NDArray[np.int64]) -> Samples:
        """Give whole frames their positions, and make samples of them.

        Args:
            frames: As of :func:`_levels`, shape (m, 10).
            thrown: Bytes thrown away before each, shape (m,).
        """
        known = np.concatenate([self._before, frames])
        first = len(self._before)
        new = np.append(np.ones(1 - first, np.bool_), (known[1:] != known[:-1]).any(axis=1))[: len(frames)]
        self.tally.duplicates += int(np.count_nonzero(~new))
        frames, thrown = frames[new], thrown[new]
        stamps = np.concatenate([self._before, frames])[:, 0].astype(np.int64)
        steps, damaged = self._periods(stamps, first)
        last = len(frames)
        if last and steps[-1] != 1 and not damaged[-1]:
            last -= 1
        self._held, self._held_thrown = frames[last:], thrown[last:]
        frames, steps, thrown = frames[:last], steps[:last], thrown[:last]
        if not last:
            return Samples.none()
        missing = steps - 1
        self.tally.corrupt += int(np.count_nonzero(damaged[:last]))
        self.tally.lost += int(missing.sum())
        self.tally.ambiguous += int(np.count_nonzero(missing != np.where(missing, np.rint(thrown / FRAME), 0)))
        self._before = frames[-1:].copy()
        self._before[0, 0] = stamps[first + last - 1]
        index = self._index + np.cumsum(steps) - 1
        self._index = int(index[-1]) + 1
        return self._convert(frames, index)

    def _periods(self, stamps: NDArray[np.int64], first: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Periods between frames; a stamp that only its own frame believes in is damaged, and is corrected in place.

        Args:
            stamps: Time stamps, the first ``first`` (0 or 1) of them of frames placed before; shape (first + m,).
            first: Number of frames placed before.

        Returns:
            Periods from each frame to the one before it, and whether its stamp was damaged; both of shape (m,).
        """
        steps = self._steps[np.diff(stamps) % WRAP_US]
        damaged = np.zeros(stamps.size, np.bool_)
        if (steps[:-1] != 1).any():
            twice = self._steps[(stamps[2:] - stamps[:-2]) % WRAP_US] == 2
            damaged[1:-1] = (steps[:-1] != 1) & (steps[1:] != 1) & twice
            damaged[1:] &= ~damaged[:-1]
            for k in np.flatnonzero(damaged).tolist():
                stamps[k] = (stamps[k - 1] + self._period_us) % WRAP_US
            steps = self._steps[np.diff(stamps) % WRAP_US]
        # The very first frame of a stream is taken as it comes.
        return np.append(np.ones(1 - first, np.int64), steps)[: stamps.size - first], damaged[first:]

    def _convert(self, frames: NDArray[np.uint16], index: NDArray[np.int64]) -> Samples:
        """Make samples of frames; shapes (n, 10) and (n,), n at least 1."""
        value = {k: table[frames[:, 1 + k]] for k, table in self._values.items()}
        step = {k: abs(float(table[1] - table[0])) for k, table in self._values.items()}
        power_w, step_w = np.zeros(index.size), np.zeros(index.size)
        for p in self._pairs:
            current_a, voltage_v = value[2 * p], value[2 * p + 1]
            power_w += current_a * voltage_v
            step_w += np.abs(voltage_v) * step[2 * p] + np.abs(current_a) * step[2 * p + 1]
        levels = frames[:, self._columns]
        clipped = ((levels == LEVELS - 1) | (levels == self._lowest)).any(axis=1)
        self.tally.clipped += int(np.count_nonzero(clipped))
        self._outliers.feed(power_w, step_w, np.zeros(index.size, np.uint8))
        self._outliers.report(self.tally)
        single = self._pairs[0] if len(self._pairs) == 1 else None
        return Samples(
            index=index,
            power_w=power_w,
            current_a=None if single is None else value[2 * single],
            voltage_v=None if single is None else value[2 * single + 1],
            logic=frames[:, 9].astype(np.uint8),
            suspect=clipped if clipped.any() else None,
        )
