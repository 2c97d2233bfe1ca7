"""INA3221 power monitors of NVIDIA Jetson boards (and the INA238 at the input of Thor carriers).

Two generations of sysfs: ``ina3221x`` of L4T 32 and older (``rail_name_N``, ``in_powerN_input`` in milliwatts) and the
mainline driver of JetPack 5 and later (``inN_label``, ``inN_input`` in millivolts, ``currN_input`` in milliamperes;
Linux ``Documentation/hwmon/ina3221.rst``). There, ``in4`` to ``in6`` are shunt voltages and ``in7`` is "sum of shunt
voltages": not rails. A label with ``NC`` is a channel that is not connected (NVIDIA Jetson Linux Developer Guide).

A board has rails fed by other rails, so a sum over all of them counts energy twice. The total is one rail where a board
has one, else the sum of those that NVIDIA documents as parallel; on an unknown board the user names them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepen.errors import ConfigError, MeterError
from deepen.meters.onboard.polling import make_polled_meter, parse_names
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.sensor_files import SensorFiles, natural_sort_key, read_number, read_numbers, read_text_or_empty
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec
from deepen.records import Accuracy

__all__ = ["DRIVER", "Ina3221Rail", "choose_rails", "find_rails"]

TOTALS: dict[str, str] = {
    "VIN": "board input",
    "POM_5V_IN": "5 V input of the board",
    "VDD_IN": "module input; the carrier board is not in it",
}
"""Rails that feed all others, the outermost first (NVIDIA forum 73608 and 200883; Thor: forum 366461)."""

SUMS: dict[tuple[str, ...], str] = {
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"): "AGX Orin module",
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"): "AGX Thor module",
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"): "AGX Xavier module",
}
"""Parallel rails that make up the total (Jetson Linux Developer Guide, power consumption modelling; AGX
Xavier: design guide DG-09840, figure 5-14)."""

INSIDE: dict[str, str] = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
"""Rail -> the rail it is part of (Jetson Linux Developer Guide 36.4, AGX Orin)."""

_OLD_UPDATE_S = 0.1
"""Time between updates of the old driver, which does not report it: polling tools read it ten times a second."""

_RESET_UPDATE_S = 6 * 1.1e-3
"""Three channels, shunt and bus, 1.1 ms each: the chip's configuration after reset (SBOS576, table 5)."""

_POLL_S = 0.02
"""Fifty readings a second: three or six transfers over I2C each, which costs well under a percent of a core."""

_GAIN = math.sqrt(0.0025**2 + 0.0025**2 + 0.01**2) / math.sqrt(3)
"""Limits of gain: 0.25 % for the shunt and for the bus voltage (SBOS576), 1 % for the resistor (DG-09840)."""

_OFFSET_V = 80e-6
"""Limit of the shunt's offset voltage (SBOS576)."""

_LSB_V = 40e-6
"""Step of the shunt voltage (SBOS576)."""


@dataclass(frozen=True, slots=True)
class Ina3221Rail:
    """One channel of a monitor.

    Attributes:
        name: Its name on the board, for example ``VDD_IN``.
        paths: The files to read; their product is the power.
        scale: Watts per product of the numbers in them.
        update_s: Time between two updates, seconds.
        shunt_ohm: Sense resistor, ohms; ``nan`` if not reported.
        voltage_path: File with the bus voltage in millivolts; empty where there is none.
    """

    name: str
    paths: tuple[str, ...]
    scale: float
    update_s: float
    shunt_ohm: float = math.nan
    voltage_path: str = ""


def _is_connected(label: str) -> bool:
    return bool(label) and "NC" not in re.split(r"[^A-Za-z0-9]+", label) and "shunt" not in label.lower()


def _find_iio_rails(files: SensorFiles) -> list[Ina3221Rail]:
    found = []
    for path in files.glob("/sys/bus/i2c/drivers/ina3221x/*/iio?device*/rail_name_*"):
        folder, _, file = path.rpartition("/")
        n, label = file.removeprefix("rail_name_"), read_text_or_empty(files, path)
        if not _is_connected(label):
            continue
        voltage, current, power = (f"{folder}/in_{what}{n}_input" for what in ("voltage", "current", "power"))
        if read_text_or_empty(files, power):
            found.append(Ina3221Rail(label, (power,), 1e-3, _OLD_UPDATE_S, voltage_path=voltage))
        else:
            found.append(Ina3221Rail(label, (voltage, current), 1e-6, _OLD_UPDATE_S, voltage_path=voltage))
    return found


def _find_hwmon_rails(files: SensorFiles) -> list[Ina3221Rail]:
    found = []
    for path in files.glob("/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"):
        folder, _, file = path.rpartition("/")
        n, label = file[2:].removesuffix("_label"), read_text_or_empty(files, path)
        if (
            n not in ("1", "2", "3")
            or not _is_connected(label)
            or read_text_or_empty(files, f"{folder}/in{n}_enable") == "0"
        ):
            continue
        interval_ms = read_number(files, f"{folder}/update_interval")
        shunt_uohm = read_number(files, f"{folder}/shunt{n}_resistor")
        voltage = f"{folder}/in{n}_input"
        found.append(
            Ina3221Rail(
                label,
                (voltage, f"{folder}/curr{n}_input"),
                1e-6,
                interval_ms / 1e3 if interval_ms else _RESET_UPDATE_S,
                shunt_uohm / 1e6 if shunt_uohm else math.nan,
                voltage,
            )
        )
    return found


