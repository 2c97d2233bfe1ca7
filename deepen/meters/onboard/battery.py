"""Battery gauge: power drawn from a discharging battery (Linux ``power_supply`` class, Android's too).

The kernel's ABI says microvolts, microamperes and microwatts, and a negative current while discharging
(``Documentation/ABI/testing/sysfs-class-power``), but vendors report milliamperes, and either sign or none. Both are
inferred from the readings, by plausibility: a machine that is awake to be measured draws 50 mW or more from each cell,
and no cell gives more than 25 W for long. At most one of two units a factor of 1000 apart is possible; in the band
where neither is, the user has to name the unit. A wrong guess shows later, as an impossible power or a contradicting
charge counter, and ends in an error.

A battery that is being charged, or supplemented by a charger, does not show the machine's power and is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepen.errors import ConfigError, MeterError
from deepen.meters.onboard.polling import measure_poll_period_s
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.sensor_files import SensorFiles, read_number, read_text_or_empty
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec
from deepen.records import PowerTrace

__all__ = ["DRIVER", "BatteryGauge", "BatteryMeter", "convert_to_volts", "find_batteries", "infer_reading_unit"]

_BASE = "/sys/class/power_supply"
_UPDATE_S = 1.0

_LEAST_W, _MOST_W = 0.05, 25.0
"""Power of one cell, watts: the least an awake machine draws, and the most a cell gives."""

_CELL_V = 3.7

_MOST_CELLS = 8
"""Number of cells if a battery does not report its voltage; laptops have up to four in series, twice."""

_UNITS = {"uA": 1e-6, "mA": 1e-3}

_DISAGREE = 10.0
"""Charge counters are coarse; a wrong unit is off by 1000."""


def find_batteries(files: SensorFiles) -> list[str]:
    """Find the folders of the system's batteries (without those of mice and the like), Android's main one first."""
    found = [
        folder
        for folder in files.glob(f"{_BASE}/*")
        if read_text_or_empty(files, f"{folder}/type") == "Battery"
        and read_text_or_empty(files, f"{folder}/scope") != "Device"
    ]
    return sorted(found, key=lambda folder: _get_battery_name(folder).lower() not in ("battery", "mainbattery"))


def _get_battery_name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _find_charger_files(files: SensorFiles) -> list[str]:
    """Find the files that show whether a charger supplies power."""
    return [
        f"{folder}/online"
        for folder in files.glob(f"{_BASE}/*")
        if read_text_or_empty(files, f"{folder}/type").startswith(("Mains", "USB", "Wireless"))
        and read_text_or_empty(files, f"{folder}/online")
    ]


def convert_to_volts(raw: float) -> float:
    """Convert a gauge's reading to volts: batteries give 2 to 100 V, so its magnitude shows V, mV or uV."""
    if raw < 100:
        return raw
    return raw / 1e3 if raw < 100_000 else raw / 1e6


def infer_reading_unit(micro_w: float, cells: int) -> float | None:
    """Infer the unit of a reading from the power that is possible.

    Args:
        micro_w: Power if the reading is in micro-units, watts.
        cells: Cells in series.

    Returns:
        1e-6 or 1e-3; ``None`` if neither is possible.
    """
    if micro_w / cells >= _LEAST_W:
        return 1e-6
    return 1e-3 if micro_w * 1e3 / cells <= _MOST_W else None


