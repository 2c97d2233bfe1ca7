"""ST X-NUCLEO-LPM01A ("PowerShield"): supplies a microcontroller board with 1.8 to 3.3 V and measures its power.

Commands are lines of text (3,686,400 baud, CR LF) that the board answers with ``ack COMMAND`` and values, or with
``error`` and a line ``Error detail: ...``, each behind the prompt ``PowerShield > ``. Energy output is the default: the
board integrates its own fast samples and sends joules per period, so no energy between two samples is missed.
ASCII output runs without limit up to 5 kHz, binary up to 100 kHz, energy output up to 10 kHz.

Source: the firmware's help text and the order of commands in mlcommons/tiny
``benchmark/runner/power_manager/power_manager_lpm.py``; answers of ``volt get`` and ``temp`` as zephyr's
``scripts/pm/power_monitor_stm32l562e_dk`` reads them.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Literal

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.lpm01a.parser import PROMPT, Lpm01aAsciiParser, Lpm01aBinaryParser, Lpm01aScale
from deepen.meters.ports.discover import UsbId
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import wait_until_silent
from deepen.meters.stream.meter import make_stream_driver
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import read_choice_option, read_optional_number
from deepen.meters.stream.types import Parser
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "Lpm01aInstrument"]

RATES_HZ = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
"""Sample rates the firmware takes (help text of ``freq``)."""

LOW_V, HIGH_V = 1.8, 3.3
"""Limits of the supply (help text of ``volt``)."""

_LIMIT_A = {"dyn": 0.05, "stat": 0.2}
"""Ends of the current ranges if the board does not report them (ST UM2243 Rev 2, sections 9 and 10)."""

_TOLERANCE_V = 0.05  # between the voltage requested and the one read back
_RECALIBRATE_C = 5.0
_STEP_S = 0.05
_MOST_BYTES = 1 << 20  # of a stream that continues during the wait for an answer
_KEPT_BYTES = 1 << 16
_SAFE = b"\r\nstop\r\nhrc\r\n"

_USB = (UsbId(0x0483, 0x5740, product=r"power ?shield|lpm01"),)  # STMicroelectronics' virtual COM port

ACCURACY = Accuracy(gain=0.02 / math.sqrt(3), reference="ST UM2243 Rev 2, sections 9 and 10: 2 %")
"""The maker states a limit of 2 % in both modes."""


class Lpm01aInstrument(StoppedByCommand):
    """The conversation with one board.

    Attributes:
        serial: Unique id of the board; empty if the firmware reports none.
        rate_hz: Samples per second.
        calibration_id: Firmware, voltage and modes.
        sampling: ``mean`` with energy output, ``point`` with current output.
        voltage_v: Supply as read back, volts.
    """

    name = "lpm01a"
    safe_bytes = _SAFE

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Take control of the board and set it up; the target is on afterwards.

        Args:
            port: Open port.
            spec: Options ``voltage_v`` (without it the supply stays as it is), ``rate_hz``, ``output``
                (``energy``, ``current``), ``format`` (``ascii_dec``, ``bin_hexa``), ``mode`` (``dyn``, ``stat``),
                ``calibrate`` (``yes``, ``no``).
            source: Label.

        Raises:
            ConfigError: If an option is outside what the board can do.
            MeterError: If something else answers, or the board refuses a command.
        """
        self._port = port
        self._buffer = b""
        voltage_v = read_optional_number(spec, "voltage_v", LOW_V, HIGH_V, "V")
        self._output: Literal["energy", "current"] = (
            "current" if read_choice_option(spec, "output", ("energy", "current")) == "current" else "energy"
        )
        self.rate_hz = _parse_sample_rate(
            spec, self._output, read_choice_option(spec, "format", ("ascii_dec", "bin_hexa"))
        )
        self._format = read_choice_option(spec, "format", ("ascii_dec", "bin_hexa")) or (
            "ascii_dec" if self.rate_hz <= 5000 else "bin_hexa"
        )
        mode = read_choice_option(spec, "mode", ("dyn", "stat")) or "dyn"
        calibrate = read_choice_option(spec, "calibrate", ("yes", "no")) == "yes"
        self.source: Source = source
        self.accuracy = ACCURACY
        self.sampling: Literal["mean", "point"] = "mean" if self._output == "energy" else "point"
        self.serial = self._take_control()
        self.voltage_v = self._supply(voltage_v)
        if calibrate:
            self._ask("calib", timeout_s=10.0)
        for command in (
            "acqtime inf",
            f"acqmode {mode}",
            "trigdelay 0",
            "trigsrc sw",
            "eventsrc d7 fal",
            f"output {self._output}",
            f"format {self._format}",
            f"freq {_format_rate(self.rate_hz)}",
            "pwr on nostatus",
        ):
            self._ask(command)
        self._limit_a = self._range(mode)
        self._temperature_c = self._temperature()
        self.calibration_id = (
            f"firmware {self._firmware}, {self.voltage_v:.3f} V, {self._output} {self._format}, mode {mode}, "
            f"{self._temperature_c:.1f} C"
        )
        self._parser: Lpm01aAsciiParser | Lpm01aBinaryParser | None = None

    # ---- streaming ---------------------------------------------------------------------------------------------------

    def begin(self) -> Parser:
        """Start the acquisition.

        Raises:
            MeterError: If the board refuses.
        """
        self._buffer = b""
        self._port.flush_input()
        self._ask("start")
        scale = Lpm01aScale(self.rate_hz, self._output, self.voltage_v, self._limit_a)
        rest, self._buffer = self._buffer, b""
        self._parser = (Lpm01aAsciiParser if self._format == "ascii_dec" else Lpm01aBinaryParser)(scale, rest)
        if self._output == "current":
            self._parser.tally.note(
                f"voltage: read once, not measured with the current; power is current times {self.voltage_v:.3f} V"
            )
        return self._parser

    def end(self) -> None:
        """Stop the acquisition; the target stays on.

        Raises:
            MeterError: If the board does not say that it has stopped.
        """
        self._port.write(b"stop\r\n")
        self._buffer = b""
        self._await(rb"completed|\xf0\xf4\xff\xff|ack stop", 3.0, "stop")
        wait_until_silent(self._port)
        warmed = abs(self._temperature() - self._temperature_c)
        if self._parser is not None and warmed > _RECALIBRATE_C:
            self._parser.tally.note(
                f"temperature: the board moved by {warmed:.1f} C; calibrate it again (?calibrate=yes)", "temperature"
            )

    # ---- conversation ------------------------------------------------------------------------------------------------

    def _take_control(self) -> str:
        """Stop a running acquisition and take control; return the board's unique id."""
        self._port.write(b"\r\nstop\r\n")  # from a host that died; the empty line ends a torn command
        quiet = wait_until_silent(self._port)
        try:
            if not quiet:
                raise MeterError("it does not stop sending")
            self._ask("htc", timeout_s=1.0)
        except MeterError as error:
            raise MeterError(
                f"no PowerShield answers at {self._port.name} ({error.cause})",
                subject="lpm01a",
                cure="check that it is an LPM01A in host mode, press its reset button, or name another port",
            ) from error
        self._firmware = self._ask("version", value=True) or "unknown"
        status = self._ask("status", value=True)
        if status.lower().startswith("error"):
            raise MeterError(
                f"the board reports '{status[:80]}'",
                subject="lpm01a",
                cure="unplug it, plug it in without a target so that it calibrates itself, and connect the "
                "target again",
            )
        numbers = re.findall(r"\b[0-9A-Fa-f]{8,32}\b", self._ask("powershield", value=True))
        return "".join(numbers)

    def _supply(self, wanted_v: float | None) -> float:
        """Set the voltage with the output off, unless it is already set; return the voltage read back.

        The board does not ramp the voltage and calibrates itself after every change, so the target is off during it.
        """
        now_v = self._voltage()
        if wanted_v is None or abs(now_v - wanted_v) <= _TOLERANCE_V / 2:
            return now_v
        self._ask("pwr off")
        self._ask(f"volt {round(wanted_v * 1000)}m", timeout_s=10.0)
        now_v = self._voltage()
        if abs(now_v - wanted_v) > _TOLERANCE_V:
            raise MeterError(
                f"set to {wanted_v:g} V, the board reads back {now_v:.3f} V and the target stays off",
                subject="lpm01a",
                cure="check the board's supply jumpers",
            )
        return now_v

    def _voltage(self) -> float:
        text = self._ask("volt get", value=True)
        found = re.search(r"(\d+)([+-]\d+)", text)
        volts = float(f"{found[1]}e{found[2]}") if found else math.nan
        if not 0.5 * LOW_V <= volts <= 1.5 * HIGH_V:
            raise MeterError(
                f"the board reports no voltage (answer: '{text[:40]}')", subject="lpm01a", cure="reset it and try again"
            )
        return volts

    def _temperature(self) -> float:
        found = re.search(r"-?\d+(\.\d+)?", self._ask("temp degc", value=True))
        return float(found[0]) if found else math.nan

    def _range(self, mode: str) -> float:
        """Return the end of the current range, amperes: the greatest answered to ``range``, else the mode's."""
        try:
            numbers = re.findall(r"(\d+)([+-]\d+)", self._ask("range", value=True))
        except MeterError:  # older firmware does not know the command
            numbers = []
        limit = float(f"{numbers[-1][0]}e{numbers[-1][1]}") if len(numbers) == 2 else 0.0
        return limit if 1e-3 <= limit <= 1.0 else _LIMIT_A[mode]

    def _ask(self, command: str, *, value: bool = False, timeout_s: float = 2.0) -> str:
        """Send a command and return the text after its acknowledgement.

        Args:
            command: The command without its line end.
            value: True if a value follows, on the same line or the next.
            timeout_s: Longest wait for the acknowledgement, seconds.

        Raises:
            MeterError: If the board refuses, or does not answer.
        """
        self._buffer = b""
        self._port.write(command.encode("ascii") + b"\r\n")
        name = re.escape(command.encode("ascii"))
        answer = self._await(rb"ack *" + name + rb"([^\r\n]*)\r?\n|(error[^\r\n]*)\r?\n", timeout_s, command)
        if answer[2] is not None:
            detail = answer[2]
            with contextlib.suppress(MeterError):
                detail = self._await(rb"detail:([^\r\n]*)\r?\n", 0.3, command)[1]
            raise MeterError(
                f"the board refuses '{command}' ({detail.decode('ascii', 'replace').strip()})",
                subject="lpm01a",
                cure="reset it, and update its firmware if it goes on",
            )
        text = answer[1].decode("ascii", "replace").strip()
        if value and not text:
            with contextlib.suppress(MeterError):
                line = self._await(rb"([^\r\n]*[^\r\n >][^\r\n]*)\r?\n", 0.3, command)[1]
                text = line.decode("ascii", "replace").removeprefix(PROMPT).strip()
        return text

    def _await(self, pattern: bytes, timeout_s: float, command: str) -> re.Match[bytes]:
        """Read until a pattern has come (in upper or lower case); bytes after it stay in the buffer.

        Raises:
            MeterError: If it does not come.
        """
        wanted = re.compile(pattern, re.IGNORECASE)
        waited_s, size = 0.0, 0
        while (found := wanted.search(self._buffer)) is None:
            data = self._port.read(_STEP_S)
            size += len(data)
            waited_s += 0.0 if data else _STEP_S
            if waited_s >= timeout_s or size > _MOST_BYTES:
                got = "".join(c for c in self._buffer[-60:].decode("ascii", "replace") if c.isprintable()).strip()
                raise MeterError(f"lpm01a: no answer to '{command}'" + (f", only '{got}'" if got else ""))
            self._buffer = (self._buffer + data)[-_KEPT_BYTES:]
        self._buffer = self._buffer[found.end() :]
        return found


