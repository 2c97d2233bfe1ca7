"""An emulated SCPI power analyser: common commands, an error queue, ranges, and a periodically updated reading."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["ScpiAnalyzer"]

RANGES_W = (1.0, 10.0, 100.0, 1000.0)


class ScpiAnalyzer:
    """An analyser that answers ``MEAS:POW?`` (W) and ``MEAS:ALL?`` (V, A, W) with means over its last update.

    ``RANGE?`` returns the range in watts, ``RANGE x`` sets it, ``RANGE AUTO`` lets it follow the power; above the range
    a reading is ``9.91E37``. ``SYST:ERR?`` takes the oldest error from the queue.

    Attributes:
        name: ``scpi``.
        rate_hz: Updates per second.
        clock: Clock that starts with the first command, as the origin of the moments of faults.
        supply: Supply and load that it measures.
        wire: Faults of its answers; corrupted ones have a wrong character.
        received: Commands received.
        range_w: Present range, watts.
        queue: Errors not queried yet.
    """

    name = "scpi"

    def __init__(
        self,
        signal: PowerSignal,
        *,
        update_s: float = 0.1,
        volts: float = 5.0,
        identity: str = "ACME,PA1,0042,1.0",
        range_w: float = 10.0,
        auto: bool = False,
        line_end: bytes = b"\n",
    ) -> None:
        """Make an analyser.

        Args:
            signal: Power of the load, watts.
            update_s: Time between two updates.
            volts: Supply of the load.
            identity: Answer to ``*IDN?``.
            range_w: Initial range, watts.
            auto: True if the range follows the power.
            line_end: End of a command and of an answer.
        """
        self.rate_hz = 1 / update_s
        self.clock = SampleClock(self.rate_hz)
        self.supply = EmulatedSupply(signal, volts)
        self.wire = FrameFaultInjector()
        self.received: list[str] = []
        self.range_w = range_w
        self.queue: deque[str] = deque()
        self._update_s = update_s
        self._identity = identity
        self._auto = auto
        self._line_end = line_end
        self._pending = b""

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive commands and return the answers."""
        if self.clock.started_s is None:
            self.clock.start(t_s)
        *lines, self._pending = (self._pending + data).split(self._line_end)
        return b"".join(self._act(line.decode("ascii", "replace").strip(), t_s) for line in lines)

    def advance(self, t_s: float) -> bytes:
        """Return nothing: it only answers queries."""
        return b""

    def samples_in(self, start: int, stop: int) -> int:
        """Return 0: no samples are streamed."""
        return 0

    def uncalibrate(self) -> None:
        """Report a lost calibration through the error queue."""
        self.queue.append('-340,"Calibration failed"')

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    def _act(self, command: str, t_s: float) -> bytes:
        self.received.append(command)
        answer = self._answer(command, t_s)
        if answer is None:
            return b""
        if self.wire.count_lost_frames([1]):
            return b""
        if self.wire.count_corrupt_frames([1]):
            answer = "?" + answer[1:]
        return answer.encode("ascii") + self._line_end

    def _answer(self, command: str, t_s: float) -> str | None:
        word, _, argument = command.upper().partition(" ")
        if word == "*IDN?":
            return self._identity
        if word == "SYST:ERR?":
            return self.queue.popleft() if self.queue else '0,"No error"'
        if word in {"MEAS:POW?", "MEAS:ALL?"}:
            volts, amperes, watts = self._reading(t_s)
            return f"{watts:.5E}" if word == "MEAS:POW?" else f"{volts:.5E},{amperes:.5E},{watts:.5E}"
        if word == "RANGE?":
            return f"{self.range_w:g}"
        if word == "RANGE" and argument == "AUTO":
            self._auto = True
        elif word == "RANGE" and argument in {f"{r:g}" for r in RANGES_W}:
            self.range_w, self._auto = float(argument), False
        elif command and word not in {"SYST:LOC", "SYST:REM", "*CLS"}:
            self.queue.append('-113,"Undefined header"')
        return None

    def _reading(self, t_s: float) -> tuple[float, float, float]:
        """Return the means over the last complete update: volts, amperes, watts."""
        end_s = math.floor(t_s / self._update_s) * self._update_s
        edges = np.array([end_s - self._update_s]), np.array([end_s])
        watts = float(self.supply.mean_w(*edges)[0])
        if self._auto:
            self.range_w = next((r for r in RANGES_W if r >= watts), RANGES_W[-1])
        if watts > self.range_w:
            return float(self.supply.mean_v(*edges)[0]), 9.91e37, 9.91e37
        return float(self.supply.mean_v(*edges)[0]), float(self.supply.mean_a(*edges)[0]), watts
