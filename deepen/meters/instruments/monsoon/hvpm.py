"""Monsoon HVPM (AAA10F), and an LVPM flashed with firmware 25 or later, over USB: the conversation.

Values are set and read with control request 1, sampling starts with 2 and stops with 3; the samples come through bulk
endpoint 0x81 (PyMonsoon ``pmapi.py``, ``Operations.py``, ``HVPM.py``, ``LVPM.py``, MIT-style licence). A value that can
be set can be read back (ACTS ``monsoon_lib/api/hvpm/monsoon.py``, Apache-2.0), so that the voltage is set only where it
differs: setting it to the same value has switched phones off (PyMonsoon issue 15). The output keeps its setting when
the meter is closed or the program dies; ``?leave=off`` switches it off.

``--meter 'hvpm?voltage_v=3.85'``, ``hvpm:SERIAL``.
Options: ``voltage_v`` (of the output; without it the output stays as it is), ``current_limit_a``, ``power_up_limit_a``,
``usb`` (passthrough: off, on, auto), ``leave`` (the output when the meter is closed or the program dies: on, off).
"""

from __future__ import annotations

import contextlib
from typing import Any

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.monsoon.hvpm_parser import HvpmChannelCalibration, HvpmModel, HvpmParser
from deepen.meters.ports.locks import InstrumentLock
from deepen.meters.ports.protocol import Port
from deepen.meters.ports.serial_port import SerialPort, get_source_label, open_port
from deepen.meters.ports.usb_guard import SETUP
from deepen.meters.ports.usb_port import ANSWER, UsbFrameDecoder, UsbPort, find_usb_instruments
from deepen.meters.stream.meter import COMMON_OPTIONS, DEFAULT_MAX_LOSS, StreamMeter, read_number_option
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import PASSTHROUGH, plan_voltage_ramp, read_choice_option, read_optional_number
from deepen.meters.stream.types import Parser
from deepen.meters.types import Availability, DetectedInstrument, Driver, Meter, MeterContext, MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "HVPM", "LVPM", "HvpmInstrument"]

IDS = ((0x2AB9, 0x0001),)
BOOTLOADER_IDS = ((0x2AB9, 0xFFFF),)

HVPM = HvpmModel("HVPM", signed=False, fine_below=64_000, voltage_scale=4.0)
LVPM = HvpmModel("LVPM", signed=True, fine_below=30_000, voltage_scale=2.0)

LIMITS_V = {"HVPM": (0.8, 13.5), "LVPM": (2.01, 4.55)}
"""Voltage limits of each model, volts (ACTS ``monsoon_lib/api``, ``MIN_VOLTAGE`` and ``MAX_VOLTAGE``)."""

LIMITS_A = {"HVPM": 15.625, "LVPM": 8.0}
RATE_HZ = 5000.0
CALIBRATION_MS = 1250
"""Time between two self-calibrations of the instrument (the maker's default)."""

COUNTS_PER_VOLT = 1 << 20
RAMP_FROM_V = 3.0
RAMP_S = 0.1

_SET, _GET = 0x40, 0xC0
_VALUE, _START, _STOP = 0x01, 0x02, 0x03
_REFUSED = 0xFFFFFFFE
_FOREVER = 0xFFFFFFFF

_PASSTHROUGH, _CHANNEL, _VOLTAGE, _SERIAL, _MODEL = 0x10, 0x23, 0x41, 0x42, 0x45
_POWER_UP_LIMIT, _RUN_LIMIT = 0x43, 0x44
_FINE_SCALE, _COARSE_SCALE, _FINE_ZERO, _COARSE_ZERO = 0x1A, 0x1B, 0x25, 0x26
_FINE_RESISTOR, _COARSE_RESISTOR = 0x02, 0x11
_FIRMWARE, _PROTOCOL = 0xC0, 0xC1
_DAC_CHECKS = {"dacCalLow": (0x88, 0xD000, 0xF000), "dacCalHigh": (0x89, 0xC000, 0xD000)}
"""Outside these the output may be wildly wrong (PyMonsoon ``HVPM.py``, ``checkDacValues``)."""

