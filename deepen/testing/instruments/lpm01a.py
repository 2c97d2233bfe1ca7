"""Emulated ST X-NUCLEO-LPM01A ("PowerShield"): text commands, samples as text or two bytes each, a stamp every second.

Answers as mlcommons/tiny's ``power_manager_lpm.py`` (help text of the firmware) and zephyr's
``power_monitor_stm32l562e_dk`` read them. The board counts its own samples, so its stamps agree with them exactly.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import LogicInputs, PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["Lpm01aBoard", "encode_ascii_samples", "encode_binary_samples"]

PROMPT = "PowerShield > "
TRIP_A = 0.059
"""Built-in overcurrent protection (ST UM2243 Rev 2, section 10)."""

FREE = ("htc", "version", "powershield", "status", "help", "echo")
"""Commands that need no control."""

SETTINGS = ("acqtime", "acqmode", "funcmode", "trigdelay", "trigsrc", "eventsrc", "currthres", "lcd", "pwrend")


def encode_ascii_samples(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Encode values as the board does with ``format ascii_dec``: ``6409-07`` and CR LF; uint8, shape (n, 9)."""
    exponent = np.floor(np.log10(np.maximum(values, 1e-12))).astype(np.int64) - 3
    mantissa = np.rint(values / 10.0**exponent).astype(np.int64)
    over = mantissa > 9999
    mantissa, exponent = np.where(over, mantissa // 10, mantissa), exponent + over
    text = np.empty((values.size, 9), np.uint8)
    for k, power in enumerate((1000, 100, 10, 1)):
        text[:, k] = 48 + mantissa // power % 10
    text[:, 4] = np.where(exponent < 0, 45, 43)
    text[:, 5], text[:, 6] = 48 + np.abs(exponent) // 10, 48 + np.abs(exponent) % 10
    text[:, 7], text[:, 8] = 13, 10
    return text


def encode_binary_samples(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Encode values as the board does with ``format bin_hexa``: 4 bits exponent, 12 bits; uint8, shape (n, 2)."""
    exponent = np.floor(np.log(4095 / np.maximum(values, 1e-15)) / np.log(16)).clip(0, 14).astype(np.int64)
    words = exponent << 12 | np.minimum(np.rint(values * 16.0**exponent).astype(np.int64), 4095)
    rows: NDArray[np.uint8] = words.astype(">u2").view(np.uint8).reshape(-1, 2)
    return rows


class Lpm01aBoard:
    """A board with its target.

    Attributes:
        name: ``lpm01a``.
        rate_hz: Samples per second, as set.
        clock: Its sample clock.
        supply: The target behind its regulator.
        wire: Faults of samples (there are no frames); a jump moves the stamps by so many milliseconds.
        logic: D7 is bit 7; each falling edge is an event.
        setting_v: Voltage the regulator is set to.
        celsius: Temperature it reports, degrees Celsius.
        commands: Commands received, in order.
        controlled: True while the host has control.
    """

    name = "lpm01a"

    def __init__(
        self,
        signal: PowerSignal,
        *,
        setting_v: float = 3.3,
        ppm: float = 0.0,
        error_v: float = -0.008,
        serial: str = "004B003A3137510533333639",
        celsius: float = 28.0,
        refused: str = "",
        detail: str = "not supported",
    ) -> None:
        """Make a board.

        Args:
            signal: Power of the target, watts.
            setting_v: Voltage the regulator starts with; the target is off.
            ppm: Error of its clock.
            error_v: Difference of the voltage read back from the setting, volts.
            serial: Unique id.
            celsius: Temperature, degrees Celsius.
            refused: Start of the commands it refuses.
            detail: The reason it gives.
        """
        self.rate_hz = 100.0
        self.clock = SampleClock(self.rate_hz, ppm)
        self.supply = EmulatedSupply(signal)
        self.wire = FrameFaultInjector()
        self.logic = LogicInputs()
        self.setting_v = setting_v
        self.celsius = celsius
        self.commands: list[str] = []
        self.controlled = False
        self._error_v = error_v
        self._serial = serial
        self._refused, self._detail = refused, detail
        self._calibrated = True
        self._energy = False
        self._binary = False
        self._pending = b""
        self._events = 0
        self._level = 0
        self._tripped = False
        self._places: NDArray[np.int64] = np.empty(0, np.int64)

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive commands and answer them."""
        *lines, self._pending = re.split(rb"\r?\n", self._pending + data)
        return b"".join(self._act(line.decode("ascii", "replace").strip(), t_s) for line in lines if line.strip())

    def advance(self, t_s: float) -> bytes:
        """Stream the samples since the last call, with stamps and events between them."""
        out = bytearray()
        places: list[NDArray[np.int64]] = []
        second = round(self.rate_hz)
        for first, start_s, end_s in self.clock.take(t_s):
            done = 0
            while done < end_s.size:
                if (first + done) % second == 0:
                    out += self._stamp(first + done)
                last = min(end_s.size, done + second - (first + done) % second)
                edges = self._falling(end_s[done:last])
                if edges.size:
                    last = done + int(edges[0]) + 1
                places.append(len(out) + self._samples(out, start_s[done:last], end_s[done:last]))
                if edges.size:
                    self._events += 1
                    out += self._text(f"event {self._events} ris")
                done = last
        self._places = np.concatenate(places) if places else np.empty(0, np.int64)
        return bytes(out)

    def samples_in(self, start: int, stop: int) -> int:
        """Count the samples with a byte in a range of the stream returned last."""
        size = 2 if self._binary else 9
        first = np.searchsorted(self._places, start - size, side="right")
        return max(0, int(np.searchsorted(self._places, stop, side="left") - first))

    def uncalibrate(self) -> None:
        """Fail the calibration at power-up, as ``status`` then reports."""
        self._calibrated = False

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)

    def _act(self, command: str, t_s: float) -> bytes:
        """Carry out a command."""
        self.commands.append(command)
        word, _, argument = command.partition(" ")
        if (self._refused and command.startswith(self._refused)) or not (self.controlled or word in FREE):
            reason = self._detail if self.controlled else "not controlled by host"
            return b"" if command == "stop" else self._line(f"error {command}") + self._line(f"Error detail: {reason}")
        if word == "stop":
            return self._stop()
        answer = self._do(word, argument, t_s)
        if answer is None:
            return self._line(f"error {command}") + self._line("Error detail: unknown command or argument")
        return self._line(f"ack {command} {answer}".rstrip())

    def _do(self, word: str, argument: str, t_s: float) -> str | None:
        """Carry out a command other than ``stop``; return its value, ``None`` if it is wrong."""
        values = {
            "version": "1.0.4",
            "powershield": f"PowerShield present with board unique ID {self._serial}",
            "status": "ok" if self._calibrated else "error: calibration failed",
            "temp": f"{self.celsius:.1f}",
            "range": "1000-10 5000-05",
            "calib": "",
            "echo": argument,
            "help": "",
        }
        if word in values:
            return values[word]
        if word in SETTINGS:
            return ""
        if word in {"htc", "hrc"}:
            self.controlled = word == "htc"
            return ""
        if word == "volt" and argument == "get":
            return f"{round(1000 * (self.setting_v + self._error_v)):04d}-03"
        if word == "volt" and re.fullmatch(r"\d{4}m", argument) and 1800 <= int(argument[:-1]) <= 3300:
            self.setting_v = int(argument[:-1]) / 1000
            if self.supply.volts:
                self.supply.set(t_s, self.setting_v + self._error_v)
            return ""
        if word == "pwr" and argument.partition(" ")[0] in {"on", "off"}:
            on = argument.startswith("on")
            self.supply.set(t_s, self.setting_v + self._error_v if on else 0.0)
            return ""
        if word == "output" and argument in {"energy", "current"}:
            self._energy = argument == "energy"
            return ""
        if word == "format" and argument in {"ascii_dec", "bin_hexa"}:
            self._binary = argument == "bin_hexa"
            return ""
        if word == "freq" and re.fullmatch(r"[125]0{0,2}k?", argument):
            self.rate_hz = self.clock.rate_hz = float(argument.rstrip("k")) * (1000 if argument[-1] == "k" else 1)
            return ""
        if word == "start" and not self.clock.running:
            self._tripped = False
            self._level = int(self.logic.at(np.array([t_s]))[0])
            self.clock.start(t_s)
            return ""
        return None

    def _stop(self) -> bytes:
        if not self.clock.running:
            return b""
        self.clock.stop()
        return (b"\xf0\xf4\xff\xff" if self._binary else b"") + self._line("Acquisition completed")

    @staticmethod
    def _line(text: str) -> bytes:
        return (text if text.startswith("Error") else PROMPT + text).encode("ascii") + b"\r\n"

    def _text(self, text: str) -> bytes:
        """Encode a line within the stream."""
        return b"\xf0\xf2" + text.encode("ascii") + b"\xff\xff" if self._binary else text.encode("ascii") + b"\r\n"

    def _stamp(self, index: int) -> bytes:
        ms = round(index * 1000 / self.rate_hz) + self.wire.jumped
        if self._binary:
            return b"\xf0\xf3" + (ms & 0x7FFF_FFFF).to_bytes(4, "big") + b"\x03\xff\xff"
        return f"TimeStamp: {ms // 1000 % 1000:03d}s {ms % 1000:03d}ms, buff 03%\r\n".encode("ascii")

    def _falling(self, end_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Find the samples at whose end D7 has fallen; the level is followed up to the first one, else to the end."""
        high = self.logic.at(end_s) & 0x80
        edges: NDArray[np.int64] = np.flatnonzero((np.concatenate([[self._level & 0x80], high[:-1]]) > 0) & (high == 0))
        self._level = int(high[edges[0]] if edges.size else high[-1])
        return edges

    def _samples(self, out: bytearray, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Append samples; return the offset of each from the previous end."""
        current = self.supply.mean_a(start_s, end_s)
        values = self.supply.mean_w(start_s, end_s) / self.rate_hz if self._energy else current
        rows = encode_binary_samples(values) if self._binary else encode_ascii_samples(values)
        lost = self.wire.count_lost_frames(np.ones(len(rows), np.int64))
        out += rows[lost:].tobytes()
        places: NDArray[np.int64] = np.arange(len(rows) - lost, dtype=np.int64) * rows.shape[1]
        if not self._tripped and bool(np.any(current > TRIP_A)):
            self._tripped = True
            self.supply.set(float(end_s[-1]), 0.0)
            out += b"\xf0\xf5\xff\xff" if self._binary else b"error: overcurrent\r\n"
        return places
