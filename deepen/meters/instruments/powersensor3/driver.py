"""PowerSensor3 on a serial port: up to four pairs of current and voltage sensors, 20 000 samples per second.

Commands are single letters. ``--meter powersensor3:/dev/ttyACM0``; options beside the common ones:

* ``pairs``: pairs to add up, numbers or names separated by commas; by default all that are in use. Leave out pairs that
measure a part of another pair.
* ``voltage_v``: voltage of pairs without a voltage sensor; refused where every pair has one.
"""

from __future__ import annotations

import math

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.powersensor3.config import ADC_V, LEVELS, RECORD, SENSORS, SensorConfig, parse_config
from deepen.meters.instruments.powersensor3.parser import FRAME, PowerSensor3Parser, measure_frame_period_us
from deepen.meters.ports.discover import UsbId
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import query_instrument
from deepen.meters.stream.meter import make_stream_driver
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import read_optional_number
from deepen.meters.stream.types import Parser
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "PowerSensor3Instrument"]

CONFIG, MARK, START, STOP, VERSION = b"R", b"M", b"S", b"T", b"V"
CONTINUE = b"\0"
"""Answer to a record of the configuration; any byte will do, and this one is not a command."""

PROBE_FRAMES = 2000
"""Number of frames read to measure the rate: 0.1 s, which gives it to 10 ppm of the instrument's own clock."""