@dataclass(slots=True)
class BatteryGauge:
    """Interpretation of one battery's readings, learnt from the first one that is not zero.

    Attributes:
        name: Battery.
        unit: Amperes (or watts) per count; 0 until it is known.
        file: ``power_now`` or ``current_now``, whichever is used; empty until it is known.
        sign: Sign of the reading while discharging; 0 until it is known.
        evidence: Reason for the unit.
    """

    name: str
    unit: float = 0.0
    file: str = ""
    sign: int = 0
    evidence: str = ""

    def power_w(self, power: float, current: float, voltage: float) -> float:
        """Return the power drawn from the battery, watts; 0 while the gauge reads zero.

        Args:
            power: ``power_now``; ``nan`` where there is none.
            current: ``current_now``; ``nan`` where there is none.
            voltage: ``voltage_now``; ``nan`` where there is none.

        Raises:
            MeterError: If the unit is ambiguous, the power is impossible, or the current flows into the battery.
        """
        volt = convert_to_volts(voltage) if voltage > 0 else math.nan
        cells = max(1, round(volt / _CELL_V)) if volt > 0 else 1
        if not self.file:
            # An unused power_now always reads 0; a unit named by the user is that of the current.
            product = math.isfinite(current * volt)
            self.file = (
                "power_now" if math.isfinite(power) and not (product and (power == 0 or self.unit)) else "current_now"
            )
        raw, factor = (power, 1.0) if self.file == "power_now" else (current, volt)
        if not math.isfinite(raw * factor):
            raise MeterError(
                f"{self.name} reports neither power nor current with voltage",
                subject="battery",
                cure="use another meter",
            )
        if raw == 0:
            return 0.0
        if not self.sign:
            self.sign = 1 if raw > 0 else -1
        if not self.unit:
            self._learn(raw, abs(raw) * factor * 1e-6, cells)
        if math.copysign(1, raw) != self.sign:
            raise MeterError(f"current flows into {self.name}", subject="battery", cure="unplug the charger")
        watts = abs(raw) * factor * self.unit
        if watts > _MOST_W * (cells if volt > 0 else _MOST_CELLS):
            other = "uA" if self.unit == _UNITS["mA"] else "mA"
            raise MeterError(
                f"{self.file} {raw:g} of {self.name} would be {watts:.3g} W, so a count is not the "
                f"{self.unit:g} it was taken for ({self.evidence})",
                subject="battery",
                cure=f"name the unit: --meter 'battery?current_unit={other}'",
            )
        return watts

    def _learn(self, raw: float, micro_w: float, cells: int) -> None:
        unit = infer_reading_unit(micro_w, cells)
        if unit is None:
            raise MeterError(
                f"{self.file} {raw:g} of {self.name} could be {micro_w * 1e3:.3g} mW or as many W",
                subject="battery",
                cure="name the unit: --meter 'battery?current_unit=uA' (or mA)",
            )
        self.unit = unit
        self.evidence = (
            f"{self.file} {raw:g} over {cells} cell{'s' if cells > 1 else ''} is {micro_w * unit * 1e6:.3g} W"
        )


class BatteryMeter(PolledMeter):
    """The system's battery gauges, read once a second."""

    def __init__(self, files: SensorFiles, folders: Sequence[str], unit: float = 0.0) -> None:
        """Open the gauges.

        Args:
            files: The machine.
            folders: Folders of the batteries; several are packs in parallel.
            unit: Amperes per count; 0 to infer it.

        Raises:
            MeterError: If none discharges, a charger is active, or they report no power.
        """
        self._files = files
        self._gauges = [
            BatteryGauge(_get_battery_name(f), unit, evidence="named by the user" if unit else "") for f in folders
        ]
        self._present = [
            [f"{folder}/{file}" if read_text_or_empty(files, f"{folder}/{file}") else "" for file in _FILES]
            for folder in folders
        ]
        self._online = _find_charger_files(files)
        self._paths = list(dict.fromkeys(path for row in [*self._present, self._online] for path in row if path))
        self._charges = [c for folder in folders if (c := _find_charge_file(files, folder))]
        self._full_ah = sum(math.prod(_read_full_charge(files, folder)) for folder in folders)
        self._start_ah = math.nan
        period_s = max(_UPDATE_S, measure_poll_period_s(self._read))
        if not self._read() > 0:
            raise MeterError(
                "the gauge tells no current", subject="battery", cure="wait until it does, or use another meter"
            )
        known = "; ".join(f"{g.name}: {g.unit:g} per count, {g.evidence}" for g in self._gauges if g.unit)
        models = " ".join(read_text_or_empty(files, f"{folder}/model_name") for folder in folders).strip()
        super().__init__(
            "battery",
            f"power_supply {'+'.join(g.name for g in self._gauges)} {models}".strip() + f" ({known})",
            self._read,
            update_s=_UPDATE_S,
            resolution_j=0.0,
            poll_s=period_s,
        )

    def _read(self) -> float:
        try:
            values = dict(zip(self._paths, self._files.read_all(self._paths), strict=True))
        except OSError as error:
            raise MeterError(
                f"the gauge cannot be read any more ({error})", subject="battery", cure="try again"
            ) from error
        for path in self._online:
            if values[path] not in ("0", ""):
                raise MeterError(
                    f"the charger {path.split('/')[-2]} gives power too, so the battery tells only a part",
                    subject="battery",
                    cure="unplug it (a phone: adb over Wi-Fi)",
                )
        statuses = [values.get(row[0], "") for row in self._present]
        if "Discharging" not in statuses or "Charging" in statuses:
            at = statuses.index("Charging") if "Charging" in statuses else 0
            raise MeterError(
                f"{self._gauges[at].name} is '{statuses[at] or 'gone'}', not discharging",
                subject="battery",
                cure="unplug the charger",
            )
        total_w = 0.0
        for gauge, row, status in zip(self._gauges, self._present, statuses, strict=True):
            if status == "Discharging":
                total_w += gauge.power_w(*(_parse_float(values.get(path, "")) for path in row[1:]))
        return total_w if total_w > 0 else math.nan  # a running machine draws power: zero is not a reading

    def start(self) -> None:
        """Begin a trace.

        Raises:
            MeterError: If the battery does not discharge.
        """
        self._start_ah = self._charge_ah()
        super().start()

    def stop(self) -> PowerTrace:
        """End the trace, and compare its charge with the gauge's own counter.

        Raises:
            MeterError: If the battery did not discharge all the time, or the unit of the current was wrong.
        """
        trace = super().stop()
        volt = [
            convert_to_volts(v) for row in self._present if row[3] and (v := read_number(self._files, row[3])) and v > 0
        ]
        fallen_ah = self._start_ah - self._charge_ah()
        if volt and math.isfinite(fallen_ah) and self._full_ah > 0:
            step_s = np.diff(trace.t_s)
            energy_j = float(np.sum(step_s * (trace.power_w[1:] + trace.power_w[:-1]) / 2))
            drawn_ah = energy_j / (sum(volt) / len(volt)) / 3600
            coarse_ah = self._full_ah / 1000
            if max(drawn_ah, fallen_ah) > _DISAGREE * max(min(drawn_ah, fallen_ah), coarse_ah):
                raise MeterError(
                    f"by its current {drawn_ah * 1e3:.3g} mAh were drawn, by its charge counter "
                    f"{fallen_ah * 1e3:.3g} mAh, so the unit is wrong ({self.calibration_id})",
                    subject="battery",
                    cure="name it: --meter 'battery?current_unit=uA' (or mA)",
                )
        return trace

    def _charge_ah(self) -> float:
        """Read the charge left, ampere-hours; ``nan`` if not reported."""
        values = [read_number(self._files, path) for path, _ in self._charges]
        known = [v * scale for v, (_, scale) in zip(values, self._charges, strict=True) if v is not None]
        return sum(known) if known and len(known) == len(values) else math.nan


