"""Power sensors of the Linux ``hwmon`` class: INA2xx monitors on boards, ACPI power meters, controllers of supplies.

Files (Linux ``Documentation/hwmon/sysfs-interface.rst``): ``powerN_input`` and ``powerN_average`` in microwatts,
``energyN_input`` in microjoules, ``inN_input`` in millivolts, ``currN_input`` in milliamperes. One sensor is read at a
time, by its name ``CHIP/LABEL``: the class does not show which sensors contain others, so they are not added up.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepen.errors import ConfigError, MeterError
from deepen.meters.energy_counter import CounterMeter, guard_counter_monotonic
from deepen.meters.onboard.polling import make_polled_meter, measure_poll_period_s
from deepen.meters.sensor_files import SensorFiles, read_number, read_numbers, read_text_or_empty
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec

__all__ = ["DRIVER", "HwmonSensor", "find_sensors"]

_UPDATE_S = 0.1
"""Time between updates if a chip does not report it, seconds."""

_POLL_S = 0.02

_INA2XX = re.compile(r"ina2\d\d$")
"""Monitors with the bus voltage in ``in1`` and the current in ``curr1`` (Linux ``Documentation/hwmon/ina2xx.rst``)."""

_POWER_LSB: dict[str, float] = {
    "ina219": 20 * 10e-6,
    "ina220": 20 * 10e-6,
    "ina226": 25 * 2.5e-6,
    "ina230": 25 * 2.5e-6,
    "ina231": 25 * 2.5e-6,
}
"""Chip -> step of its power register times its shunt, watt-ohms: the factor of the power register over that of the
current register, times the step of the shunt voltage (TI SBOS448, SBOS547, SBOS601)."""


@dataclass(frozen=True, slots=True)
class HwmonSensor:
    """One sensor of power or energy.

    Attributes:
        name: ``CHIP/LABEL``, unique on this machine.
        kind: ``power``, ``energy`` (a counter) or ``product`` (voltage times current).
        paths: Files to read.
        update_s: Time between two updates, seconds.
        resolution_w: Step of the power, watts; 0 where unknown.
    """

    name: str
    kind: str
    paths: tuple[str, ...]
    update_s: float
    resolution_w: float = 0.0


def _find_chip_sensors(files: SensorFiles, folder: str, chip: str) -> list[HwmonSensor]:
    interval_ms = read_number(files, f"{folder}/update_interval")
    update_s = interval_ms / 1e3 if interval_ms else _UPDATE_S
    there = {path.rpartition("/")[2] for path in files.glob(f"{folder}/*_*")}
    shunt_uohm = read_number(files, f"{folder}/shunt_resistor")
    resolution_w = _POWER_LSB.get(chip, 0.0) / (shunt_uohm / 1e6) if shunt_uohm else 0.0
    if chip == "ina260":
        resolution_w = 10e-3  # its shunt is inside (TI SBOS656)
    found = []
    for n in sorted({int(m[1]) for name in there if (m := re.fullmatch(r"power(\d+)_(?:input|average)", name))}):
        file = f"power{n}_input" if f"power{n}_input" in there else f"power{n}_average"
        step_ms = read_number(files, f"{folder}/power{n}_average_interval") if file.endswith("average") else None
        label = read_text_or_empty(files, f"{folder}/power{n}_label") or f"power{n}"
        found.append(
            HwmonSensor(
                f"{chip}/{label}", "power", (f"{folder}/{file}",), step_ms / 1e3 if step_ms else update_s, resolution_w
            )
        )
    for n in sorted({int(m[1]) for name in there if (m := re.fullmatch(r"energy(\d+)_input", name))}):
        label = read_text_or_empty(files, f"{folder}/energy{n}_label") or f"energy{n}"
        found.append(HwmonSensor(f"{chip}/{label}", "energy", (f"{folder}/energy{n}_input",), update_s))
    if not found and _INA2XX.fullmatch(chip) and {"in1_input", "curr1_input"} <= there:
        label = read_text_or_empty(files, f"{folder}/in1_label") or "in1xcurr1"
        found.append(
            HwmonSensor(f"{chip}/{label}", "product", (f"{folder}/in1_input", f"{folder}/curr1_input"), update_s)
        )
    return found


def find_sensors(files: SensorFiles) -> list[HwmonSensor]:
    """Find the sensors of power and energy on the machine, each under a unique name.

    Batteries (their driver checks that they discharge) and the power negotiated by USB ports (the ``ucsi`` supplies,
    which is not a measurement) are left out.
    """
    found: list[tuple[str, HwmonSensor]] = []
    for path in files.glob("/sys/class/hwmon/hwmon*/name"):
        folder = path.rpartition("/")[0]
        chip = read_text_or_empty(files, path)
        if chip.startswith("ucsi") or read_text_or_empty(files, f"{folder}/device/type") in (
            "Battery",
            "USB",
            "Mains",
            "UPS",
        ):
            continue
        found.extend((folder.rpartition("/")[2], sensor) for sensor in _find_chip_sensors(files, folder, chip))
    count = Counter(sensor.name for _, sensor in found)
    # Two chips of a kind are distinguished by their device number, which is stable within one session.
    return [
        sensor if count[sensor.name] == 1 else replace(sensor, name=f"{hwmon}/{sensor.name.partition('/')[2]}")
        for hwmon, sensor in found
    ]


def _open_sensor(files: SensorFiles, sensor: HwmonSensor) -> Meter:
    def read() -> float:
        return math.prod(read_numbers(files, sensor.paths, "hwmon", "sudo chmod a+r it until the next boot")) / 1e6

    calibration = f"hwmon {sensor.name}"
    if sensor.kind != "energy":
        return make_polled_meter(
            "hwmon",
            calibration,
            read,
            update_s=sensor.update_s,
            poll_s=_POLL_S,
            resolution_w=sensor.resolution_w,
        )
    return CounterMeter(
        "hwmon",
        calibration,
        guard_counter_monotonic(read, "hwmon", "it wrapped, or its driver was loaded anew"),
        update_s=sensor.update_s,
        resolution_j=1e-6,
        poll_s=max(1.0, measure_poll_period_s(read)),
    )


def _list_sensor_names(sensors: Sequence[HwmonSensor]) -> str:
    return ", ".join(sensor.name for sensor in sensors)


def _probe(context: MeterContext) -> Availability:
    sensors = find_sensors(context.files)
    if not sensors:
        return Availability("hwmon", False, "", "measured", "no power sensor in /sys/class/hwmon", "")
    if len(sensors) > 1:
        cure = f"name one: --meter hwmon:{sensors[0].name}"
        cause = f"{len(sensors)} power sensors: {_list_sensor_names(sensors)}"
        return Availability("hwmon", False, _list_sensor_names(sensors), "measured", cause, cure)
    try:
        _open_sensor(context.files, sensors[0]).close()
    except MeterError as error:
        return Availability("hwmon", False, sensors[0].name, "measured", error.cause, error.cure)
    return Availability("hwmon", True, f"{sensors[0].name}; what it covers, the board's maker says", "measured")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    sensors = find_sensors(context.files)
    if not sensors:
        raise MeterError(
            "no power sensor in /sys/class/hwmon",
            subject="hwmon",
            cure="load its driver (modprobe) or use another meter",
        )
    matching = (
        [s for s in sensors if spec.port in (s.name, s.name.partition("/")[0], s.paths[0])] if spec.port else sensors
    )
    if spec.port and not matching:
        raise ConfigError(
            f"meter 'hwmon:{spec.port}': there is no such sensor", cure=f"found: {_list_sensor_names(sensors)}"
        )
    if len(matching) > 1:
        raise ConfigError(
            f"meter 'hwmon': name one sensor, as in hwmon:{matching[0].name}",
            cure=f"found: {_list_sensor_names(matching)}",
        )
    return _open_sensor(context.files, matching[0])


DRIVER = Driver("hwmon", "power sensors of the board (INA2xx and others)", _probe, _open)