class PowerSensor3Instrument(StoppedByCommand):
    """A PowerSensor3 on an open port.

    Attributes:
        name: Driver name.
        serial: Empty: the protocol has none (USB reports it).
        rate_hz: Frames per second by the instrument's own time stamps.
        quantum: Losses that the time stamps cannot see are multiples of this.
        sampling: ``mean``: the firmware averages its conversions over a frame.
        calibration_id: Firmware, and the sensors that are added up.
        accuracy: That of its levels alone (10 bits); no source at hand states more.
        source: Label.
        safe_bytes: Stops the stream.
        sensors: Configuration of the eight sensors.
        pairs: Pairs that are added up.
    """

    name = "powersensor3"
    title = "PowerSensor3"
    stop_bytes = STOP
    serial = ""
    sampling = "mean"
    safe_bytes = STOP

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Find the instrument, and read its configuration and rate.

        Args:
            port: Open port.
            spec: Options ``pairs``, ``voltage_v``.
            source: Label.

        Raises:
            ConfigError: If an option does not fit the sensors.
            MeterError: If the instrument does not answer, or another one does, or no sensor can be used.
        """
        voltage_v = read_optional_number(spec, "voltage_v", 0.0, 400.0, "V")
        self._port = port
        self.source: Source = source
        self._quiet()
        self.sensors = self._read_config()
        firmware = (
            query_instrument(port, VERSION, lambda received: received.endswith(b"\n"))
            .decode("ascii", "replace")
            .strip()
        )
        self.pairs = self._choose(spec.options.get("pairs", ""), voltage_v)
        self._voltage_v = math.nan if voltage_v is None else voltage_v
        self._period_us = self._probe()
        self.rate_hz = 1e6 / self._period_us
        self.accuracy = self._resolution()
        self.quantum = self._parser().quantum
        sensors_text = ", ".join(
            f"pair {p} {self.sensors[2 * p].pair!r}: {_format_coefficients(self.sensors[2 * p])}, "
            + (_format_coefficients(self.sensors[2 * p + 1]) if self.sensors[2 * p + 1].in_use else f"{voltage_v:g} V")
            for p in self.pairs
        )
        self.calibration_id = f"powersensor3 {firmware or 'of unknown firmware'}, {sensors_text}"

    def begin(self) -> Parser:
        """Start streaming."""
        parser = self._parser()
        self._port.flush_input()
        self._port.write(START)
        return parser

    def mark(self) -> None:
        """Have the next frame marked: logic input 0 of its sample."""
        self._port.write(MARK)

    def _parser(self, pairs: tuple[int, ...] | None = None) -> PowerSensor3Parser:
        return PowerSensor3Parser(
            self.sensors, pairs or self.pairs, period_us=self._period_us, voltage_v=self._voltage_v
        )

    def _read_config(self) -> tuple[SensorConfig, ...]:
        """Read the configuration, answering each record at once: the device resets itself after waiting for 2 s.

        Raises:
            MeterError: If the instrument does not answer, or another one does.
        """
        records, question, answer = b"", CONFIG, b""
        for _ in range(SENSORS):
            answer = query_instrument(self._port, question, lambda received: len(received) >= RECORD.size)
            if len(answer) != RECORD.size:
                break
            records += answer
            question = CONTINUE
        else:
            answer = query_instrument(self._port, CONTINUE, lambda received: received.endswith(b"D"))
            sensors = parse_config(records)
            if answer == b"D" and sensors is not None:
                return sensors
            if answer == b"D":
                raise MeterError(
                    f"{self._port.name}: the sensors were never configured", cure="set them up with 'psconfig'"
                )
        heard = f"answers {answer[:24]!r}, not the configuration of a PowerSensor3" if answer else "does not answer"
        raise MeterError(
            f"{self._port.name} {heard}", cure="check the port ('deepen meter list') and plug the instrument in again"
        )

    def _choose(self, wanted: str, voltage_v: float | None) -> tuple[int, ...]:
        """Choose the pairs to add up.

        Raises:
            ConfigError: If a pair is not there, or lacks a voltage, or has one and is given another.
            MeterError: If no pair is in use, or one that is has no usable calibration.
        """
        names = [self.sensors[k].pair for k in range(0, SENSORS, 2)]
        live = [p for p in range(SENSORS // 2) if self.sensors[2 * p].in_use]
        if not live:
            raise MeterError(
                f"{self._port.name}: no current sensor is in use", cure="set the sensors up with 'psconfig'"
            )
        here = ", ".join(f"{p} ({names[p]})" for p in live)
        pairs = list(live)
        if wanted:
            pairs = []
            for text in (part.strip() for part in wanted.split(",")):
                found = [p for p in live if text == str(p) or text.casefold() == names[p].casefold()]
                if len(found) != 1:
                    raise ConfigError(
                        f"meter '{self.name}': no single pair '{text}' is in use", cure=f"pairs here: {here}"
                    )
                pairs += [p for p in found if p not in pairs]
        for k in sorted(k for p in pairs for k in (2 * p, 2 * p + 1) if self.sensors[k].in_use):
            if defect := self.sensors[k].defect:
                raise MeterError(
                    f"{self._port.name}: sensor {k} ({self.sensors[k].type}) is not calibrated, {defect}",
                    cure="set it with 'psconfig', or choose other pairs: ?pairs=0",
                )
        blind = [p for p in pairs if not self.sensors[2 * p + 1].in_use]
        if blind and voltage_v is None:
            raise ConfigError(
                f"meter '{self.name}': pair {blind[0]} has no voltage sensor",
                cure=f"tell its voltage (?voltage_v=12) or choose other pairs (?pairs=...; here: {here})",
            )
        if voltage_v is not None and not blind:
            raise ConfigError(f"meter '{self.name}' measures the voltage itself", cure="leave out voltage_v")
        return tuple(pairs)

    def _probe(self) -> float:
        """Read a piece of the stream to measure the time between frames, microseconds.

        Raises:
            MeterError: If there are no frames.
        """
        self._probed = data = query_instrument(
            self._port, START, lambda received: len(received) >= FRAME * PROBE_FRAMES
        )
        self._quiet()
        period_us = measure_frame_period_us(data)
        if not period_us > 1:
            raise MeterError(
                f"{self._port.name}: the PowerSensor3 sends no frames", cure="plug it in again, update its firmware"
            )
        # A timer makes it a whole number of microseconds, unless it clearly is none.
        return float(round(period_us)) if abs(period_us - round(period_us)) < 0.05 else period_us

    def _resolution(self) -> Accuracy:
        """Compute the accuracy that a step of the converter allows: uniform within it (JCGM 100:2008, F.2.2.1).

        It holds at the present voltage. Noise of more than a step averages the error out in time; a quiet source does
        not, so the error is taken to remain.
        """
        step_v = ADC_V / (LEVELS - 1)
        offset_w, gain = 0.0, 0.0
        for pair in self.pairs:
            current, voltage = self.sensors[2 * pair], self.sensors[2 * pair + 1]
            seen = self._parser((pair,)).feed(self._probed).voltage_v
            volts = self._voltage_v if seen is None or not seen.size else abs(float(seen.mean()))
            offset_w = math.hypot(offset_w, volts * step_v / abs(current.sensitivity) / math.sqrt(12))
            if voltage.in_use and volts > 0:
                gain = max(gain, step_v / abs(voltage.sensitivity) / math.sqrt(12) / volts)
        return Accuracy(gain, offset_w, "steps of the 10-bit converter; the sensors' own accuracy is not stated")


def _format_coefficients(sensor: SensorConfig) -> str:
    return f"{sensor.type} {sensor.reference_v:g} V {sensor.sensitivity:g}"


DRIVER = make_stream_driver(
    "powersensor3",
    "PowerSensor3, four pairs at 20 kS/s, over serial",
    PowerSensor3Instrument,
    # The serial port of ST's Arduino core; the product names the board (a Black Pill), as that port is common.
    usb_ids=(UsbId(0x0483, 0x5740, product="black.?pill|power.?sensor"),),
    options=("pairs", "voltage_v"),
    safe_bytes=STOP,
)
