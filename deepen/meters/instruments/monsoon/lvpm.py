"""Monsoon LVPM (FTA22D) with its first firmware, on a serial port: the conversation.

Stop, empty the port, query the status, set limits and voltage, start: as AOSP CTS ``tools/utils/monsoon.py`` and
mobly ``controllers/monsoon.py`` do (both Apache-2.0). The output keeps its setting when the meter is closed or the
program dies, because the device under test runs from it; ``?leave=off`` switches it off.

``--meter 'lvpm:/dev/ttyACM0?voltage_v=3.85'``.
Options: ``voltage_v`` (of the output; without it the output stays as it is), ``current_limit_a``, ``power_up_limit_a``,
``usb`` (passthrough: off, on, auto), ``leave`` (the output when the meter is closed or the program dies: on, off).
"""

from __future__ import annotations

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.monsoon.lvpm_parser import (
    LvpmParser,
    LvpmStatus,
    frame_packet,
    parse_status,
    unframe_packet,
)
from deepen.meters.ports.discover import UsbId
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import drain_port
from deepen.meters.stream.meter import make_stream_driver
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import PASSTHROUGH, plan_voltage_ramp, read_choice_option, read_optional_number
from deepen.meters.stream.types import Instrument, Parser
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "LvpmInstrument"]

MIN_V, MAX_V = 2.01, 4.55
"""Range of the byte of the voltage command: 2 V plus 1 to 255 hundredths (0 is off), volts."""

MAX_A = 8.0
RAMP_FROM_V = 3.0
RAMP_S = 0.1

STOP = frame_packet(b"\x03\x00")
START = frame_packet(b"\x01\x1b\x01") + frame_packet(b"\x02\xff\xff\xff\xff\x03\xe8")
"""An undocumented setting that every public reader sends first; then the command to sample until stopped."""

_ASK = frame_packet(b"\x01\x00\x00")
_LONGEST_TALK = 1 << 20


