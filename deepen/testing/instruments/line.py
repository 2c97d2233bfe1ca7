"""An emulated instrument that prints lines of text, formatted by a template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["LinePrinter"]


class LinePrinter:
    """An instrument that prints a line per period between ``start`` and ``stop``; ``id?`` returns its identity.

    A template takes ``counter``, ``ms`` (its own clock), ``power`` (W, mean over the period), ``current`` (A),
    ``voltage`` (V), ``energy`` (J in the period) and ``total`` (J so far).

    Attributes:
        name: ``line``.
        rate_hz: Lines per second.
        clock: Its sample clock.
        supply: What it measures.
        wire: Faults of lines; a jump moves the counter, and the clock by as many periods.
        received: Lines sent by the host.
    """

    name = "line"

    def __init__(
        self,
        signal: PowerSignal,
        template: str = "{counter},{power:.6f}\r\n",
        *,
        rate_hz: float = 10.0,
        volts: float = 5.0,
        modulus: int = 0,
        ppm: float = 0.0,
        identity: str = "ACME PM1 0042",
        heading: str = "",
    ) -> None:
        """Make an instrument.

        Args:
            signal: Power of the load, watts.
            template: Template of the line for a period.
            rate_hz: Lines per second.
            volts: Supply of the load.
            modulus: Number at which its counter wraps to zero; 0 for never.
            ppm: Error of its clock.
            identity: Answer to ``id?``.
            heading: Printed before the first line.
        """
        self.rate_hz = rate_hz
        self.clock = SampleClock(rate_hz, ppm)
        self.supply = EmulatedSupply(signal, volts)
        self.wire = FrameFaultInjector()
        self.received: list[str] = []
        self._template = template
        self._modulus = modulus
        self._identity = identity
        self._heading = heading
        self._pending = b""
        self._total_j = 0.0
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive commands."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        answer = b""
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            self.received.append(text)
            if text == "id?":
                answer += self._identity.encode() + b"\r\n"
            elif text == "start" and not self.clock.running:
                self.clock.start(t_s)
                answer += self._heading.encode()
            elif text == "stop":
                self.clock.stop()
        return answer

    def advance(self, t_s: float) -> bytes:
        """Print the lines since the last call."""
        lines = [line for first, start_s, end_s in self.clock.take(t_s) for line in self._lines(first, start_s, end_s)]
        kept = lines[self.wire.count_lost_frames([1] * len(lines)) :]
        self._ends = np.cumsum([len(line) for line in kept], dtype=np.int64)
        return b"".join(kept)

    def samples_in(self, start: int, stop: int) -> int:
        """Count the lines with a byte in a range of the bytes returned last."""
        if stop <= start:
            return 0
        last = min(int(np.searchsorted(self._ends, stop, side="left")) + 1, self._ends.size)
        return last - int(np.searchsorted(self._ends, start, side="right"))

    def uncalibrate(self) -> None:
        """Lose its identity: it prints the same numbers, and answers ``id?`` with ``UNCALIBRATED``."""
        self._identity = "UNCALIBRATED"

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    def _lines(self, first: int, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> list[bytes]:
        power, volts = self.supply.mean_w(start_s, end_s), self.supply.mean_v(start_s, end_s)
        current = self.supply.mean_a(start_s, end_s)
        lines = []
        for k, (watts, amperes, voltage) in enumerate(zip(power, current, volts, strict=True)):
            number = first + k + self.wire.jumped
            energy = float(watts) / self.rate_hz
            self._total_j += energy
            text = self._template.format(
                counter=number % self._modulus if self._modulus else number,
                ms=1000 * number / self.rate_hz,
                power=watts,
                current=amperes,
                voltage=voltage,
                energy=energy,
                total=self._total_j,
            )
            lines.append(text.encode("utf-8"))
        return lines
