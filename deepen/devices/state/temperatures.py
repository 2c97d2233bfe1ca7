"""Current temperatures and throttling of a device.

Sources: thermal zones and cooling devices (kernel ``driver-api/thermal/sysfs-api``: millidegrees Celsius; a cooling
device at state 0 does nothing), ``hwmon`` (kernel ``hwmon/sysfs-interface``), ``dumpsys thermalservice`` of Android 10
and newer (types of ``android.hardware.thermal.TemperatureType``; statuses of ``android.os.ThermalStatus``),
``vcgencmd get_throttled`` of the Raspberry Pi (low half now, high half since start), and the event counters of
Jetson's ``soctherm_oc`` and of x86's ``thermal_throttle``.
"""

from __future__ import annotations

import math
import re

from deepen.devices.state.identity import DeviceKind
from deepen.devices.state.shell_files import FileContents, Shell
from deepen.devices.types import TemperatureReading, ThermalState

__all__ = [
    "STATUSES",
    "THERMAL_FILES",
    "THROTTLE_FILES",
    "find_processor_temperature",
    "parse_thermal_files",
    "parse_thermalservice",
    "parse_throttled",
    "read_thermal",
]

STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal statuses, by number."""

_ZONE = "/sys/class/thermal/thermal_zone*/{}"
_COOLER = "/sys/class/thermal/cooling_device*/{}"
_OVER_CURRENT = "/sys/class/hwmon/hwmon*/oc*_event_cnt"
_X86_COUNT = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"

THROTTLE_FILES = (_COOLER.format("type"), _COOLER.format("cur_state"), _OVER_CURRENT, _X86_COUNT)
"""Files from which :func:`parse_thermal_files` detects throttling."""

THERMAL_FILES = (
    _ZONE.format("type"),
    _ZONE.format("temp"),
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp*_input",
    *THROTTLE_FILES,
)
"""Files that :func:`parse_thermal_files` needs, for reading them together with others."""

_TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin", 9: "npu", 10: "npu", 13: "soc"}
_NO_TEMPERATURE = {6: "volts", 7: "amperes", 8: "per cent"}  # BCL_VOLTAGE, BCL_CURRENT, BCL_PERCENTAGE
_KINDS = (
    ("gpu", re.compile(r"gpu|mali|adreno|g3d", re.IGNORECASE)),
    ("npu", re.compile(r"npu|tpu|nsp|hvx|dla|\bcv\d|^cv|apu", re.IGNORECASE)),
    ("battery", re.compile(r"batt|(^|[^a-z])bms|fuel", re.IGNORECASE)),
    ("skin", re.compile(r"skin|tboard|board|quiet|xo[-_]therm|tdiode", re.IGNORECASE)),
    (
        "cpu",
        re.compile(r"cpu|x86_pkg|coretemp|k10temp|zenpower|cluster|kryo|^(big|mid|little)$|a[57]\d-", re.IGNORECASE),
    ),
    ("soc", re.compile(r"soc|acpitz|tj\b|^ap$|^ao-|pll", re.IGNORECASE)),
)
_SLOWS = re.compile(
    r"cpufreq|cpu-?\d|cpu-cluster|devfreq|gpu|processor|intel_powerclamp|cpu_balanced|cpu-throttle", re.I
)
_LOW_C, _HIGH_C = 1.0, 150.0
UNDER_VOLTAGE = "under-voltage"
"""Name of a supply that is too weak, the one cause of throttling that cooling down does not help against."""
_BITS = {
    0: UNDER_VOLTAGE,
    1: "the clock is capped",
    2: "throttled",
    3: "at the soft temperature limit",
}
_CURRENT = re.compile(
    r"Temperature\{mValue=(?P<value>[-+.\dENa]+), mType=(?P<type>-?\d+), "
    r"mName=(?P<name>.*?), mStatus=(?P<status>\d+)\}"
)


def _sensor_kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "other")


def parse_thermalservice(text: str) -> ThermalState:
    """Parse the output of ``dumpsys thermalservice``.

    The list from the HAL is preferred to the cached one, which is as old as the last event. A status overridden for a
    test is ignored.
    """
    status_match = re.search(r"^\s*Thermal Status: (\d+)\s*$", text, re.MULTILINE)
    status = int(status_match.group(1)) if status_match else None
    unreadable = []
    if re.search(r"IsStatusOverride: true", text):
        status = None
        unreadable.append("the thermal status is overridden (cmd thermalservice reset gives it back)")
    _, _, live = text.partition("Current temperatures from HAL:")
    rows = list(_CURRENT.finditer(live.split("Current cooling devices", 1)[0]))
    if not rows:
        _, _, cached = text.partition("Cached temperatures:")
        rows = list(_CURRENT.finditer(cached.split("HAL Ready", 1)[0]))
        if rows:
            unreadable.append("the HAL reported no temperatures now; those are as old as its last event")
    sensors, ignored, throttled = [], [], []
    for row in rows:
        name, number, level = row["name"], int(row["type"]), int(row["status"])
        if number in _NO_TEMPERATURE:
            continue
        try:
            value = float(row["value"])
        except ValueError:
            value = math.nan
        kind = _TYPES.get(number, "other")
        if not _LOW_C <= value <= _HIGH_C:
            ignored.append(f"{name}: {row['value']} °C (thermalservice)")
        else:
            sensors.append(TemperatureReading(name, kind, value, "thermalservice"))
        if level:
            throttled.append(f"{name}: {_status_name(level)}")
    if status:
        throttled.insert(0, f"thermal status {status} ({_status_name(status)})")
    return ThermalState(tuple(sensors), status, tuple(throttled), {}, tuple(ignored), tuple(unreadable))


def _status_name(number: int) -> str:
    return STATUSES[number] if number < len(STATUSES) else f"status {number}"


def parse_throttled(text: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """Parse the output of ``vcgencmd get_throttled``, for example ``throttled=0x50005``.

    Returns:
        The causes that apply now, and those that have applied since the start (with the count 1).

    Raises:
        ValueError: If the text is not such output.
    """
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", text.strip())
    if not match:
        raise ValueError(f"not an answer of get_throttled: {text[:40]!r}")
    bits = int(match.group(1), 16)
    now = tuple(words for bit, words in _BITS.items() if bits >> bit & 1)
    return now, {f"{words} since the start": bits >> (bit + 16) & 1 for bit, words in _BITS.items()}


def _parse_celsius(raw: str) -> float:
    try:
        return int(raw) / 1e3
    except ValueError:
        return math.nan


def parse_thermal_files(files: FileContents) -> ThermalState:
    """Parse the thermal state from kernel files; see ``THERMAL_FILES``."""
    sensors: list[TemperatureReading] = []
    ignored: list[str] = []

    def take(name: str, raw: str, origin: str) -> None:
        value = _parse_celsius(raw)
        if _LOW_C <= value <= _HIGH_C:
            sensors.append(TemperatureReading(name, _sensor_kind(name), value, origin))
        else:
            ignored.append(f"{name}: {raw or 'nothing'} ({origin})")

    for path, raw in files.matching(_ZONE.format("temp")).items():
        take(files.text(path[: -len("temp")] + "type") or path, raw, "thermal zone")
    for path, raw in files.matching("/sys/class/hwmon/hwmon*/temp*_input").items():
        chip = files.text(path.rpartition("/")[0] + "/name") or path
        if _sensor_kind(chip) != "other":
            take(chip, raw, "hwmon")
    throttled = []
    for path, raw in files.matching(_COOLER.format("cur_state")).items():
        name = files.text(path[: -len("cur_state")] + "type")
        if _SLOWS.search(name) and raw.isdecimal() and int(raw):
            throttled.append(f"{name} at state {int(raw)}")
    counted = {**files.matching(_OVER_CURRENT), **files.matching(_X86_COUNT)}
    counters = {path: int(raw) for path, raw in counted.items() if raw.isdecimal()}
    unreadable = [f"{path}: {why}" for path, why in files.unreadable.items() if "/thermal" in path or "/hwmon" in path]
    if not sensors:
        unreadable.append("no temperature: the device shows none to this user")
    return ThermalState(tuple(sensors), None, tuple(throttled), counters, tuple(ignored), tuple(unreadable))


def _merge_states(first: ThermalState, second: ThermalState) -> ThermalState:
    return ThermalState(
        first.sensors + second.sensors,
        second.status if first.status is None else first.status,
        first.throttled + second.throttled,
        {**first.counters, **second.counters},
        first.ignored + second.ignored,
        first.unreadable + second.unreadable,
    )


def read_thermal(shell: Shell, kind: DeviceKind, files: FileContents | None = None) -> ThermalState:
    """Read temperatures and throttling of a device.

    Args:
        shell: Shell of the device.
        kind: Kind of device, which determines the tools available.
        files: Content of ``THERMAL_FILES`` if they have just been read; ``None`` to read them.

    Raises:
        LinkError: If the device is gone.
    """
    found = parse_thermal_files(files if files is not None else shell.read(*THERMAL_FILES))
    if kind == "android":
        text = shell.output(["dumpsys", "thermalservice"])
        if text and "Temperature{" in text:
            return _merge_states(parse_thermalservice(text), found)
        return _merge_states(
            found, ThermalState(unreadable=("thermalservice does not answer (it came with Android 10)",))
        )
    if kind == "raspberry-pi":
        text = shell.output(["vcgencmd", "get_throttled"])
        try:
            now, since = parse_throttled(text or "")
        except ValueError:
            return _merge_states(
                found, ThermalState(unreadable=("vcgencmd get_throttled does not answer; is the user in video?",))
            )
        return _merge_states(found, ThermalState(throttled=now, counters=since))
    return found


def find_processor_temperature(thermal: ThermalState) -> float:
    """Return the hottest temperature of the processor, else of its chip, degrees Celsius; ``nan`` if unknown."""
    found = thermal.hottest("cpu")
    return found if math.isfinite(found) else thermal.hottest("soc")
