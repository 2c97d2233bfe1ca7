"""Monsoon HVPM (AAA10F), or an LVPM flashed with firmware 25 or later, in bytes: USB requests in, USB packets out.

On a port, requests and packets are framed as :mod:`deepen.meters.ports.usb_port` frames those of a real device;
:class:`FakeUsb` offers the same instrument as a device of pyusb. Protocol as PyMonsoon (``pmapi.py``, ``HVPM.py``,
``LVPM.py``, ``sampleEngine.py``) speaks it.
"""

from __future__ import annotations

import binascii
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["FakeUsb", "HvpmEmulator"]

RATE_HZ = 5000.0
PER_PACKET = 3
BULK, ANSWER = 0x81, 0x80
REFUSED = 0xFFFFFFFE
FOREVER = 0xFFFFFFFF

VALUES: dict[str, dict[int, int]] = {
    "HVPM": {
        0x10: 2, 0x23: 0, 0x42: 23171, 0x43: 0xFFFF, 0x44: 0xFFFF, 0x45: 2, 0xC0: 32, 0xC1: 1,
        0x88: 0xE100, 0x89: 0xC900,
        0x1A: 36500, 0x1B: 6400, 0x1C: 14000, 0x1D: 600, 0x1E: 3100, 0x1F: 250, 0x25: 15, 0x26: 15, 0x27: 0, 0x28: 0,
    },
    "LVPM": {
        0x10: 2, 0x23: 0, 0x42: 7536, 0x43: 0, 0x44: 0, 0x45: 1, 0xC0: 32, 0xC1: 1,
        0x02: 0, 0x11: 0, 0x0D: 0, 0x12: 0, 0x0E: 0, 0x13: 0,
    },
}  # fmt: skip
"""Readable values by opcode: limits, model, versions, and the factory calibration (the maker's defaults)."""

FULL_SCALE = {"HVPM": (0xFFFF, 0.0365, 6.4), "LVPM": (0x7FFF, 0.035946, 3.1034)}
"""Highest reading of a current, and the reference currents (amperes, fine and coarse) at the default calibration."""

READINGS = {"HVPM": ((2000, 1500), (50000, 32000)), "LVPM": ((40, 30), (24000, 12000))}
"""Zero and reference readings, (fine, coarse) each."""

VOLT = {"HVPM": 62.5e-6 * 4, "LVPM": 62.5e-6 * 2}
"""Volts per count of the main voltage."""


