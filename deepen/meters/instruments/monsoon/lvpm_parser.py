"""The serial protocol of the Monsoon LVPM (FTA22D) with its first firmware: frames, status, samples.

Frames both ways are ``length, body, checksum``: the length counts body and checksum, the checksum is the sum of the
length and the body modulo 256. The protocol is not published by the maker; it is known from AOSP CTS
``tools/utils/monsoon.py``, mobly ``controllers/monsoon.py`` and ACTS ``monsoon_lib/sampling/lvpm_stock/packet.py`` (all
Apache-2.0). Data packets carry flags, a sequence number of 4 bits, and records of four big-endian 16-bit words: current
of the main, USB and auxiliary channels, and voltage.
Zero and reference currents that the instrument measures on itself come as packets in the same stream; nothing can be
converted before both are known, so records that come earlier are kept and converted with the first ones.

A unit flashed with firmware 25 or later speaks the protocol of :mod:`deepen.meters.instruments.monsoon.hvpm` instead.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.meters.instruments.monsoon.calibration import (
    CUT_OFF_NOTE,
    NO_VOLTAGE_NOTE,
    RawRecordBuffer,
    SuspectSampleDetector,
)
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["LvpmParser", "LvpmStatus", "frame_packet", "parse_status", "unframe_packet"]

FINE_A, COARSE_A = 0.0332, 2.88
"""Currents of the internal references of both ranges, amperes; they belong to this protocol (CTS ``monsoon.py``)."""

VOLTS_PER_COUNT = (125e-6, 62.5e-6)
"""Volts per count of a voltage word: usually (CTS ``monsoon.py``, ``GetStatus``), and in units of hardware revision 1
(Chromium telemetry ``monsoon.py``). The stream shows which applies: only one gives nearly the voltage that is set."""

HELD_RECORDS = 20_000
"""Largest number of records kept before a calibration has come (4 s; the maker's library gives up after as many)."""

_FULL_SCALE = 32_766
_MISSING_S = 2.0
_CUT_OFF, _AT_VOLTAGE = 0x10, 0x20
"""Flags beside the sequence number (ACTS ``packet.py``); CTS takes them for a packet type, 2 in normal operation."""

_STATUS = struct.Struct(">BBBhhhHhhhHBBBxBbHBHHHHBbbHHBBBbbbbbbbbbBH")


def frame_packet(body: bytes) -> bytes:
    """Put a body between its length and its checksum.

    Args:
        body: Up to 254 bytes.
    """
    head = bytes([len(body) + 1]) + body
    return head + bytes([sum(head) & 0xFF])


def unframe_packet(data: bytes, start: int) -> bytes | None:
    """Return the body of the frame that begins at ``start``; ``None`` unless it is complete and its checksum right."""
    if start >= len(data):
        return None
    end = start + 1 + data[start]
    if data[start] == 0 or end > len(data) or sum(data[start : end - 1]) & 0xFF != data[end - 1]:
        return None
    return data[start + 1 : end - 1]


@dataclass(frozen=True, slots=True)
class LvpmStatus:
    """Content of a status packet (of its 41 fields, those that are used).

    Attributes:
        firmware: Version of the firmware.
        protocol: Version of the protocol.
        setting_v: Voltage the output is set to; 0 where it is off.
        temperature: Raw temperature.
        serial: Serial number.
        rate_hz: Sample rate.
        power_up_limit_a: Current limit right after the output is switched on, amperes.
        run_limit_a: Current limit afterwards, amperes.
        hardware: Hardware revision.
        passthrough: USB passthrough: 0 off, 1 on, 2 automatic (off while sampling).
    """

    firmware: int
    protocol: int
    setting_v: float
    temperature: int
    serial: int
    rate_hz: float
    power_up_limit_a: float
    run_limit_a: float
    hardware: int
    passthrough: int


def parse_status(body: bytes) -> LvpmStatus | None:
    """Parse a status packet; ``None`` if the body is not one."""
    if len(body) != _STATUS.size or body[0] != 0x10:
        return None
    f = _STATUS.unpack(body)
    return LvpmStatus(
        firmware=f[1],
        protocol=f[2],
        setting_v=round(2.0 + 0.01 * f[11], 2) if f[11] else 0.0,
        temperature=f[12],
        serial=f[16],
        rate_hz=1000.0 * f[17],
        power_up_limit_a=8 * (1023 - f[20]) / 1023,
        run_limit_a=8 * (1023 - f[21]) / 1023,
        hardware=f[27],
        passthrough=f[29],
    )


class LvpmParser:
    """Parser of frames into samples of the main channel.

    The index counts records of measurements. No source states whether calibration packets take sample periods; here
    they take none, and if they do (a few per second), the clock fitted to the arrivals reports it.
    """

    def __init__(self, setting_v: float = 0.0, rate_hz: float = 5000.0) -> None:
        """Start at a frame.

        Args:
            setting_v: Voltage set at the output; samples whose voltage is more than a tenth away are suspect. 0 for
                no such check.
            rate_hz: Records per second, for the time calibration has been missing.
        """
        self.tally = StreamCounts()
        self._setting_v = setting_v
        self._volts_per_count = 0.0
        self._rate_hz = rate_hz
        self._buffer = bytearray()
        self._locked = True
        self._next = 0
        self._sequence = -1
        self._last_body = b""
        self._per_packet = 1
        self._zero: list[int] = []
        self._reference: list[int] = []
        self._scales: tuple[float, float] | None = None
        self._records = RawRecordBuffer(8)
        self._judge = SuspectSampleDetector(self.tally, setting_v)
        self._done: list[Samples] = []

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
        self._buffer += data
        view = bytes(self._buffer)
        at = 0
        while (step := self._step(view, at)) is not None:
            at += step
        del self._buffer[:at]
        self._convert()
        done, self._done = self._done, []
        return Samples.join(done)

    def _step(self, view: bytes, at: int) -> int | None:
        """Process one frame or one byte of garbage and return its size; ``None`` if more bytes are needed."""
        if at >= len(view):
            return None
        if not self._locked:
            lock = _begins_two_packets(view, at)
            if lock is None:
                return None
            if not lock:
                self.tally.skipped_bytes += 1
                return 1
            self._locked = True
        if view[at] == 0:  # an empty packet
            return 1
        end = at + 1 + view[at]
        if end > len(view):
            return None
        body = unframe_packet(view, at)
        if body is None:
            self.tally.corrupt += 1
            self.tally.skipped_bytes += 1
            self._locked = False
            return 1
        self._packet(body)
        return end - at

    def _packet(self, body: bytes) -> None:
        if not _is_data_packet(body) or not self._follow(body):
            return  # a status packet, one of a kind the reference readers discard as well, or one that came twice
        good = body[0] & 0x30 == _AT_VOLTAGE
        if not good:
            self.tally.note(*(CUT_OFF_NOTE if body[0] & _CUT_OFF else NO_VOLTAGE_NOTE))
        records = (len(body) - 5) // 8
        payload = body[4 : 4 + 8 * records]
        if body[1] == 0:
            self._per_packet = records
            self._records.add(self._next, payload, good)
            self._next += records
            if self._scales is None:
                self._hold(records)
        elif body[1] in (1, 2):
            self._calibrate(body[1], payload)

    def _follow(self, body: bytes) -> bool:
        """Check the sequence number; return false for a packet that came twice."""
        sequence = body[0] & 0x0F
        missing = (sequence - self._sequence - 1) & 0x0F if self._sequence >= 0 else 0
        if missing == 15 and body == self._last_body:
            self.tally.duplicates += 1
            return False
        if missing:  # the smallest loss that fits; multiples of 16 packets are invisible here
            self.tally.lost += missing * self._per_packet
            self.tally.ambiguous += 1
            self._next += missing * self._per_packet
        self._sequence, self._last_body = sequence, body
        return True

    def _hold(self, records: int) -> None:
        """Bound the records kept while calibration is missing."""
        self.tally.uncalibrated += records
        self._records.trim(HELD_RECORDS)
        if self._records.count > self._rate_hz * _MISSING_S:
            self._judge.note_missing_calibration(_MISSING_S)

    def _calibrate(self, kind: int, payload: bytes) -> None:
        words = np.frombuffer(payload, dtype=">i2").reshape(-1, 4)[:2, 0].tolist()
        if len(words) < 2:
            self.tally.corrupt += 1
            return
        self._convert()
        zero, reference = (words, self._reference) if kind == 1 else (self._zero, words)
        scales = None
        if zero and reference and reference[0] > zero[0] and reference[1] > zero[1]:
            scales = FINE_A / (reference[0] - zero[0]), COARSE_A / (reference[1] - zero[1])
        before = self._scales
        if before is not None:
            if scales is None:
                self._judge.note_refused_calibration()
                return
            self._judge.note_calibration_change(before, scales)
        elif scales is not None:
            self.tally.uncalibrated -= self._records.count
        self._zero, self._reference, self._scales = zero, reference, scales

    def _convert(self) -> None:
        """Convert the records since the last calibration to samples."""
        scales, zero = self._scales, self._zero
        if not self._records.count or scales is None:
            return
        index, data, doubtful = self._records.take()
        words = np.frombuffer(data, dtype=">i2").reshape(-1, 4)
        raw = words[:, 0].astype(np.int64)
        coarse = (raw & 1).astype(bool)
        current: NDArray[np.float64] = (raw - zero[0]).astype(np.float64) * scales[0]
        if coarse.any():
            current = np.where(coarse, ((raw & ~1) - zero[1]) * scales[1], current)
        voltage = self._volts(words[:, 3].view(">u2"))
        suspect = self._judge.suspect(coarse, np.abs(raw) >= _FULL_SCALE, voltage, doubtful)
        self._done.append(Samples(index, current * voltage, current, voltage, suspect=suspect))

    def _volts(self, raw: NDArray[np.uint16]) -> NDArray[np.float64]:
        """Convert voltage words to volts; the first of them determines the scale."""
        if not self._volts_per_count:
            first = int(raw[0])
            near = [v for v in VOLTS_PER_COUNT if abs(first * v - self._setting_v) <= 0.25 * self._setting_v]
            self._volts_per_count = near[0] if near else VOLTS_PER_COUNT[0]
        volts: NDArray[np.float64] = raw.astype(np.float64) * self._volts_per_count
        return volts


def _is_data_packet(body: bytes) -> bool:
    """Return whether a body is a data packet: flags 00 in bits 6-7, then records; a status packet differs in length."""
    if len(body) < 13 or body[0] >> 6:
        return False
    return body[0] >> 4 == 2 or (body[1] <= 2 and len(body) % 8 == 5)


def _begins_two_packets(view: bytes, at: int) -> bool | None:
    """Return whether two consecutive data packets begin at ``at``; ``None`` if more bytes are needed.

    A checksum of 8 bits alone is met by one position of garbage in 256.
    """
    first = _begins_packet(view, at)
    if not first:
        return first
    second = _begins_packet(view, at + 1 + view[at])
    if not second:
        return second
    return (view[at + 1 + view[at] + 1] - view[at + 1]) & 0x0F == 1


def _begins_packet(view: bytes, at: int) -> bool | None:
    """Return whether a data packet with a right checksum begins at ``at``; ``None`` if more bytes are needed."""
    head = view[at : at + 3]
    if len(head) > 0 and head[0] < 14:
        return False
    if len(head) > 1 and head[1] >> 6:
        return False
    if len(head) > 2 and head[2] > 2:
        return False
    if len(head) < 3 or at + 1 + head[0] > len(view):
        return None
    body = unframe_packet(view, at)
    return body is not None and _is_data_packet(body)
