"""The serial protocol of the Monsoon LVPM (FTA22D) with its first firmware: frames, status, samples.

Frames both ways are ``length, body, checksum``: the length counts body and checksum, the checksum is the sum of the
length and the body modulo 256. The protocol is not published by the maker; it is known from AOSP CTS
``tools/utils/monsoon.py``, mobly ``controllers/monsoon.py`` and ACTS ``monsoon_lib/sampling/lvpm_stock/packet.py`` (all
Apache-2.0). Data packets carry flags, a sequence number of 4 bits, and records of four big-endian 16-bit words: current
of the main, USB and auxiliary channels, and voltage.
Zero and reference currents that the instrument measures on itself come as packets in the same stream; nothing can be
converted before both are known, so records that come earlier are kept and converted with the first ones.

A unit flashed with firmware 25 or later speaks the protocol of :mod:`deepen.meters.hvpm` instead.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream import Samples, Tally

__all__ = ["LvpmParser", "Status", "frame", "parse_status", "unframe"]

FINE_A, COARSE_A = 0.0332, 2.88
"""Currents of the internal references of both ranges, amperes; they belong to this protocol (CTS ``monsoon.py``)."""

VOLTS_PER_COUNT = (125e-6, 62.5e-6)
"""One count of a voltage word: usually (CTS ``monsoon.py``, ``GetStatus``), and in units of hardware revision 1
(Chromium telemetry ``monsoon.py``). The stream itself tells which: only one brings it near the voltage that is set."""

HELD_RECORDS = 20_000
"""Records kept while no calibration has come (4 s; the maker's library gives up after as many)."""

_NEAR_SETTING = 0.1
"""Share by which the voltage may be away from the setting; samples further away are suspect."""

_FULL_SCALE = 32_766
_MISSING_S = 2.0
_CUT_OFF, _AT_VOLTAGE = 0x10, 0x20
"""Flags beside the sequence number (ACTS ``packet.py``); CTS takes them for a packet type, 2 in normal operation."""

_STATUS = struct.Struct(">BBBhhhHhhhHBBBxBbHBHHHHBbbHHBBBbbbbbbbbbBH")


def frame(body: bytes) -> bytes:
    """Put a body between its length and its checksum.

    Args:
        body: Up to 254 bytes.
    """
    head = bytes([len(body) + 1]) + body
    return head + bytes([sum(head) & 0xFF])


def unframe(data: bytes, start: int) -> bytes | None:
    """Body of the frame that begins at a place; ``None`` unless all of it is there and its checksum is right."""
    if start >= len(data):
        return None
    end = start + 1 + data[start]
    if data[start] == 0 or end > len(data) or sum(data[start : end - 1]) & 0xFF != data[end - 1]:
        return None
    return data[start + 1 : end - 1]


@dataclass(frozen=True, slots=True)
class Status:
    """What a status packet tells (41 fields; those that are used).

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


def parse_status(body: bytes) -> Status | None:
    """Take a status packet apart; ``None`` if it is none."""
    if len(body) != _STATUS.size or body[0] != 0x10:
        return None
    f = _STATUS.unpack(body)
    return Status(
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


@dataclass(slots=True)
class _Calibration:
    """Raw zero and reference readings, (fine, coarse) each."""

    zero: tuple[int, int] | None = None
    reference: tuple[int, int] | None = None

    @property
    def scales(self) -> tuple[float, float] | None:
        """Amperes per count, fine and coarse; ``None`` while unknown or senseless."""
        if self.zero is None or self.reference is None:
            return None
        fine, coarse = self.reference[0] - self.zero[0], self.reference[1] - self.zero[1]
        return (FINE_A / fine, COARSE_A / coarse) if fine > 0 and coarse > 0 else None


class LvpmParser:
    """Frames in, samples of the main channel out.

    The index counts records of measurements. No source says whether calibration packets take sample periods; here they
    take none, and should they (a few a second), the clock fitted to the arrivals finds and tells it.
    """

    def __init__(self, setting_v: float = 0.0, rate_hz: float = 5000.0) -> None:
        """Begin at a frame.

        Args:
            setting_v: What the output is set to; samples whose voltage is more than a tenth away are suspect. 0 for
                no such check.
            rate_hz: Records in a second, to say how long calibration has been missing.
        """
        self.tally = Tally()
        self._setting_v = setting_v
        self._volts_per_count = 0.0
        self._rate_hz = rate_hz
        self._buffer = bytearray()
        self._locked = True
        self._next = 0
        self._sequence = -1
        self._last_body = b""
        self._records = 1
        self._calibration = _Calibration()
        self._run: list[tuple[int, bytes, bool]] = []
        self._held = 0
        self._coarse: bool | None = None
        self._done: list[Samples] = []

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes of the stream, split anywhere, and return the samples they complete."""
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
        """Bytes that one frame, or one byte of rubbish, takes; ``None`` when more are needed to tell."""
        if at >= len(view):
            return None
        if not self._locked:
            lock = _locks(view, at)
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
        body = unframe(view, at)
        if body is None:
            self.tally.corrupt += 1
            self.tally.skipped_bytes += 1
            self._locked = False
            return 1
        self._packet(body)
        return end - at

    def _packet(self, body: bytes) -> None:
        if not _is_data(body):
            return  # a status packet, or one of a kind the reference readers discard as well
        if body[0] & _CUT_OFF:
            self.tally.note("the over-current or thermal protection has cut the output off; switch it on again")
        if not body[0] & _AT_VOLTAGE:
            self.tally.note("the output was not at its voltage; set it with ?voltage_v=, or look for a short")
        records = (len(body) - 5) // 8
        if not self._follow(body):
            return
        payload = body[4 : 4 + 8 * records]
        if body[1] == 0:
            self._records = records
            self._run.append((self._next, payload, body[0] & 0x30 == _AT_VOLTAGE))
            self._hold(records)
            self._next += records
        elif body[1] in (1, 2):
            self._calibrate(body[1], payload)

    def _follow(self, body: bytes) -> bool:
        """Check the sequence number; false for a packet that came twice."""
        sequence = body[0] & 0x0F
        missing = (sequence - self._sequence - 1) & 0x0F if self._sequence >= 0 else 0
        if missing == 15 and body == self._last_body:
            self.tally.duplicates += 1
            return False
        if missing:  # the smallest loss that fits; 16 packets more are invisible here
            self.tally.lost += missing * self._records
            self.tally.ambiguous += 1
            self._next += missing * self._records
        self._sequence, self._last_body = sequence, body
        return True

    def _hold(self, records: int) -> None:
        """Bound what is kept while calibration is missing."""
        if self._calibration.scales is not None:
            return
        self._held += records
        self.tally.uncalibrated += records
        while self._held > HELD_RECORDS:
            self._held -= len(self._run.pop(0)[1]) // 8
        if self._held > self._rate_hz * _MISSING_S:
            self.tally.note(f"calibration packets were missing for {_MISSING_S:g} s; switch the instrument off and on")

    def _calibrate(self, kind: int, payload: bytes) -> None:
        words = np.frombuffer(payload, dtype=">i2").reshape(-1, 4)[:, 0].tolist()
        if len(words) < 2:
            self.tally.corrupt += 1
            return
        before = self._calibration.scales
        if before is not None:
            self._convert()
        fresh = _Calibration(self._calibration.zero, self._calibration.reference)
        if kind == 1:
            fresh.zero = (words[0], words[1])
        else:
            fresh.reference = (words[0], words[1])
        after = fresh.scales
        if before is not None and after is None:
            self.tally.corrupt += 1
            self.tally.note("a calibration packet made no sense and was left out")
            return
        self._calibration = fresh
        if before is None and after is not None:
            self.tally.uncalibrated -= self._held
            self._held = 0
        if before is not None and after is not None:
            change = max(abs(a / b - 1) for a, b in zip(after, before, strict=True))
            if change > 0.02:
                self.tally.note("the calibration changed by more than 2 % from one packet to the next")

    def _convert(self) -> None:
        """Make samples of the records since the last calibration."""
        scales = self._calibration.scales
        if not self._run or scales is None or self._calibration.zero is None:
            return
        counts = np.array([len(payload) // 8 for _, payload, _ in self._run])
        starts = np.array([start for start, _, _ in self._run], dtype=np.int64)
        good = np.repeat(np.array([ok for _, _, ok in self._run]), counts)
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
        index = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - offsets, counts)
        words = np.frombuffer(b"".join(payload for _, payload, _ in self._run), dtype=">i2").reshape(-1, 4)
        self._run = []
        raw = words[:, 0].astype(np.int64)
        coarse = (raw & 1).astype(bool)
        zero = self._calibration.zero
        current = np.where(coarse, ((raw & ~1) - zero[1]) * scales[1], (raw - zero[0]) * scales[0])
        voltage = self._volts(words[:, 3].astype(np.uint16))
        suspect = self._suspect(raw, coarse, voltage) | ~good
        self._done.append(
            Samples(index, current * voltage, current, voltage, suspect=suspect if suspect.any() else None)
        )

    def _volts(self, raw: NDArray[np.uint16]) -> NDArray[np.float64]:
        """Convert voltage words; the first of them settles which scale applies."""
        if not self._volts_per_count:
            first = int(raw[0])
            near = [v for v in VOLTS_PER_COUNT if abs(first * v - self._setting_v) <= 0.25 * self._setting_v]
            self._volts_per_count = near[0] if near else VOLTS_PER_COUNT[0]
        return raw.astype(np.float64) * self._volts_per_count

    def _suspect(
        self, raw: NDArray[np.int64], coarse: NDArray[np.bool_], voltage: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Samples not to be trusted; counts changes of range and clipped samples on the way."""
        before = coarse[0] if self._coarse is None else self._coarse
        self._coarse = bool(coarse[-1])
        self.tally.range_switches += int(np.count_nonzero(np.diff(coarse.astype(np.int8), prepend=np.int8(before))))
        suspect: NDArray[np.bool_] = (raw >= _FULL_SCALE) | (raw <= -_FULL_SCALE)
        self.tally.clipped += int(np.count_nonzero(suspect))
        if self._setting_v:
            away = np.abs(voltage - self._setting_v) > _NEAR_SETTING * self._setting_v
            if away.any():
                self.tally.note(
                    f"the output was more than {_NEAR_SETTING:.0%} away from the {self._setting_v:.2f} V it is set to; "
                    "look for a tripped current limit or a loose wire"
                )
            suspect |= away
        return suspect


def _is_data(body: bytes) -> bool:
    """Whether a body is a data packet: flags 00 in bits 6-7, then records; the status packet has another length."""
    if len(body) < 13 or body[0] >> 6:
        return False
    return body[0] >> 4 == 2 or (body[1] <= 2 and len(body) % 8 == 5)


def _locks(view: bytes, at: int) -> bool | None:
    """Whether two data packets that follow each other begin here; ``None`` when more bytes are needed to tell.

    A checksum of 8 bits alone would be met by one place of rubbish in 256.
    """
    first = _plausible(view, at)
    if not first:
        return first
    second = _plausible(view, at + 1 + view[at])
    if not second:
        return second
    return (view[at + 1 + view[at] + 1] - view[at + 1]) & 0x0F == 1


def _plausible(view: bytes, at: int) -> bool | None:
    """Whether a data packet with a right checksum begins here; ``None`` when more bytes are needed to tell."""
    head = view[at : at + 3]
    if len(head) > 0 and head[0] < 14:
        return False
    if len(head) > 1 and head[1] >> 6:
        return False
    if len(head) > 2 and head[2] > 2:
        return False
    if len(head) < 3 or at + 1 + head[0] > len(view):
        return None
    body = unframe(view, at)
    return body is not None and _is_data(body)