def _parse_sample_rate(spec: MeterSpec, output: str, format_name: str | None) -> float:
    """Parse the sample rate and check it against the limits of the board.

    Raises:
        ConfigError: If the board does not support it.
    """
    rate_hz = read_optional_number(spec, "rate_hz", RATES_HZ[0], RATES_HZ[-1], "Hz")
    if rate_hz is None:
        return 1000.0
    if rate_hz not in RATES_HZ:
        raise ConfigError(f"meter 'lpm01a': rate_hz is one of {', '.join(map(str, RATES_HZ))}, not {rate_hz:g}")
    if output == "energy" and rate_hz > 10_000:
        raise ConfigError(
            "meter 'lpm01a': energy output ends at 10000 Hz", cure="lower rate_hz, or take output=current"
        )
    if format_name == "ascii_dec" and rate_hz > 5000:
        raise ConfigError("meter 'lpm01a': ascii_dec runs without end up to 5000 Hz only", cure="take format=bin_hexa")
    return rate_hz


def _format_rate(rate_hz: float) -> str:
    """Format a rate for the firmware: ``500``, ``5k``."""
    return f"{rate_hz / 1000:g}k" if rate_hz >= 1000 else f"{rate_hz:g}"


DRIVER = make_stream_driver(
    "lpm01a",
    "ST X-NUCLEO-LPM01A (PowerShield), 1.8 to 3.3 V, up to 100 kHz",
    Lpm01aInstrument,
    baud=3_686_400,
    usb_ids=_USB,
    options=("voltage_v", "rate_hz", "output", "format", "mode", "calibrate"),
    safe_bytes=_SAFE,
)