_FILES = ("status", "power_now", "current_now", "voltage_now")


def _parse_float(content: str) -> float:
    """Parse the number in a file; ``nan`` if it holds none, or an infinite one."""
    try:
        value = float(content)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _read_full_charge(files: SensorFiles, folder: str) -> tuple[float, float]:
    """Read the charge of a full battery, counts, and infer the ampere-hours per count: batteries hold 0.1 to 100 Ah."""
    full = read_number(files, f"{folder}/charge_full") or 0.0
    return full, 1e-6 if full >= 100_000 else 1e-3


def _find_charge_file(files: SensorFiles, folder: str) -> tuple[str, float] | None:
    """Find the file with the charge left, and its ampere-hours per count; ``None`` if none has a known unit."""
    full, scale = _read_full_charge(files, folder)
    for file in ("charge_now", "charge_counter"):
        left = read_number(files, f"{folder}/{file}")
        if left is not None and full / 500 < left < 1.5 * full:
            return f"{folder}/{file}", scale
    return None


def _choose_batteries(files: SensorFiles, port: str) -> list[str]:
    """Choose the battery named, or Android's main one, or all packs of a laptop."""
    found = find_batteries(files)
    names = [_get_battery_name(folder) for folder in found]
    if not found:
        raise MeterError("there is none in /sys/class/power_supply", subject="battery", cure="use another meter")
    if port:
        if port not in names:
            raise MeterError(f"no '{port}' here", subject="battery", cure=f"found: {', '.join(names)}")
        return [found[names.index(port)]]
    if len(found) == 1 or names[0].lower() in ("battery", "mainbattery"):
        return found[:1]
    if all(re.fullmatch(r"(BAT|CMB)\d", name) for name in names):
        return found  # ACPI packs are in parallel
        # Fuel gauge and charger chip both measure one battery: adding them up would count it twice.
    raise MeterError(
        f"{', '.join(names)} may all show one battery", subject="battery", cure=f"name one: --meter battery:{names[0]}"
    )


def _probe(context: MeterContext) -> Availability:
    files = context.files
    if not find_batteries(files):
        return Availability("battery", False, "", "measured", "no battery in /sys/class/power_supply", "")
    try:
        folders = _choose_batteries(files, "")
        BatteryMeter(files, folders)
    except MeterError as error:
        return Availability(
            "battery", False, _get_battery_name(find_batteries(files)[0]), "measured", error.cause, error.cure
        )
    names = "+".join(_get_battery_name(folder) for folder in folders)
    return Availability("battery", True, f"{names}; one reading a second, so kernels take minutes", "measured")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only("current_unit")
    unit = spec.options.get("current_unit", "")
    if unit and unit not in _UNITS:
        raise ConfigError(f"meter 'battery': current_unit is uA or mA, not '{unit}'")
    return BatteryMeter(context.files, _choose_batteries(context.files, spec.port), _UNITS.get(unit, 0.0))


DRIVER = Driver("battery", "battery gauge while discharging", _probe, _open, automatic=True)
