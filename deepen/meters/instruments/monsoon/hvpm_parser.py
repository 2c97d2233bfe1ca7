"""Parser of the bulk packets of the Monsoon HVPM (AAA10F), and of an LVPM flashed with firmware 25 or later.

A packet: number of dropped packets (16 bits, little endian), flags (bits 0-3 sequence number, bit 4 over-current or
thermal cut-off, bit 5 main output at voltage), number of measurements (1-3), then that many of 18 bytes: coarse and
fine current of the main, USB and auxiliary channels, main and USB voltage (eight big-endian words), gain of USB, gain
of main. Bits 4-5 of the main gain give the quantity measured: 0 the input, 1 zero, 2 nothing valid, 3 the reference
(PyMonsoon ``sampleEngine.py`` and ``API.pdf``, MIT-style licence; ACTS ``monsoon_lib/sampling/hvpm/packet.py``,
Apache-2.0).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepen.meters.instruments.monsoon.calibration import (
    CUT_OFF_NOTE,
    NO_VOLTAGE_NOTE,
    RawRecordBuffer,
    SuspectSampleDetector,
)
from deepen.meters.ports.usb_port import BULK, UsbFrameDecoder
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["HELD", "HvpmChannelCalibration", "HvpmModel", "HvpmParser"]

VOLTS_PER_COUNT = 62.5e-6
CALIBRATIONS = 5
"""Number of calibration readings of each kind that are averaged (PyMonsoon ``calibrationData.py``)."""

HELD = 20_000
"""Largest number of measurements kept before a calibration has come (PyMonsoon gives up after as many)."""

HEADER, SIZE = 4, 18
_MEASURED, _ZERO, _INVALID, _REFERENCE = 0x00, 0x10, 0x20, 0x30
_MISSING_S = 2.0


@dataclass(frozen=True, slots=True)
class HvpmModel:
    """Parameters of one of the two models (PyMonsoon ``HVPM.py``, ``LVPM.py``).

    Attributes:
        name: HVPM or LVPM.
        signed: True if current words are signed.
        fine_below: The fine reading is used if it is below this.
        voltage_scale: Main voltage over the voltage at the converter.
    """

    name: str
    signed: bool
    fine_below: int
    voltage_scale: float


@dataclass(frozen=True, slots=True)
class HvpmChannelCalibration:
    """Factory calibration of one channel.

    Attributes:
        fine_a: Current of the fine reference, amperes.
        coarse_a: Current of the coarse reference, amperes.
        fine_offset: Added to the fine zero reading, counts.
        coarse_offset: Added to the coarse zero reading, counts.
    """

    fine_a: float
    coarse_a: float
    fine_offset: float = 0.0
    coarse_offset: float = 0.0


@dataclass(slots=True)
class _CalibrationReadings:
    """The last calibration readings: (coarse, fine) raw."""

    zero: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=CALIBRATIONS))
    reference: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=CALIBRATIONS))

    def lines(self, channel: HvpmChannelCalibration) -> tuple[float, float, float, float] | None:
        """Return zero (counts) and slope (A per count), coarse then fine; ``None`` while unknown or implausible."""
        if not self.zero or not self.reference:
            return None
        zero = np.mean(self.zero, axis=0) + np.array([channel.coarse_offset, channel.fine_offset])
        span = np.mean(self.reference, axis=0) - zero
        if not bool((span > 0).all()):
            return None
        return float(zero[0]), channel.coarse_a / float(span[0]), float(zero[1]), channel.fine_a / float(span[1])


class HvpmParser:
    """Parser of the frames of a USB port into samples of the main channel.

    Every measurement takes one sample period, whatever it measures.
    """

    def __init__(
        self, model: HvpmModel, channel: HvpmChannelCalibration, setting_v: float = 0.0, rate_hz: float = 5000.0
    ) -> None:
        """Begin a stream.

        Args:
            model: Model of the instrument.
            channel: Factory calibration of the main channel.
            setting_v: Voltage set at the output; samples whose voltage is more than a tenth away are suspect. 0 for
                no such check.
            rate_hz: Measurements per second, for the time calibration has been missing.
        """
        self.tally = StreamCounts()
        self._model = model
        self._channel = channel
        self._rate_hz = rate_hz
        self._frames = UsbFrameDecoder()
        self._readings = _CalibrationReadings()
        self._lines: tuple[float, float, float, float] | None = None
        self._next = 0
        self._sequence = -1
        self._dropped = 0
        self._last = b""
        self._begun = False
        self._records = RawRecordBuffer(SIZE)
        self._judge = SuspectSampleDetector(self.tally, setting_v)
        self._done: list[Samples] = []

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
        for kind, packet in self._frames.feed(data):
            if kind == BULK:
                self._packet(packet)
        self.tally.skipped_bytes = self._frames.skipped
        self.tally.corrupt += self._frames.corrupt
        self._frames.corrupt = 0
        self._convert()
        done, self._done = self._done, []
        return Samples.join(done)

    def _packet(self, packet: bytes) -> None:
        count = packet[3] if len(packet) >= HEADER else 0
        if not 1 <= count <= 3 or len(packet) < HEADER + count * SIZE:
            self.tally.corrupt += 1
            return
        if not self._follow(packet, count):
            return
        good = packet[2] & 0x30 == 0x20
        if not good:
            self.tally.note(*(CUT_OFF_NOTE if packet[2] & 0x10 else NO_VOLTAGE_NOTE))
        if not (packet[21] | packet[21 + SIZE * (count - 1)] | packet[21 + SIZE * (count // 2)]) & 0x30:
            self._measured(packet[HEADER : HEADER + count * SIZE], count, good)  # as nearly all packets are
            return
        for at in range(HEADER, HEADER + count * SIZE, SIZE):
            data = packet[at : at + SIZE]
            kind = data[17] & 0x30
            if kind == _MEASURED:
                self._measured(data, 1, good)
                continue
            if kind == _INVALID:
                self.tally.lost += self._begun
            else:
                self.tally.paused += self._begun
                self._calibrate(kind, data)
            self._next += 1

    def _follow(self, packet: bytes, count: int) -> bool:
        """Check the counters; return false for a packet that came twice."""
        sequence, dropped = packet[2] & 0x0F, int.from_bytes(packet[:2], "little")
        if self._sequence < 0:
            missed = reported = 0
        else:
            missed = (sequence - self._sequence - 1) & 0x0F
            reported = (dropped - self._dropped) & 0xFFFF
        if missed == 15 and packet == self._last:
            self.tally.duplicates += 1
            return False
        self._sequence, self._dropped, self._last = sequence, dropped, packet
        # Packets the instrument dropped are counted exactly; those lost after it left only the sequence number.
        lost = max(missed, reported) * count
        if missed and (reported - missed) & 0x0F:
            self.tally.ambiguous += 1
        self._next += lost
        self.tally.lost += lost
        return True

    def _measured(self, data: bytes, count: int, good: bool) -> None:
        self._begun = True
        self._records.add(self._next, data, good)
        self._next += count
        if self._lines is None:  # bound the records kept while calibration is missing
            self.tally.uncalibrated += count
            self._records.trim(HELD)
            if self._records.count > self._rate_hz * _MISSING_S:
                self._judge.note_missing_calibration(_MISSING_S)

    def _calibrate(self, kind: int, data: bytes) -> None:
        words = np.frombuffer(data, dtype=">i2" if self._model.signed else ">u2", count=2).tolist()
        self._convert()
        readings = self._readings.zero if kind == _ZERO else self._readings.reference
        readings.append((words[0], words[1]))
        before, after = self._lines, self._readings.lines(self._channel)
        if before is not None:
            if after is None:
                readings.pop()
                self._judge.note_refused_calibration()
                return
            self._judge.note_calibration_change((before[1], before[3]), (after[1], after[3]))
        elif after is not None:
            self.tally.uncalibrated -= self._records.count
        self._lines = after

    def _convert(self) -> None:
        """Convert the measurements since the last calibration to samples."""
        if not self._records.count or self._lines is None:
            return
        index, data, doubtful = self._records.take()
        words = np.frombuffer(data, dtype=">u2").reshape(-1, SIZE // 2)
        currents = (words[:, :2].view(">i2") if self._model.signed else words[:, :2]).astype(np.int64)
        coarse_zero, coarse_slope, fine_zero, fine_slope = self._lines
        coarse = currents[:, 1] >= self._model.fine_below
        current: NDArray[np.float64] = (currents[:, 1].astype(np.float64) - fine_zero) * fine_slope
        clipped = np.zeros(coarse.size, bool)
        if coarse.any():
            current = np.where(coarse, (currents[:, 0] - coarse_zero) * coarse_slope, current)
            clipped = coarse & (currents[:, 0] >= (0x7FFF if self._model.signed else 0xFFFF))
        voltage = words[:, 6] * (VOLTS_PER_COUNT * self._model.voltage_scale)
        suspect = self._judge.suspect(coarse, clipped, voltage, doubtful)
        self._done.append(Samples(index, current * voltage, current, voltage, suspect=suspect))