_LVPM_FINE_A, _LVPM_COARSE_A, _LVPM_OHM = 35946e-6, 3.1034, 0.05
"""Reference currents of the re-flashed LVPM for resistors of 0.05 ohm (PyMonsoon ``LVPM.py``)."""


def make_set_request(opcode: int, value: int) -> bytes:
    """Make the control request that sets a value: its bytes 0-1 are wValue, byte 2 is in wIndex beside the opcode."""
    data = value.to_bytes(4, "little")
    index = opcode | data[2] << 8
    return SETUP.pack(_SET, _VALUE, value & 0xFFFF, index, 4) + data


STOP = SETUP.pack(_SET, _STOP, 0, 0, 0)


class HvpmInstrument(StoppedByCommand):
    """A Monsoon power monitor behind a USB port.

    Attributes:
        name: Driver name.
        serial: Serial number.
        rate_hz: Sample rate.
        calibration_id: Name of the calibration applied.
        accuracy: Unknown: no source at hand states the maker's figures.
        source: Label.
        safe_bytes: Stops the stream, restores the USB passthrough, and switches the output off if requested.
        model: HVPM or LVPM.
        setting_v: Voltage the output is set to; 0 where it is off.
    """

    name = "hvpm"
    title = "Monsoon"
    stop_bytes = STOP
    quiet_s = 0.2
    rate_hz = RATE_HZ

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Find the instrument and set it up.

        Args:
            port: USB port (or another port with USB frames on it).
            spec: Options ``voltage_v``, ``current_limit_a``, ``power_up_limit_a``, ``usb`` (off, on, auto), ``leave``
                (the output when the meter is closed or the program dies: on, off).
            source: Label.

        Raises:
            ConfigError: If an option is outside what the instrument allows, or the output is off and no voltage given.
            MeterError: If the instrument does not answer, another one does, or its calibration makes a voltage unsafe.
        """
        usb = read_choice_option(spec, "usb", PASSTHROUGH)
        off = make_set_request(_VOLTAGE, 0) if read_choice_option(spec, "leave", ("on", "off")) == "off" else b""
        self._port = port
        self.safe_bytes = STOP + off
        self.source: Source = source
        self.accuracy = Accuracy()
        self._quiet()
        models = {1: LVPM, 2: HVPM}
        number = self._get(_MODEL) & 0xFFFF
        if number not in models:
            raise MeterError(f"{port.name} is no Monsoon HVPM or LVPM (model {number})", cure="check the port")
        self.model = models[number]
        self.serial = str(self._get(_SERIAL) & 0xFFFF)
        wanted_v = read_optional_number(spec, "voltage_v", *LIMITS_V[self.model.name], "V")
        limits = {
            opcode: limit_a
            for key, opcode in (("power_up_limit_a", _POWER_UP_LIMIT), ("current_limit_a", _RUN_LIMIT))
            if (limit_a := read_optional_number(spec, key, 0.0, LIMITS_A[self.model.name], "A")) is not None
        }
        self.setting_v = self._get(_VOLTAGE) / COUNTS_PER_VOLT
        if wanted_v is None and not self.setting_v:
            low, high = LIMITS_V[self.model.name]
            raise ConfigError(
                f"{port.name}: the output of the {self.model.name} is off",
                cure=f"give the device's supply voltage: ?voltage_v=3.85 ({low:g} to {high:g})",
            )
        self._channel = self._read_channel()
        try:
            self._set(_CHANNEL, 0)  # the first voltage is that of the main channel
            for opcode, limit_a in limits.items():
                self._set(opcode, self._limit(limit_a), what=f"a current limit of {limit_a:g} A", width=16)
            if usb is not None:
                self.safe_bytes += make_set_request(_PASSTHROUGH, self._get(_PASSTHROUGH) & 0xFF)
                self._set(_PASSTHROUGH, PASSTHROUGH.index(usb), what=f"USB passthrough {usb}", width=8)
            if wanted_v is not None:
                self._set_voltage(wanted_v)
        except BaseException:
            self.close()
            raise
        self.calibration_id = (
            f"{self.model.name} {self.serial}, firmware {self._get(_FIRMWARE) & 0xFFFF}, protocol "
            f"{self._get(_PROTOCOL) & 0xFF}, main {self._channel.fine_a:.6g} A and {self._channel.coarse_a:.6g} A, "
            f"zero and reference from the stream, {self.setting_v:.2f} V"
        )

    def begin(self) -> Parser:
        """Start streaming."""
        parser = HvpmParser(self.model, self._channel, self.setting_v, self.rate_hz)
        if self._get(_PASSTHROUGH) & 0xFF == 1:
            parser.tally.note(
                "USB passthrough is on: what the device draws over USB is not seen; add ?usb=auto to the meter"
            )
        self._port.flush_input()
        self._port.write(SETUP.pack(_SET, _START, CALIBRATION_MS, 0, 4) + _FOREVER.to_bytes(4, "little"))
        return parser

    def _get(self, opcode: int) -> int:
        """Read a value.

        Raises:
            MeterError: If no answer comes, or the instrument refuses.
        """
        self._port.write(SETUP.pack(_GET, _VALUE, 0, opcode, 4))
        frames = UsbFrameDecoder()
        for _ in range(20):
            for kind, payload in frames.feed(self._port.read(0.1)):
                if kind == ANSWER:
                    value = int.from_bytes(payload, "little")
                    if len(payload) != 4 or value == _REFUSED:
                        raise MeterError(f"{self._port.name} refuses value 0x{opcode:02x}", cure="restart it")
                    return value
        raise MeterError(
            f"{self._port.name} does not answer like a Monsoon HVPM",
            cure="check the port, switch it off and on (an LVPM with its first firmware needs the driver lvpm)",
        )

    def _set(self, opcode: int, value: int, what: str = "", width: int = 32) -> None:
        """Set a value; read it back if ``what`` names it.

        Raises:
            MeterError: If the instrument did not accept it.
        """
        self._port.write(make_set_request(opcode, value))
        mask = (1 << width) - 1
        if what and (actual := self._get(opcode) & mask) != value & mask:
            raise MeterError(
                f"{self._port.name}: the {self.model.name} did not take {what}, but {actual}", cure="restart it"
            )

    def _read_channel(self) -> HvpmChannelCalibration:
        """Read the factory calibration of the main channel.

        Raises:
            MeterError: If it was never calibrated.
        """
        if self.model is LVPM:
            fine_ohm, coarse_ohm = (
                _LVPM_OHM + 1e-4 * _sign_extend(self._get(opcode), 8) for opcode in (_FINE_RESISTOR, _COARSE_RESISTOR)
            )
            return HvpmChannelCalibration(_LVPM_FINE_A * _LVPM_OHM / fine_ohm, _LVPM_COARSE_A * _LVPM_OHM / coarse_ohm)
        fine, coarse = self._get(_FINE_SCALE) & 0xFFFF, self._get(_COARSE_SCALE) & 0xFFFF
        if not (fine and coarse) or 0xFFFF in (fine, coarse):
            raise MeterError(
                f"{self._port.name}: the HVPM has no factory calibration (scales {fine} and {coarse})",
                cure="have it calibrated by Monsoon",
            )
        offsets = (_sign_extend(self._get(opcode), 16) for opcode in (_FINE_ZERO, _COARSE_ZERO))
        return HvpmChannelCalibration(fine * 1e-6, coarse * 1e-3, *offsets)

    def _limit(self, limit_a: float) -> int:
        if self.model is LVPM:
            return round(1023 * (1 - limit_a / LIMITS_A["LVPM"]))
        return round((0xFFFF - 0x0F00) * limit_a / LIMITS_A["HVPM"]) + 0x0F00

    def _set_voltage(self, target_v: float) -> None:
        """Go to a voltage in steps of 0.1 V, 0.1 s each.

        Raises:
            MeterError: If the converter's calibration is outside safe limits, or the voltage is not accepted.
        """
        if abs(self.setting_v - target_v) < 0.001:
            return
        if self.model is HVPM:
            for name, (opcode, low, high) in _DAC_CHECKS.items():
                value = self._get(opcode) & 0xFFFF
                if not low < value < high:
                    raise MeterError(
                        f"{self._port.name}: {name} is 0x{value:04X}, outside 0x{low:04X} to 0x{high:04X}, so the "
                        "voltage could be wildly wrong and was not set",
                        cure="update the HVPM to firmware 32 and calibrate its voltage",
                    )
        for volts in plan_voltage_ramp(self.setting_v, target_v, floor_v=RAMP_FROM_V):
            self._set(_VOLTAGE, round(volts * COUNTS_PER_VOLT))
            self._port.read(RAMP_S)
        told_v = self._get(_VOLTAGE) / COUNTS_PER_VOLT
        if abs(told_v - target_v) > 0.01:
            raise MeterError(
                f"{self._port.name}: the {self.model.name} did not take {target_v:g} V, but {told_v:.3f} V",
                cure="restart it",
            )
        self.setting_v = told_v


def _sign_extend(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _describe_usb_device(device: Any) -> DetectedInstrument:
    return DetectedInstrument(
        f"usb:{device.bus}.{device.address}", str(device.serial_number or ""), str(device.product or "Monsoon")
    )


def _probe(context: MeterContext) -> Availability:
    try:
        found = tuple(_describe_usb_device(device) for device in find_usb_instruments(IDS))
        asleep = find_usb_instruments(BOOTLOADER_IDS)
    except MeterError as error:
        return Availability("hvpm", False, "", "measured", error.cause, error.cure)
    if found:
        detail = ", ".join(f"{one.port} (serial {one.serial})" for one in found)
        return Availability("hvpm", True, detail, "measured", found=found)
    if asleep:
        return Availability(
            "hvpm", False, "", "measured", "it is in its bootloader", "flash firmware 32, or restart it"
        )
    return Availability("hvpm", False, "", "measured", "none is plugged in", "plug it in and switch it on")


def _open_usb(wanted: str) -> UsbPort:
    """Open the only instrument, or the one with a serial number, or at ``usb:BUS.ADDRESS``.

    Raises:
        MeterError: If there is none, or several to choose from.
    """
    devices = {_describe_usb_device(device): device for device in find_usb_instruments(IDS)}
    chosen = [f for f in devices if not wanted or wanted.casefold() in (f.serial.casefold(), f.port)]
    here = ", ".join(f"{f.port} (serial {f.serial})" for f in devices) or "none"
    if not chosen:
        what = f"none with serial number '{wanted}'" if wanted else "none"
        raise MeterError(f"{what} is plugged in", subject="hvpm", cure=f"here: {here}; plug it in and switch it on")
    if len(chosen) > 1:
        raise MeterError(
            f"there are {len(chosen)} here, {here}", subject="hvpm", cure=f"name one: hvpm:{chosen[0].serial}"
        )
    one = chosen[0]
    lock = InstrumentLock(f"usb 2ab9:0001 {one.serial or one.port}", f"hvpm:{one.serial or one.port}")
    try:
        return UsbPort(devices[one], f"hvpm:{one.serial or one.port}", lock)
    except BaseException:
        lock.release()
        raise


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only(*COMMON_OPTIONS, "voltage_v", "current_limit_a", "power_up_limit_a", "usb", "leave")
    max_loss = read_number_option(spec, "max_loss", 0.0, 1.0, default=DEFAULT_MAX_LOSS)
    port: UsbPort | SerialPort = open_port(spec.port) if "/" in spec.port else _open_usb(spec.port)
    try:
        instrument = HvpmInstrument(port, spec, get_source_label(port, spec))
        guard = port.guard(instrument.safe_bytes) if isinstance(port, UsbPort) else None
    except BaseException:
        with contextlib.suppress(MeterError):
            port.write(STOP)
        port.close()
        raise
    return StreamMeter(instrument, port, max_loss=max_loss, guard=guard)


DRIVER = Driver("hvpm", "Monsoon HVPM, or LVPM with firmware 25 or later, over USB", _probe, _open)