class LvpmInstrument(StoppedByCommand):
    """A Monsoon LVPM on an open port.

    Attributes:
        name: Driver name.
        serial: Serial number.
        rate_hz: Sample rate.
        calibration_id: Name of the calibration applied.
        accuracy: Unknown: no source at hand states the maker's figures.
        source: Label.
        safe_bytes: Stops the stream, restores the USB passthrough, and switches the output off if requested.
        status: The instrument's latest status.
    """

    name = "lvpm"
    title = "Monsoon LVPM"
    stop_bytes = STOP
    quiet_s = 0.2

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Find the instrument and set it up.

        Args:
            port: Open port.
            spec: Options ``voltage_v``, ``current_limit_a``, ``power_up_limit_a``, ``usb`` (off, on, auto),
                ``leave`` (the output when the meter is closed or the program dies: on, off).
            source: Label.

        Raises:
            ConfigError: If an option is outside what the instrument allows, or the output is off and no voltage given.
            MeterError: If the instrument does not answer, or another one does.
        """
        wanted_v = read_optional_number(spec, "voltage_v", MIN_V, MAX_V, "V")
        limits = {
            register: limit_a
            for key, register in (("power_up_limit_a", 0x08), ("current_limit_a", 0x0A))
            if (limit_a := read_optional_number(spec, key, 0.0, MAX_A, "A")) is not None
        }
        usb = read_choice_option(spec, "usb", PASSTHROUGH)
        off = frame_packet(b"\x01\x01\x00") if read_choice_option(spec, "leave", ("on", "off")) == "off" else b""
        self._port = port
        self.safe_bytes = STOP + off
        self.source: Source = source
        self._quiet()
        self.status = self._ask()
        if not self.status.rate_hz:
            raise MeterError(f"{port.name}: the LVPM states a sample rate of 0", cure="switch it off and on")
        if wanted_v is None and not self.status.setting_v:
            raise ConfigError(
                f"{port.name}: the LVPM's output is off",
                cure=f"give the device's supply voltage: ?voltage_v=3.85 ({MIN_V} to {MAX_V})",
            )
        self.serial = str(self.status.serial)
        self.rate_hz = self.status.rate_hz
        self.accuracy = Accuracy()
        try:
            for register, limit_a in limits.items():
                self._limit(register, limit_a)
            if usb is not None:
                self.safe_bytes += frame_packet(bytes([0x01, 0x10, self.status.passthrough]))
                self._write(0x10, PASSTHROUGH.index(usb))
            if wanted_v is not None:
                self._set_voltage(wanted_v)
            self._confirm(wanted_v, limits, usb)
        except BaseException:
            self.close()
            raise
        self.calibration_id = (
            f"lvpm {self.serial}, firmware {self.status.firmware}, protocol {self.status.protocol}, "
            f"zero and reference from the stream, {self.status.setting_v:.2f} V"
        )

    def begin(self) -> Parser:
        """Start streaming."""
        self._port.flush_input()
        parser = LvpmParser(self.status.setting_v, self.rate_hz)
        if self.status.passthrough == 1:
            parser.tally.note(
                "USB passthrough is on: what the device draws over USB is not seen; add ?usb=auto to the meter"
            )
        self._port.write(START)
        return parser

    def _write(self, register: int, value: int) -> None:
        self._port.write(frame_packet(bytes([0x01, register, value])))

    def _ask(self) -> LvpmStatus:
        """Query the status.

        Raises:
            MeterError: If no status comes.
        """
        received = b""
        for _ in range(3):
            self._port.write(_ASK)
            for _ in range(10):
                received += self._port.read(0.1)
                found = _find_status(received)
                if found is not None:
                    return found
            if len(received) > _LONGEST_TALK:
                break
        heard = f"answers {len(received)} bytes that are no status" if received else "does not answer"
        raise MeterError(
            f"{self._port.name} {heard}: no Monsoon LVPM with its first firmware is there",
            cure="check the port ('deepen meter list'), switch it off and on; if it was flashed with "
            "firmware 25 or later, use hvpm",
        )

    def _limit(self, register: int, limit_a: float) -> None:
        raw = 1023 - int(limit_a / MAX_A * 1023)
        self._write(register, raw & 0xFF)
        self._write(register + 1, raw >> 8)

    def _set_voltage(self, target_v: float) -> None:
        """Go to a voltage in steps of 0.1 V, 0.1 s each."""
        now_v = self.status.setting_v
        if round(now_v, 2) == round(target_v, 2):
            return
        for volts in plan_voltage_ramp(now_v, target_v, floor_v=RAMP_FROM_V):
            self._write(0x01, round((volts - 2.0) * 100))
            drain_port(self._port, RAMP_S)

    def _confirm(self, wanted_v: float | None, limits: dict[int, float], usb: str | None) -> None:
        """Read the settings back.

        Raises:
            MeterError: If the instrument did not accept one.
        """
        self.status = self._ask()
        limits_now = {0x08: self.status.power_up_limit_a, 0x0A: self.status.run_limit_a}
        refused = [f"a current limit of {a:g} A" for r, a in limits.items() if abs(limits_now[r] - a) > 0.02]
        if wanted_v is not None and abs(self.status.setting_v - wanted_v) > 0.0051:
            refused.append(f"{wanted_v:g} V (it says {self.status.setting_v:.2f} V)")
        if usb is not None and self.status.passthrough != PASSTHROUGH.index(usb):
            refused.append(f"USB passthrough {usb}")
        if refused:
            raise MeterError(
                f"{self._port.name}: the LVPM did not take {', '.join(refused)}", cure="switch it off and on"
            )


def _make_instrument(port: Port, spec: MeterSpec, source: Source) -> Instrument:
    return LvpmInstrument(port, spec, source)


DRIVER = make_stream_driver(
    "lvpm",
    "Monsoon LVPM (FTA22D) with its first firmware, serial",
    _make_instrument,
    usb_ids=(UsbId(0x2AB9, 0x0001), UsbId(0x04D8, 0xFE23)),
    options=("voltage_v", "current_limit_a", "power_up_limit_a", "usb", "leave"),
    safe_bytes=STOP,
)
"""USB ids: the maker's driver for the serial port, ``docs/Drivers/LVPM/PC/mchpcdc.inf`` in PyMonsoon."""


def _find_status(received: bytes) -> LvpmStatus | None:
    """Find the first status packet in received bytes; ``None`` if there is none."""
    at = received.find(b"\x3b\x10")  # length 59, type 0x10
    while at >= 0:
        body = unframe_packet(received, at)
        found = parse_status(body) if body is not None else None
        if found is not None:
            return found
        at = received.find(b"\x3b\x10", at + 1)
    return None