def _find_input_rails(files: SensorFiles) -> list[Ina3221Rail]:
    """Find the INA238 at the input of a board: power in microwatts (Linux ``Documentation/hwmon/ina238.rst``)."""
    found = []
    for path in files.glob("/sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/power1_input"):
        folder = path.rpartition("/")[0]
        label = (
            read_text_or_empty(files, f"{folder}/in1_label")
            or read_text_or_empty(files, f"{folder}/power1_label")
            or "VIN"
        )
        interval_ms = read_number(files, f"{folder}/update_interval")
        found.append(Ina3221Rail(label, (path,), 1e-6, interval_ms / 1e3 if interval_ms else _RESET_UPDATE_S))
    return found


def find_rails(files: SensorFiles) -> list[Ina3221Rail]:
    """Find the rails of the board, of either generation, without channels that are not connected or switched off."""
    monitors = [*_find_iio_rails(files), *_find_hwmon_rails(files)]
    # An INA238 alone is not a Jetson; the driver ``hwmon`` reads it.
    return (
        sorted([*_find_input_rails(files), *monitors], key=lambda r: natural_sort_key(r.paths[0])) if monitors else []
    )


def choose_rails(rails: Sequence[Ina3221Rail], wanted: Sequence[str] = ()) -> tuple[tuple[Ina3221Rail, ...], str]:
    """Choose the rails that make up the total, or those the user named.

    Args:
        rails: Rails of the board.
        wanted: Names of rails to add up; empty for the board's total.

    Returns:
        The rails, and a description of the parts they feed.

    Raises:
        ConfigError: If a named rail is not there, or one is part of another.
        MeterError: If no total is known for the board.
    """
    names = [rail.name for rail in rails]
    for name in wanted:
        if names.count(name) != 1:
            what = "no rail" if name not in names else f"{names.count(name)} rails"
            raise ConfigError(
                f"meter 'ina3221:{','.join(wanted)}': there is {what} '{name}'", cure=f"found: {', '.join(names)}"
            )
    if wanted:
        for name in wanted:
            others = [other for other in wanted if other != name]
            inner = others if name in TOTALS else [other for other in others if INSIDE.get(other) == name]
            if inner:
                raise ConfigError(f"meter 'ina3221': {name} already has {inner[0]} in it", cure="name one of them")
        return tuple(rails[names.index(name)] for name in wanted), "rails that were named"
    for name, scope in TOTALS.items():
        if names.count(name) == 1:
            return (rails[names.index(name)],), scope
    for group, scope in SUMS.items():
        if all(names.count(name) == 1 for name in group):
            return tuple(rails[names.index(name)] for name in group), scope
    raise MeterError(
        f"this board is not known to have a total among its rails ({', '.join(names)})",
        subject="ina3221",
        cure=f"name those that do not contain one another: --meter ina3221:{','.join(names[:2])}",
    )


def _open_rails(files: SensorFiles, rails: Sequence[Ina3221Rail], scope: str) -> PolledMeter:
    paths = [path for rail in rails for path in rail.paths]

    def read_w() -> float:
        values = iter(read_numbers(files, paths, "ina3221"))
        return sum(rail.scale * math.prod(next(values) for _ in rail.paths) for rail in rails)

    volts = [
        (read_number(files, rail.voltage_path) or math.nan) / 1e3 if rail.voltage_path else math.nan for rail in rails
    ]
    per_volt = [v / rail.shunt_ohm for v, rail in zip(volts, rails, strict=True)]  # watts per volt across the shunt
    known = all(math.isfinite(w) and w > 0 for w in per_volt)
    reference = "TI SBOS576 limits of gain and offset, 1 % sense resistors"
    if not known:
        reference = "TI SBOS576 limits of gain, 1 % sense resistors; offset unknown, as the resistors are not reported"
    # Gain is taken as common to the rails (one kind of chip and resistor), offsets as independent.
    offset_w = _OFFSET_V / math.sqrt(3) * math.hypot(*per_volt) if known else 0.0
    return make_polled_meter(
        "ina3221",
        f"ina3221 {'+'.join(rail.name for rail in rails)} ({scope})",
        read_w,
        update_s=max(rail.update_s for rail in rails),
        poll_s=_POLL_S,
        resolution_w=_LSB_V * math.hypot(*per_volt) if known else 0.0,
        accuracy=Accuracy(_GAIN, offset_w, reference),
    )


def _probe(context: MeterContext) -> Availability:
    rails = find_rails(context.files)
    if not rails:
        return Availability("ina3221", False, "", "measured", "no INA3221 monitor of a Jetson board", "")
    try:
        chosen, scope = choose_rails(rails)
        _open_rails(context.files, chosen, scope)
    except MeterError as error:
        return Availability("ina3221", False, ", ".join(r.name for r in rails), "measured", error.cause, error.cure)
    others = [rail.name for rail in rails if rail not in chosen]
    detail = f"{' + '.join(r.name for r in chosen)}: {scope}"
    return Availability("ina3221", True, detail + (f"; other rails: {', '.join(others)}" if others else ""), "measured")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    rails = find_rails(context.files)
    if not rails:
        raise MeterError(
            "no monitor below /sys/bus/i2c/drivers/ina3221 or ina3221x",
            subject="ina3221",
            cure="run on the Jetson itself, or use --meter hwmon for other boards",
        )
    chosen, scope = choose_rails(rails, parse_names(spec))
    return _open_rails(context.files, chosen, scope)


DRIVER = Driver("ina3221", "Jetson board's own power monitors", _probe, _open, automatic=True)
