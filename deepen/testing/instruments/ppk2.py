"""Emulated Nordic Power Profiler Kit II.

Protocol as in the official app (``pc-nrfconnect-ppk``) and two independent libraries: raw one-byte commands, text
metadata, and one little-endian 32-bit word per sample at 100 kS/s.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import LogicInputs, PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["EmulatedPpk2Calibration", "Ppk2Emulator"]

RATE_HZ = 100_000.0
ADC_SCALE = 1.8 / 163840
"""Volts per count of the 16-bit reading (1.8 V reference, as in the app's conversion)."""

ARGUMENTS = {0x06: 0, 0x07: 0, 0x0C: 1, 0x0D: 2, 0x11: 1, 0x15: 0, 0x16: 0, 0x19: 0, 0x20: 0, 0x25: 5}
"""Argument bytes of each command: start, stop, power, regulator, mode, spike filter on/off, metadata, reset, gain."""

AMPERE_METER, SOURCE_METER = 1, 2

THRESHOLDS_A = (50e-6, 500e-6, 5e-3, 60e-3)
"""Currents at which this emulator changes range, amperes: the upper ends of the ranges as the maker advertises them."""


@dataclass(frozen=True, slots=True)
class EmulatedPpk2Calibration:
    """Coefficients of the five ranges; numbers are those the metadata prints (4 decimals, 9 for ``s`` and ``i``).

    ``current = ug * (r * (gs * r + gi) + s * volts + i)`` with ``r = (adc - o) * 1.8 / 163840 / resistor``.

    Attributes:
        r: Resistors, ohms.
        gs: Quadratic gain.
        gi: Linear gain.
        o: Offset, counts.
        s: Current per volt of the supply.
        i: Current offset, amperes.
        ug: User gain.
    """

    r: tuple[float, ...] = (1031.64, 101.65, 10.15, 0.94, 0.043)
    gs: tuple[float, ...] = (0.0, 112.789, 18.0115, 2.5050, 0.0)
    gi: tuple[float, ...] = (1.0, 0.9695, 0.9609, 0.9519, 0.9582)
    o: tuple[float, ...] = (112.942, 75.4627, 64.602, 50.4983, 87.2177)
    s: tuple[float, ...] = (48e-9, 596e-9, 5.281e-6, 62.577e-6, 2940.743e-6)
    i: tuple[float, ...] = (-104e-9, -1.443e-6, -12.166e-6, -124.311e-6, -3.9e-3)
    ug: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)

    def texts(self) -> dict[str, str]:
        """Format each coefficient as in the metadata, by key."""
        digits = {"r": 4, "gs": 4, "gi": 4, "o": 4, "s": 9, "i": 9, "ug": 2}
        return {
            f"{name.upper()}{k}": f"{value:.{places}f}"
            for name, places in digits.items()
            for k, value in enumerate(getattr(self, name))
        }

    def counts(self, current_a: NDArray[np.float64], volts: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Compute the reading of the converter at a current.

        Args:
            current_a: True current; shape (n,), amperes.
            volts: Supply voltage; shape (n,).

        Returns:
            14-bit readings and ranges, each of shape (n,); a current beyond the last range gives the highest reading.
        """
        span = np.searchsorted(THRESHOLDS_A, current_a, side="right")
        r, gs, gi, o, s, i, ug = (
            np.array(v)[span] for v in (self.r, self.gs, self.gi, self.o, self.s, self.i, self.ug)
        )
        wanted = current_a / ug - s * volts - i
        # gs * x^2 + gi * x = wanted, solved without cancellation and also where gs is zero
        x = 2 * wanted / (gi + np.sqrt(np.maximum(gi * gi + 4 * gs * wanted, 0.0)))
        adc = x * r / ADC_SCALE + o
        return np.clip(np.rint(adc / 4), 0, 0x3FFF).astype(np.int64), span


class Ppk2Emulator:
    """A PPK2: source meter or ampere meter, five ranges, a 6-bit counter and eight logic inputs.

    Its load draws nothing until power is switched on (``0C 01``). Voltage is the regulator's in source mode and
    ``external_v`` in ampere mode. Ranges change without hysteresis at :data:`THRESHOLDS_A`.

    Attributes:
        name: ``ppk2``.
        rate_hz: 100 kS/s.
        clock: Its sample clock.
        supply: The load behind its regulator.
        wire: Faults of frames (a frame is one sample; there is no checksum).
        logic: Its digital inputs D0 to D7, read at the end of each sample.
        regulator_v: Voltage the regulator is set to.
        mode: 1 ampere meter, 2 source meter.
        powered: True while the load is switched on.
        spike_filter: True if the spike filter was switched on.
        unknown: Number of bytes that are not a command, and of commands with an argument out of range.
    """

    name = "ppk2"
    rate_hz = RATE_HZ

    def __init__(
        self,
        signal: PowerSignal,
        *,
        regulator_v: float = 3.3,
        external_v: float = 3.3,
        mode: int = SOURCE_METER,
        calibration: EmulatedPpk2Calibration | None = None,
        defects: Mapping[str, str] | None = None,
        ppm: float = 0.0,
        noise_a: float = 0.0,
        spike: float = 0.0,
        counter: int = 0,
        seed: int = 0,
    ) -> None:
        """Make a unit.

        Args:
            signal: Power of the load, watts.
            regulator_v: Voltage the regulator starts with.
            external_v: Voltage of the load in ampere mode, volts.
            mode: Initial mode.
            calibration: Its true coefficients.
            defects: Metadata values it prints instead of the true ones, by key; an empty text leaves the line out.
            ppm: Error of its clock.
            noise_a: Standard deviation of the noise of a sample, amperes.
            spike: Share by which the two samples after a range change are too high.
            counter: Initial value of its counter.
            seed: Seed of the noise.
        """
        self.clock = SampleClock(RATE_HZ, ppm)
        self.supply = EmulatedSupply(signal)
        self.wire = FrameFaultInjector()
        self.logic = LogicInputs()
        self.regulator_v = regulator_v
        self.mode = mode
        self.powered = False
        self.spike_filter = True
        self.unknown = bytearray()
        self._external_v = external_v
        self._calibration = calibration or EmulatedPpk2Calibration()
        self._defects = dict(defects or {})
        self._noise_a = noise_a
        self._spike = spike
        self._rng = np.random.default_rng(seed)
        self._counter = counter
        self._pending = bytearray()
        self._last_span: int | None = None
        self._since_switch = 2

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive commands; only ``19`` (metadata) has an answer."""
        self._pending += data
        answer = b""
        while self._pending:
            size = 1 + ARGUMENTS.get(self._pending[0], 0)
            if len(self._pending) < size:
                break
            answer += self._act(self._pending[0], bytes(self._pending[1:size]), t_s)
            del self._pending[:size]
        return answer

    def advance(self, t_s: float) -> bytes:
        """Stream the samples since the last call, 4 bytes each."""
        return b"".join(self._words(first, *edges).tobytes() for first, *edges in self.clock.take(t_s))

    def samples_in(self, start: int, stop: int) -> int:
        """Count the samples with a byte in a range of the stream returned last."""
        return (stop - 1) // 4 - start // 4 + 1 if stop > start else 0

    def uncalibrate(self) -> None:
        """Print ``-nan`` for every coefficient, as units do whose memory was not written."""
        self._defects |= dict.fromkeys(self._calibration.texts(), "-nan")

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    def metadata(self) -> bytes:
        """Return the answer to ``19``."""
        values = {
            "Calibrated": "1",
            **self._calibration.texts(),
            "VDD": f"{1000 * self.regulator_v:.0f}",
            "HW": "9173",
            "mode": str(self.mode),
            "IA": "56",
            **self._defects,
        }
        lines = [f"{key}: {value}" for key, value in values.items() if value]
        return "\n".join([*lines, "END", ""]).encode("ascii")

    def _act(self, command: int, argument: bytes, t_s: float) -> bytes:
        """Carry out a command."""
        if command == 0x19:
            return self.metadata()
        if command == 0x06 and not self.clock.running:
            self.clock.start(t_s)
        elif command == 0x07:
            self._stop()
        elif command == 0x0C and argument[0] <= 1:
            self.powered = bool(argument[0])
        elif command == 0x0D and 800 <= int.from_bytes(argument, "big") <= 5000:
            self.regulator_v = int.from_bytes(argument, "big") / 1000
        elif command == 0x11 and argument[0] in {AMPERE_METER, SOURCE_METER}:
            self.mode = argument[0]
        elif command in {0x15, 0x16}:
            self.spike_filter = command == 0x15
        elif command == 0x20:
            self._stop()
            self.powered, self._counter = False, 0
        elif command == 0x25 and argument[0] < 5:  # stored and printed; the stream is raw, so it stays as it was
            self._defects[f"UG{argument[0]}"] = f"{struct.unpack('<f', argument[1:])[0]:.2f}"
        elif command != 0x06:
            self.unknown += bytes([command]) + argument
        volts = (self.regulator_v if self.mode == SOURCE_METER else self._external_v) if self.powered else 0.0
        if volts != self.supply.volts:
            self.supply.set(t_s, volts)
        return b""

    def _stop(self) -> None:
        """Stop streaming; the counter keeps its value."""
        if self.clock.running:
            self.clock.stop()
            self._counter += self.clock.taken

    def _words(self, first: int, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.uint32]:
        """Encode samples; the first of them may be lost."""
        current = self.supply.mean_a(start_s, end_s)
        if self._noise_a:
            current = current + self._noise_a * self._rng.standard_normal(current.size)
        adc, span = self._calibration.counts(current, self.supply.mean_v(start_s, end_s))
        if self._spike:
            adc = self._overshoot(adc, span)
        counter = (self._counter + self.wire.jumped + first + np.arange(current.size)) & 0x3F
        words = adc | span << 14 | counter << 18 | self.logic.at(end_s).astype(np.int64) << 24
        lost = self.wire.count_lost_frames(np.ones(words.size, np.int64))
        return words[lost:].astype("<u4")

    def _overshoot(self, adc: NDArray[np.int64], span: NDArray[np.int64]) -> NDArray[np.int64]:
        """Raise the two samples after a change of range."""
        last = span[0] if self._last_span is None else self._last_span
        switched = np.diff(span, prepend=last) != 0
        before = np.concatenate([[False] * 2, switched])
        hit = switched | before[1:-1]
        if self._since_switch == 0:
            hit[0] = True
        self._last_span, self._since_switch = int(span[-1]), 0 if switched[-1] else 2
        return np.where(hit, np.minimum((adc * (1 + self._spike)).astype(np.int64), 0x3FFF), adc)
