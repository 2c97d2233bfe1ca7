"""Nordic Power Profiler Kit II on a serial port: 100 000 samples of current per second.

Commands are raw bytes without framing; only the metadata are an answer. ``--meter 'ppk2:/dev/ttyACM0?voltage_v=3.3'``;
options beside the common ones:

* ``mode``: ``source`` (the instrument supplies the device) or ``ampere`` (another supply does, through it); by default
the instrument's own setting.
* ``voltage_v``: in mode source, the voltage to supply (the output goes on), else it stays as it is; in mode ampere the
  voltage of the other supply, required. The instrument measures current only: power is current times this voltage.
* ``leave``: ``on`` (default, the output stays as it is) or ``off`` when the meter is closed or the program dies; in
mode source.
* ``calibration``: ``nominal`` to use a unit that reports no calibration at all; its traces carry a warning.
* ``filter``: ``on`` (default) or ``off``, the spike filter at changes of range that Nordic's application applies.
"""

from __future__ import annotations

import math
import re

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.ppk2.calibration import AMPERE_METER, SOURCE_METER, Ppk2Calibration
from deepen.meters.instruments.ppk2.parser import MODULUS, RATE_HZ, Ppk2Parser
from deepen.meters.ports.discover import UsbId
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import drain_port, query_instrument
from deepen.meters.stream.meter import make_stream_driver
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import plan_voltage_ramp, read_choice_option, read_optional_number
from deepen.meters.stream.types import Parser
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "Ppk2Instrument"]

MIN_V, MAX_V = 0.8, 5.0
"""Range of the regulator (the command takes 800 to 5000 mV), volts; also required of another supply."""

RAMP_S = 0.05
"""Pause after each step of 0.1 V, so that the capacitors of a device that is on follow."""

START, STOP, OUTPUT, REGULATOR, MODE, METADATA = b"\x06", b"\x07", b"\x0c", b"\x0d", b"\x11", b"\x19"

_MODES = {"ampere": AMPERE_METER, "source": SOURCE_METER}