class HvpmEmulator:
    """An emulated instrument with 5 kHz, up to three measurements in a packet, and calibration readings among them.

    Ten calibration readings (five zero, five reference) come first, then one of each every interval; each takes the
    place of a measurement.

    Attributes:
        name: ``hvpm``.
        rate_hz: 5 kHz, calibration readings included.
        clock: Its sample clock.
        supply: The load behind its output.
        wire: Faults of frames (a frame is a packet; its counter is the sequence number).
        values: Values that can be read and set, by opcode.
        requests: Control requests carried out: (bmRequestType, bRequest, wValue, wIndex, data).
        dropped: Number of packets it had no room for.
    """

    name = "hvpm"
    rate_hz = RATE_HZ

    def __init__(
        self,
        signal: PowerSignal,
        *,
        model: Literal["HVPM", "LVPM"] = "HVPM",
        volts: float = 0.0,
        values: Mapping[int, int] | None = None,
        invalid_every: int = 0,
        tripped: bool = False,
        ppm: float = 0.0,
        noise_a: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Make a unit.

        Args:
            signal: Power of the load, watts.
            model: Model of the instrument.
            volts: Initial voltage of its output, volts; 0 is off.
            values: Values that differ from the defaults, by opcode.
            invalid_every: Period of measurements marked invalid; 0 for none.
            tripped: True if the over-current protection has cut the output off.
            ppm: Error of its clock, parts per million.
            noise_a: Standard deviation of the noise of a sample, amperes.
            seed: Seed of the noise.
        """
        self.clock = SampleClock(RATE_HZ, ppm)
        self.supply = EmulatedSupply(signal, volts)
        self.wire = FrameFaultInjector()
        self.values = {**VALUES[model], 0x41: round(volts * (1 << 20)), **(values or {})}
        self.requests: list[tuple[int, int, int, int, bytes]] = []
        self.dropped = 0
        self._model = model
        self._invalid_every = invalid_every
        self._tripped = tripped
        self._noise_a = noise_a
        self._rng = np.random.default_rng(seed)
        self._calibrated = True
        self._interval = 6250
        self._pending = b""
        self._sequence = 0
        self._to_drop: list[tuple[int, bool]] = []
        self._layout: list[tuple[int, int]] = []

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive setup packets, each with its data; only a read request has an answer."""
        self._pending += data
        answers = b""
        while len(self._pending) >= 8:
            kind, request, value, index, length = struct.unpack_from("<BBHHH", self._pending)
            size = 8 if kind & 0x80 else 8 + length
            if len(self._pending) < size:
                break
            body, self._pending = self._pending[8:size], self._pending[size:]
            answer = self.control(kind, request, value, index, body, t_s)
            if kind & 0x80:
                answers += build_usb_packet(ANSWER, answer)
        return answers

    def control(self, kind: int, request: int, value: int, index: int, data: bytes, t_s: float) -> bytes:
        """Carry out one control request and return its answer."""
        self.requests.append((kind, request, value, index, data))
        if kind == 0xC0 and request == 0x01:
            opcode = index & 0xFF
            if opcode == 0xC4:
                found = 0x80 if self.clock.running else 0
            else:
                found = REFUSED if self.clock.running else self.values.get(opcode, REFUSED)
            return found.to_bytes(4, "little")
        if kind == 0x40 and request == 0x01 and not self.clock.running:
            number = value | index >> 8 << 16
            if number != int.from_bytes(data, "little"):
                raise ValueError("wValue and wIndex of a request do not agree with its data")
            self.values[index & 0xFF] = number
            if index & 0xFF == 0x41:
                self.supply.set(t_s, number / (1 << 20))
        elif kind == 0x40 and request == 0x02:
            self._interval = max(round(value * 1e-3 * RATE_HZ), 20)
            count = int.from_bytes(data, "little")
            self._sequence = 0
            self.clock.start(t_s, None if count == FOREVER else count)
        elif kind == 0x40 and request == 0x03:
            self.clock.stop()
        return b""

    def drop(self, packets: int, *, numbered: bool = True) -> None:
        """Drop the next packets for lack of room; ``numbered`` ones use up their sequence number."""
        self._to_drop.append((packets, numbered))

    def advance(self, t_s: float) -> bytes:
        """Stream the packets since the last call."""
        frames = self._packets(t_s)
        self._layout, at = [], 0
        for frame, samples in frames:
            self._layout.append((at, samples))
            at += len(frame)
        return b"".join(frame for frame, _ in frames)

    def _packets(self, t_s: float) -> list[tuple[bytes, int]]:
        """Return the framed packets since the last call, with the number of measurements in each."""
        out: list[tuple[bytes, int]] = []
        for first, start_s, end_s in self.clock.take(t_s, PER_PACKET):
            kinds = self._kinds(first + np.arange(start_s.size))
            words = self._words(kinds, start_s, end_s)
            for at in range(0, start_s.size, PER_PACKET):
                part = words[at : at + PER_PACKET]
                samples = int(np.count_nonzero(kinds[at : at + PER_PACKET] == 0))
                if self._drops():
                    continue
                number, self._sequence = self._sequence + self.wire.jumped, self._sequence + 1
                if self.wire.count_lost_frames([samples]):
                    continue
                flags = number & 0x0F | (0x20 if self.supply.volts > 0 else 0) | (0x10 if self._tripped else 0)
                packet = struct.pack("<HBB", self.dropped & 0xFFFF, flags, len(part)) + part.tobytes()
                frame = build_usb_packet(BULK, packet)
                if self.wire.count_corrupt_frames([samples]):
                    frame = frame[:-1] + bytes([frame[-1] ^ 0x55])
                out.append((frame, samples))
        return out

    def samples_in(self, start: int, stop: int) -> int:
        """Count the measurements in packets with a byte in a range of the stream returned last."""
        size = 4 + 4 + 18 * PER_PACKET  # of a frame; only the last one of a limited number of samples is shorter
        return sum(samples for at, samples in self._layout if at < stop and at + size > start)

    def uncalibrate(self) -> None:
        """Never send calibration readings."""
        self._calibrated = False

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    def _drops(self) -> bool:
        """Return whether there is no room for the next packet."""
        if not self._to_drop:
            return False
        packets, numbered = self._to_drop[0]
        self._to_drop[:1] = [(packets - 1, numbered)] if packets > 1 else []
        self.dropped += 1
        self._sequence += numbered
        return True

    def _kinds(self, slot: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the kind of measurement in each slot: bits 4-5 of the main gain."""
        kinds = np.zeros(slot.size, np.uint8)
        if self._invalid_every:
            kinds[slot % self._invalid_every == self._invalid_every - 1] = 0x20
        if self._calibrated:
            phase = slot % self._interval
            kinds[(slot < 5) | (phase == 0)] = 0x10
            kinds[((slot >= 5) & (slot < 10)) | ((slot >= self._interval) & (phase == 1))] = 0x30
        return kinds

    def _words(self, kinds: NDArray[np.uint8], start_s: NDArray[Any], end_s: NDArray[Any]) -> NDArray[np.uint16]:
        """Encode measurements as in packets; big-endian uint16, shape (n, 9)."""
        current = self.supply.mean_a(start_s, end_s)
        if self._noise_a:
            current = current + self._noise_a * self._rng.standard_normal(current.size)
        top, fine_a, coarse_a = FULL_SCALE[self._model]
        low = -top - 1 if self._model == "LVPM" else 0
        zero, reference = READINGS[self._model]
        words = np.zeros((kinds.size, 9), ">u2")
        for column, full_a, k in ((1, fine_a, 0), (0, coarse_a, 1)):
            offset = self.values.get(0x25 + k, 0) if self._model == "HVPM" else 0
            base = zero[k] + offset
            raw = np.rint(base + current * (reference[k] - base) / full_a)
            raw[kinds == 0x10] = zero[k]
            raw[kinds == 0x30] = reference[k]
            words[:, column] = np.clip(raw, low, top).astype(np.int64) & 0xFFFF
        words[:, 6] = np.clip(np.rint(self.supply.mean_v(start_s, end_s) / VOLT[self._model]), 0, 0xFFFF)
        words[:, 8] = kinds  # the gain of USB, then that of main
        return words


class FakeUsb:
    """An emulated instrument as a device of pyusb: the calls :class:`deepen.meters.ports.usb_port.UsbPort` makes.

    Attributes:
        idVendor: Vendor id.
        idProduct: Product id.
        serial_number: Serial number in the USB descriptor.
        product: Product name in the USB descriptor.
        bus: Number of the bus.
        address: Number on the bus.
        unplugged: True if it is unplugged.
    """

    idVendor, idProduct = 0x2AB9, 0x0001
    product = "Monsoon HVPM"
    bus, address = 1, 7

    def __init__(
        self, emulator: HvpmEmulator, now: Callable[[], float] = time.monotonic, *, interface_class: int = 0x03
    ) -> None:
        """Plug an emulator in.

        Args:
            emulator: The instrument.
            now: Returns the true time, seconds.
            interface_class: USB class of its interface; 2 is a serial port.
        """
        self.emulator = emulator
        self.serial_number = str(emulator.values[0x42])
        self.unplugged = False
        self.kernel_driver = True
        self._class = interface_class
        self._now = now
        self._queue: list[bytes] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[list[SimpleNamespace]]:
        """Iterate over its configurations, each a list of interfaces."""
        yield [SimpleNamespace(bInterfaceClass=self._class)]

    def is_kernel_driver_active(self, interface: int) -> bool:
        """Return whether a kernel driver holds it."""
        return self.kernel_driver

    def detach_kernel_driver(self, interface: int) -> None:
        """Detach the kernel driver."""
        self.kernel_driver = False

    def set_configuration(self) -> None:
        """Choose its only configuration.

        Raises:
            USBError: If the kernel still holds it.
        """
        if self.kernel_driver:
            raise self._error("Resource busy", 16)

    def ctrl_transfer(self, kind: int, request: int, value: int, index: int, data: Any, timeout: int) -> bytes:
        """Carry out a control request; ``data`` is the data to send, or the length to receive."""
        self._check()
        with self._lock:
            answer = self.emulator.control(
                kind, request, value, index, b"" if kind & 0x80 else bytes(data), self._now()
            )
        return answer[: int(data)] if kind & 0x80 else answer

    def read(self, endpoint: int, size: int, timeout: int) -> bytes:
        """Read one packet of the bulk endpoint.

        Raises:
            USBTimeoutError: If there is none in time.
            USBError: If it is gone.
        """
        import usb.core

        end_s = self._now() + timeout / 1000
        while True:
            self._check()
            with self._lock:
                if not self._queue:
                    self._queue = [frame[2:-2] for frame, _ in self.emulator._packets(self._now())]
                if self._queue:
                    return self._queue.pop(0)
            if self._now() >= end_s:
                raise usb.core.USBTimeoutError("Operation timed out", -7, 110)
            time.sleep(5e-4)

    def _check(self) -> None:
        if self.unplugged:
            raise self._error("No such device (it may have been disconnected)", 19)

    @staticmethod
    def _error(text: str, number: int) -> Exception:
        import usb.core

        error: Exception = usb.core.USBError(text, errno=number)
        return error


def build_usb_packet(kind: int, payload: bytes) -> bytes:
    """Frame data from the device: kind, length, payload, CRC-CCITT."""
    data = bytes((kind, len(payload))) + payload
    return data + binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "little")
