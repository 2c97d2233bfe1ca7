"""Emulated Monsoon LVPM (FTA22D, original firmware) on a serial port.

Protocol as in AOSP's ``monsoon.py`` and mobly's controller: packets ``length, body, checksum`` both ways, a
58-byte status, data packets with a 4-bit sequence, and calibration packets in the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["STATUS", "LvpmEmulator", "frame_lvpm_packet"]

RATE_HZ = 5000.0

STATUS: dict[str, str] = {
    **dict.fromkeys(["packet_type", "firmware", "protocol"], "B"),
    **dict.fromkeys(["main_fine", "usb_fine", "aux_fine"], "h"),
    "voltage1": "H",
    **dict.fromkeys(["main_coarse", "usb_coarse", "aux_coarse"], "h"),
    "voltage2": "H",
    **dict.fromkeys(["voltage_setting", "temperature", "status"], "B"),
    "leds": "xB",
    "main_fine_resistor": "b",
    "serial": "H",
    "sample_rate": "B",
    **dict.fromkeys(["dac_cal_low", "dac_cal_high", "power_up_limit", "run_limit"], "H"),
    "power_up_time": "B",
    **dict.fromkeys(["usb_fine_resistor", "aux_fine_resistor"], "b"),
    **dict.fromkeys(["initial_usb_voltage", "initial_aux_voltage"], "H"),
    **dict.fromkeys(["hardware", "temperature_limit", "usb_passthrough"], "B"),
    **dict.fromkeys([f"{channel}_coarse_resistor" for channel in ("main", "usb", "aux")], "b"),
    **dict.fromkeys([f"default_{channel}_fine_resistor" for channel in ("main", "usb", "aux")], "b"),
    **dict.fromkeys([f"default_{channel}_coarse_resistor" for channel in ("main", "usb", "aux")], "b"),
    "event_code": "B",
    "event_data": "H",
}
"""The 41 fields of a status packet in their order, with their big-endian formats (``x`` is padding): 58 bytes."""

FINE_A, COARSE_A = 0.0332, 2.88
"""Currents of the reference calibration in both ranges, amperes."""

FINE_LIMIT_A = 0.040
"""Highest current that this emulator measures in the fine range, amperes."""

VOLT = 0.000125
"""Volts per step of a voltage."""

NO_LIMIT = 0xFFFFFFFF
"""Sample count that means without end."""


def frame_lvpm_packet(body: bytes) -> bytes:
    """Frame a body: its length with the checksum, the body, and the sum of both modulo 256."""
    size = len(body) + 1
    return bytes([size]) + body + bytes([(size + sum(body)) & 0xFF])


class LvpmEmulator:
    """An LVPM with 5 kHz, two ranges of the main channel, and calibration packets in the stream.

    The output is off until a voltage is set. A zero and a reference calibration packet come first and again every
    ``interval`` milliseconds, the last word of the start command (by analogy with the HVPM, whose start command carries
    it); they take no sample's place. A meaningless byte, which the reference parser skips, ends every data packet.
    The voltage in a record is the unsigned 16-bit count of 125 uV, so it has its highest bit set above 4.096 V.

    Attributes:
        name: ``lvpm``.
        rate_hz: 5 kHz.
        clock: Its sample clock.
        supply: The load behind its output.
        wire: Faults of frames (a frame is a data or calibration packet; its counter is the sequence).
        status: Fields of the status packet that are constant, by name (see :data:`STATUS`).
        commands: Bodies of all commands taken.
        refused: Number of packets with a bad checksum, and of unknown commands.
        tripped_s: True times at which the output was cut for too much current.
    """

    name = "lvpm"
    rate_hz = RATE_HZ

    def __init__(
        self,
        signal: PowerSignal,
        *,
        volts: float = 0.0,
        records: int = 7,
        zero: tuple[int, int] = (24, 18),
        reference: tuple[int, int] = (24024, 20018),
        calibrates_after_s: float = 0.0,
        trip_step_v: float = np.inf,
        status: Mapping[str, int] | None = None,
        ppm: float = 0.0,
        noise_a: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Make a unit.

        Args:
            signal: Power of the load, watts.
            volts: Initial voltage of its output, volts; 0 is off.
            records: Samples in a data packet; at most 31.
            zero: Readings of the zero calibration, fine and coarse.
            reference: Readings of the reference calibration, fine and coarse.
            calibrates_after_s: Seconds of stream before the first calibration packets; ``inf`` for never.
            trip_step_v: Step of the voltage (from 3 V if it was off) above which the inrush trips the output, volts.
            status: Fields of the status packet that differ from the defaults.
            ppm: Error of its clock.
            noise_a: Standard deviation of the noise of a sample, amperes.
            seed: Seed of the noise.
        """
        self.clock = SampleClock(RATE_HZ, ppm)
        self.supply = EmulatedSupply(signal, volts)
        self.wire = FrameFaultInjector()
        defaults = {"packet_type": 0x10, "firmware": 18, "protocol": 17, "temperature": 30, "serial": 7536}
        defaults |= {"sample_rate": 5, "dac_cal_low": 0xD800, "dac_cal_high": 0xC800, "hardware": 3}
        self.status = {**dict.fromkeys(STATUS, 0), **defaults, "temperature_limit": 60, **(status or {})}
        self.commands: list[bytes] = []
        self.refused: list[bytes] = []
        self.tripped_s: list[float] = []
        self._records = records
        self._zero, self._reference = zero, reference
        self._calibrates_after_s = calibrates_after_s
        self._trip_step_v = trip_step_v
        self._noise_a = noise_a
        self._rng = np.random.default_rng(seed)
        self._pending = bytearray()
        self._sequence = 0
        self._interval_packets = 1
        self._layout: list[tuple[int, int, int, int]] = []

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive command packets; only a status request has an answer."""
        self._pending += data
        answer = b""
        while self._pending:
            size = 1 + self._pending[0]
            if len(self._pending) < size:
                break
            frame, body = bytes(self._pending[:size]), bytes(self._pending[1 : size - 1])
            del self._pending[:size]
            if size == 1:  # a zero length is an empty packet
                continue
            if frame != frame_lvpm_packet(body) or not self._known(body):
                self.refused.append(frame)
                continue
            self.commands.append(body)
            answer += self._act(body, t_s)
        return answer

    def advance(self, t_s: float) -> bytes:
        """Stream the packets since the last call."""
        self._layout = []
        out: list[bytes] = []
        for first, start_s, end_s in self.clock.take(t_s, self._records):
            main, volts = self._measure(start_s, end_s)
            records = np.zeros((main.size, 4), ">u2")
            records[:, 0] = main & 0xFFFF
            records[:, 3] = volts
            done = 0
            while done < main.size:
                number = (first + done) // self._records
                since, ahead = divmod(number - self._first_calibration(), self._interval_packets)
                if since >= 0 and ahead == 0:
                    out += self._calibration()
                ahead = self._interval_packets - ahead if since >= 0 else self._first_calibration() - number
                stop = min(done + ahead * self._records, main.size)
                whole = stop - (stop - done) % self._records
                out.append(self._send(0, records[done:whole].reshape(-1, self._records, 4), self._records))
                if whole < stop:  # the last of a limited number of samples
                    out.append(self._send(0, records[None, whole:stop], stop - whole))
                done = stop
        return b"".join(out)

    def samples_in(self, start: int, stop: int) -> int:
        """Count the samples in packets with a byte in a range of the stream returned last."""
        count = 0
        for offset, size, packets, samples in self._layout:
            low, high = max(start, offset), min(stop, offset + size * packets)
            if high > low:
                count += ((high - offset - 1) // size - (low - offset) // size + 1) * samples
        return count

    def uncalibrate(self) -> None:
        """Never send calibration packets."""
        self._calibrates_after_s = np.inf

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    @property
    def limit_a(self) -> float:
        """Current above which the output is cut, amperes."""
        return 8.0 * (1023 - self.status["run_limit"]) / 1023

    @staticmethod
    def _known(body: bytes) -> bool:
        known = {0x00, 0x01, 0x08, 0x09, 0x0A, 0x0B, 0x10, 0x1B}
        return (
            (len(body) == 3 and body[0] == 1 and body[1] in known)
            or (len(body) == 7 and body[0] == 2)
            or body == b"\x03\x00"
        )

    def _act(self, body: bytes, t_s: float) -> bytes:
        """Carry out a command."""
        if body[0] == 2:
            count, interval_ms = struct.unpack(">IH", body[1:])
            packets = round(interval_ms * 1e-3 * RATE_HZ / self._records)
            self._interval_packets = max(packets, 1)
            self.clock.start(t_s, None if count == NO_LIMIT else count)
        elif body[0] == 3:
            self.clock.stop()
        elif body[1] == 0x00:
            return frame_lvpm_packet(self._status(t_s))
        elif body[1] == 0x01:
            self._set_voltage(t_s, 2.0 + 0.01 * body[2] if body[2] else 0.0)
            self.status["voltage_setting"] = body[2]
        elif body[1] == 0x10:
            self.status["usb_passthrough"] = body[2]
        elif body[1] in {0x08, 0x09, 0x0A, 0x0B}:
            field = "power_up_limit" if body[1] < 0x0A else "run_limit"
            low, high = self.status[field] & 0xFF, self.status[field] & 0xFF00
            self.status[field] = low | body[2] << 8 if body[1] & 1 else high | body[2]
        return b""

    def _set_voltage(self, t_s: float, volts: float) -> None:
        """Set the output; too high a step trips it."""
        before = self.supply.volts or 3.0
        self.supply.set(t_s, volts)
        if volts - before > self._trip_step_v + 1e-9:
            self._trip(t_s)

    def _trip(self, t_s: float) -> None:
        self.supply.set(t_s, 0.0)
        self.tripped_s.append(t_s)

    def _status(self, t_s: float) -> bytes:
        """Return the body of a status packet."""
        moment = np.array([t_s])
        main, volts = self._measure(moment, moment)
        fields = {**self.status, "voltage1": int(volts[0]), "voltage2": int(volts[0])}
        fields["main_coarse" if main[0] & 1 else "main_fine"] = int(main[0])
        return struct.pack(">" + "".join(STATUS.values()), *(fields[name] for name in STATUS))

    def _measure(self, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Encode main current and voltage as in records; cut the output where the current is too high.

        Returns:
            Main current, int64 of shape (n,), bit 0 the range; voltage, uint16 of shape (n,).
        """
        current = self.supply.mean_a(start_s, end_s)
        over = np.flatnonzero(current > self.limit_a)
        if over.size:
            self._trip(max(float(end_s[over[0]]), self.supply.history[-1][0]))
            current = self.supply.mean_a(start_s, end_s)
        volts = np.rint(self.supply.mean_v(start_s, end_s) / VOLT).astype(np.uint16)
        if self._noise_a:
            current = current + self._noise_a * self._rng.standard_normal(current.size)
        fine, coarse = (
            2 * np.rint((current * (ref - zero) / full + zero) / 2)
            for zero, ref, full in zip(self._zero, self._reference, (FINE_A, COARSE_A), strict=True)
        )
        main = np.where(np.abs(current) <= FINE_LIMIT_A, fine, np.clip(coarse, -0x8000, 0x7FFE) + 1)
        return main.astype(np.int64), volts

    def _first_calibration(self) -> int:
        """Return the number of the data packet before which calibration first comes."""
        after_s = min(self._calibrates_after_s, 1e9)
        return int(np.ceil(after_s * RATE_HZ / self._records))

    def _calibration(self) -> list[bytes]:
        """Return a zero and a reference calibration packet: record 0 is the fine range, record 1 the coarse one."""
        packets = []
        for kind, readings in ((1, self._zero), (2, self._reference)):
            records = np.zeros((1, 2, 4), ">u2")
            records[0, :, 0] = np.array(readings) & 0xFFFF
            packets.append(self._send(kind, records, 0))
        return packets

    def _send(self, kind: int, records: NDArray[np.uint16], samples: int) -> bytes:
        """Frame packets of equal length.

        Args:
            kind: Record type: 0 measurement, 1 zero, 2 reference calibration.
            records: Records of each; big-endian uint16, shape (packets, records, 4).
            samples: Samples in each packet.

        Returns:
            The bytes, without lost packets.
        """
        packets, count, _ = records.shape
        if not packets:
            return b""
        body = 4 + 8 * count + 1
        frames = np.zeros((packets, 1 + body + 1), np.uint8)
        frames[:, 0] = body + 1
        sequence = (self._sequence + self.wire.jumped + np.arange(packets)) & 0x0F
        frames[:, 1] = 0x20 | sequence
        frames[:, 2] = kind
        frames[:, 5:-2] = np.ascontiguousarray(records).view(np.uint8).reshape(packets, -1)
        frames[:, -1] = frames[:, :-1].sum(axis=1, dtype=np.int64) & 0xFF
        self._sequence += packets
        each = np.full(packets, samples)
        frames = frames[self.wire.count_lost_frames(each) :]
        frames[: self.wire.count_corrupt_frames(each[: len(frames)]), -1] ^= 0x55
        offset = sum(size * n for _, size, n, _ in self._layout)
        self._layout.append((offset, frames.shape[1], len(frames), samples))
        return frames.tobytes()