class Ppk2Instrument(StoppedByCommand):
    """A PPK2 on an open port.

    Attributes:
        name: Driver name.
        serial: Empty: the metadata has none (USB reports it).
        rate_hz: Sample rate.
        quantum: Losses that the counter cannot see are multiples of this.
        sampling: ``mean``: the command that starts it is called average stream.
        calibration_id: Calibration applied, and voltage.
        accuracy: Unknown: no source at hand states Nordic's figures.
        source: Label.
        safe_bytes: Stops the stream, and switches the output off if requested.
        calibration: Calibration and settings that the instrument reported.
        voltage_v: Voltage of the supply.
    """

    name = "ppk2"
    title = "PPK2"
    stop_bytes = STOP
    serial = ""
    rate_hz = RATE_HZ
    quantum = MODULUS
    sampling = "mean"
    accuracy = Accuracy()

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Find the instrument and set it up.

        Args:
            port: Open port.
            spec: Options ``voltage_v``, ``mode``, ``leave``, ``calibration``, ``filter``.
            source: Label.

        Raises:
            ConfigError: If an option is outside what the instrument allows, or needed and missing.
            MeterError: If the instrument does not answer, or another one does.
        """
        wanted_v = read_optional_number(spec, "voltage_v", MIN_V, MAX_V, "V")
        mode = read_choice_option(spec, "mode", tuple(_MODES))
        off = OUTPUT + b"\x00" if read_choice_option(spec, "leave", ("on", "off")) == "off" else b""
        self._filter = read_choice_option(spec, "filter", ("on", "off")) != "off"
        self._port = port
        self._notes: list[str] = []
        nominal = read_choice_option(spec, "calibration", ("own", "nominal")) == "nominal"
        self.source: Source = source
        self._quiet()
        self.calibration = self._ask()
        if not self.calibration.ranges and not nominal:
            raise MeterError(
                f"{port.name}: the PPK2 reports no calibration of any range",
                cure="switch it off and on, or accept nominal resistors (readings may be off by a fifth): "
                "?calibration=nominal",
            )
        self._mode = _MODES[mode] if mode else self.calibration.mode
        self.voltage_v = self._checked_voltage(wanted_v)
        self.safe_bytes = STOP + (off if self._mode == SOURCE_METER else b"")
        try:
            self._set_up(wanted_v)
        except BaseException:
            self.close()
            raise
        self.calibration_id = (
            f"ppk2 hardware {self.calibration.hardware or 'unknown'}, coefficients {self.calibration.id}, "
            f"{'source' if self._mode == SOURCE_METER else 'ampere'} mode at {self.voltage_v:.3f} V"
        )

    def begin(self) -> Parser:
        """Start streaming."""
        parser = Ppk2Parser(self.calibration, self.voltage_v, spike_filter=self._filter)
        parser.tally.note(f"voltage: not measured; power is current times {self.voltage_v:.3f} V")
        for note in self._notes:
            parser.tally.note(note)
        self._port.flush_input()
        self._port.write(START)
        return parser

    def _ask(self) -> Ppk2Calibration:
        """Query the metadata.

        Raises:
            MeterError: If none come.
        """
        answer = b""
        for _ in range(2):
            answer = query_instrument(self._port, METADATA, lambda received: _find_metadata_end(received) >= 0)
            if _find_metadata_end(answer) >= 0:
                found = Ppk2Calibration.parse(answer[: _find_metadata_end(answer)].decode("ascii", "replace"))
                if found is not None:
                    return found
        heard = f"answers {answer[:24]!r}, no metadata of a PPK2" if answer else "does not answer"
        raise MeterError(
            f"{self._port.name} {heard}",
            cure="check the port ('deepen meter list'; a PPK2 with two ports measures through the one "
            "whose location ends in 1), and switch the PPK2 off and on",
        )

    def _checked_voltage(self, wanted_v: float | None) -> float:
        """Determine the voltage of the supply, from the option or the instrument's own setting.

        Raises:
            ConfigError: If neither gives it, or the mode is unknown.
        """
        name = self._port.name
        if not self._mode:
            raise ConfigError(
                "the PPK2 does not tell its mode", subject=name, cure="add &mode=source or &mode=ampere to the meter"
            )
        if wanted_v is not None:
            return round(wanted_v, 3)
        if self._mode == AMPERE_METER:
            raise ConfigError(
                "the PPK2 measures current only, another supply feeds the device",
                subject=name,
                cure="tell its voltage: ?voltage_v=3.3 (or add &mode=source to let the PPK2 supply it)",
            )
        told_v = self.calibration.voltage_v
        if self.calibration.mode != SOURCE_METER or not MIN_V <= told_v <= MAX_V:
            raise ConfigError(f"tell the device's supply voltage: ?voltage_v=3.3 ({MIN_V} to {MAX_V})", subject=name)
        return told_v

    def _set_up(self, wanted_v: float | None) -> None:
        """Set mode and supply; without a requested voltage, the supply stays as it is."""
        if self._mode != self.calibration.mode:
            # Never connect a supply by surprise: the output is off while the mode changes.
            self._port.write(OUTPUT + b"\x00")
            self._port.write(MODE + bytes([self._mode]))
        if wanted_v is None:
            return
        if self._mode == SOURCE_METER:
            told_v = self.calibration.voltage_v
            start_v = told_v if MIN_V <= told_v <= MAX_V else MIN_V
            for volts in plan_voltage_ramp(start_v, self.voltage_v, floor_v=MIN_V):
                self._port.write(REGULATOR + round(volts * 1000).to_bytes(2, "big"))
                drain_port(self._port, RAMP_S)
        self._port.write(OUTPUT + b"\x01")
        drain_port(self._port, RAMP_S)
        self._confirm()

    def _confirm(self) -> None:
        """Read the settings back; a difference is only a warning, because not every firmware may report them."""
        now = self._ask()
        if now.mode and now.mode != self._mode:
            self._notes.append("mode: the instrument does not confirm the mode that was set")
        told_v = now.voltage_v
        if self._mode == SOURCE_METER and math.isfinite(told_v) and abs(told_v - self.voltage_v) > 0.0015:
            self._notes.append(f"voltage: {self.voltage_v:.3f} V was set, the instrument tells {told_v:.3f} V")


def _find_metadata_end(answer: bytes) -> int:
    """Return the position of the line ``END`` that closes the metadata; -1 if it has not come yet."""
    found = re.search(rb"(?:\A|[\r\n])END", answer)
    return -1 if found is None else found.start()


DRIVER = make_stream_driver(
    "ppk2",
    "Nordic Power Profiler Kit II, 100 kS/s, over serial",
    Ppk2Instrument,
    usb_ids=(UsbId(0x1915, 0xC00A, interface=1),),
    options=("voltage_v", "mode", "leave", "calibration", "filter"),
    safe_bytes=STOP,
)
