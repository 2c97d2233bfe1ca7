"""Emulated PowerSensor3.

Protocol of the firmware (``nlesc-recruit/PowerSensor3``): one-byte commands, a configuration of eight 41-byte records
in a hand-shake, and frames of a microsecond time stamp and eight 10-bit levels.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["PowerSensor3Emulator", "SensorPair"]

SENSORS = 8
RECORD = struct.Struct("<16s16sff?")
"""Configuration of a sensor: type, pair name, reference voltage, sensitivity, in use; 41 bytes."""

FULL_SCALE_V, TOP_LEVEL = 3.3, 1023
TIMEOUT_S = 2.0
"""Longest wait for the host in a hand-shake, seconds, after which the device resets itself."""

STOP_SIGNAL = b"\xff\x3f\xff\x3f"


@dataclass(frozen=True, slots=True)
class SensorPair:
    """A current and a voltage sensor on one rail.

    Attributes:
        name: Name of the rail; at most 15 characters.
        volts: Nominal voltage of the rail.
        share: Share of the load's power that it carries.
        current_vref: Output of the current sensor at no current, volts.
        sensitivity: Volts per ampere.
        voltage_vref: Output of the voltage sensor at no voltage, volts.
        gain: Volts at the converter per volt on the rail.
        current_type: Name of the current sensor's type.
        voltage_type: Name of the voltage sensor's type.
    """

    name: str = "12V"
    volts: float = 12.0
    share: float = 1.0
    current_vref: float = 1.65
    sensitivity: float = 0.12
    voltage_vref: float = 0.0
    gain: float = 0.0877
    current_type: str = "MLX91221-10A"
    voltage_type: str = "ACPL-C87B"

    def records(self) -> bytes:
        """Encode the configuration of both sensors as stored in the device, 82 bytes."""
        name = self.name.encode("ascii")
        return RECORD.pack(
            self.current_type.encode("ascii"), name, self.current_vref, self.sensitivity, True
        ) + RECORD.pack(self.voltage_type.encode("ascii"), name, self.voltage_vref, self.gain, True)


class PowerSensor3Emulator:
    """A PowerSensor3 with up to four pairs of sensors at up to 20 kHz.

    Even sensors measure current, odd ones voltage; a level is ``1023 / 3.3 * (vref + sensitivity * value)``. Sensors
    not in use read 0. Streaming pauses during a configuration hand-shake.

    Attributes:
        name: ``powersensor3``.
        rate_hz: Frames per second.
        clock: Its sample clock; its time stamps, too.
        supply: The load on the rails; a droop lowers all of them in proportion.
        wire: Faults of frames (there is no checksum; the counter is the time stamp in microseconds).
        config: The configuration stored, 8 records of 41 bytes.
        resets: Number of resets, by itself or by command.
        marks: True times of the frames that carried a marker.
    """

    name = "powersensor3"

    def __init__(
        self,
        signal: PowerSignal,
        *,
        pairs: Sequence[SensorPair] = (SensorPair(),),
        rate_hz: float = 20_000.0,
        version: str = "F411-1.6.1",
        ppm: float = 0.0,
        noise_a: float = 0.0,
        noise_v: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Make a unit.

        Args:
            signal: Power of the load, watts.
            pairs: Rails it is on, at most four.
            rate_hz: Frames per second.
            version: Version line.
            ppm: Error of its clock.
            noise_a: Standard deviation of the noise of a current, amperes.
            noise_v: Standard deviation of the noise of a voltage, volts.
            seed: Seed of the noise.

        Raises:
            ValueError: If there are no pairs or too many, or their shares are not one in all.
        """
        if not 1 <= len(pairs) <= SENSORS // 2 or abs(sum(p.share for p in pairs) - 1) > 1e-9:
            raise ValueError("a PowerSensor3 has one to four pairs whose shares make one")
        self.rate_hz = rate_hz
        self.clock = SampleClock(rate_hz, ppm)
        self.supply = EmulatedSupply(signal, pairs[0].volts)
        self.wire = FrameFaultInjector()
        self.resets = 0
        self.marks: list[float] = []
        records = b"".join(pair.records() for pair in pairs)
        self.config = records + RECORD.pack(b"", b"", 0.0, 1.0, False) * (SENSORS - 2 * len(pairs))
        self._pairs = tuple(pairs)
        self._truth = [RECORD.unpack_from(records, k * RECORD.size)[2:4] for k in range(2 * len(pairs))]
        self._version = version
        self._noise = (noise_a, noise_v)
        self._rng = np.random.default_rng(seed)
        self._markers = 0
        self._counting_since_s: float | None = None
        self._shake: tuple[bytes, int] | None = None  # command, records done
        self._shake_s = 0.0
        self._written = bytearray()

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive commands."""
        answer = bytearray()
        for k in range(len(data)):
            byte = data[k : k + 1]
            self._check_time(t_s)
            answer += self._act(byte, t_s) if self._shake is None else self._go_on(byte, t_s)
        return bytes(answer)

    def advance(self, t_s: float) -> bytes:
        """Stream the frames since the last call, 18 bytes each."""
        self._check_time(t_s)
        silent = self._shake is not None
        frames = [self._frames(first, *edges) for first, *edges in self.clock.take(t_s)]
        return b"" if silent else b"".join(f.tobytes() for f in frames)

    def samples_in(self, start: int, stop: int) -> int:
        """Count the frames with a byte in a range of the stream returned last."""
        size = 2 * (SENSORS + 1)
        return (stop - 1) // size - start // size + 1 if stop > start else 0

    def uncalibrate(self) -> None:
        """Erase the memory: every byte of the configuration is ``FF``, and its numbers are NaN."""
        self.config = b"\xff" * (SENSORS * RECORD.size)

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy of all rails, joules."""
        return self.supply.energy_j(start_s, end_s)

    def _act(self, command: bytes, t_s: float) -> bytes:
        """Carry out a command; unknown bytes are ignored."""
        if self._counting_since_s is None:
            self._counting_since_s = t_s
        if command in {b"R", b"W"}:
            self._shake, self._shake_s = (command, 0), t_s
            self._written.clear()
            return self.config[: RECORD.size] if command == b"R" else b""
        if command == b"V":
            return self._version.encode("ascii") + b"\r\n"
        if command == b"Q":  # one conversion per sensor and frame, counted since streaming began
            frames = int((t_s - self._counting_since_s) / self.clock.period_s + 1e-6)
            return struct.pack("<I", frames * SENSORS & 0xFFFFFFFF)
        if command == b"I" and not self.clock.running:
            return self._frames(0, np.array([t_s - self.clock.period_s]), np.array([t_s])).tobytes()
        if command == b"M":
            self._markers += 1
        elif command == b"S" and not self.clock.running:
            self._counting_since_s = t_s
            self.clock.start(t_s)
        elif command in {b"T", b"X"}:
            self.clock.stop(after=self._markers)
            return STOP_SIGNAL if command == b"X" else b""
        elif command in {b"Z", b"Y"}:
            self._reset()
        return b""

    def _go_on(self, byte: bytes, t_s: float) -> bytes:
        """Process a byte of a hand-shake."""
        assert self._shake is not None
        command, done = self._shake
        self._shake_s = t_s
        if command == b"W":
            self._written += byte
            if len(self._written) % RECORD.size:
                return b""
        done += 1
        self._shake = (command, done)
        answer = b"S" if command == b"W" else self.config[done * RECORD.size : (done + 1) * RECORD.size]
        if done == SENSORS:
            self._shake = None
            if command == b"W":
                self.config = bytes(self._written)
            answer += b"D"
        return answer

    def _check_time(self, t_s: float) -> None:
        """Reset if the host is too late in a hand-shake."""
        if self._shake is not None and t_s - self._shake_s > TIMEOUT_S:
            self._reset()

    def _reset(self) -> None:
        self.clock.stop()
        self._shake, self._markers, self._counting_since_s = None, 0, None
        self.resets += 1

    def _frames(self, first: int, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Encode frames, without lost ones; uint8, shape (n, 18)."""
        count = start_s.size
        levels = np.zeros((count, SENSORS), np.int64)
        watts = self.supply.mean_w(start_s, end_s)
        lift = self.supply.mean_v(start_s, end_s) / self._pairs[0].volts
        for p, pair in enumerate(self._pairs):
            volts = pair.volts * lift
            amperes = np.divide(pair.share * watts, volts, out=np.zeros(count), where=volts > 0)
            for k, values in ((2 * p, amperes), (2 * p + 1, volts)):
                noise = self._noise[k % 2]
                noisy = values + noise * self._rng.standard_normal(count) if noise else values
                vref, sensitivity = self._truth[k]
                level = np.rint((vref + sensitivity * noisy) * (TOP_LEVEL / FULL_SCALE_V))
                levels[:, k] = np.clip(level, 0, TOP_LEVEL)
        frames = np.empty((count, SENSORS + 1, 2), np.uint8)
        began_us = (self.clock.started_s or 0.0) * 1e6
        stamp = np.floor(began_us + (first + 1 + np.arange(count)) * (1e6 / self.rate_hz)).astype(np.int64)
        stamp += self.wire.jumped
        frames[:, 0, 0] = 0xF0 | stamp >> 6 & 0x0F
        frames[:, 0, 1] = 0x40 | stamp & 0x3F
        frames[:, 1:, 0] = 0x80 | np.arange(SENSORS) << 4 | levels >> 6
        frames[:, 1:, 1] = levels & 0x3F
        if self._shake is None:
            marked = min(self._markers, count)
            frames[:marked, 1, 1] |= 0x40
            self.marks += end_s[:marked].tolist()
            self._markers -= marked
        return frames[self.wire.count_lost_frames(np.ones(count, np.int64)) :].reshape(-1, 2 * (SENSORS + 1))
