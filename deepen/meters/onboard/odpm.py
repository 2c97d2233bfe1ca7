"""Android on-device power monitor (ODPM): energy counters of a phone's power rails.

Three sources report the same counters, in the order in which they are tried:

* ``/sys/bus/iio/devices/iio:deviceN/energy_value``: lines ``CH0(T=349894)[S10M_VDD_TPU], 5578756``, time in
  milliseconds since boot and energy in microwatt-seconds (AOSP, Pixel's ``IioEnergyMeterDataProvider.cpp``).
* ``dumpsys android.hardware.power.stats.IPowerStats/default``: ``[S10M_VDD_TPU]:TPU   5578.76 mWs``, without a time,
  and rounded to single precision (AOSP, Pixel's ``PowerStatsAidl.cpp``).
* ``dumpsys powerstats``: ``ChannelId: 0, ChannelName: S10M_VDD_TPU, ChannelSubsystem: TPU``, and where it prints
  energies ``ChannelId: 0, Timestamp (ms): 349894, Energy (uWs): 5578756``, from Android 12 on with a duration (AOSP
  ``ProtoStreamUtils.java``). Most versions name the channels here without their energy.

Rail names differ between devices. The sum leaves out regulators that are fed by another rail (``L`` and a number: their
current flows through a converter that may be counted already) and the battery's own channel, which holds all others; it
is the sum of what is monitored, not the whole phone. Charging does not disturb it (Perfetto, battery counters).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepen.errors import ConfigError, MeterError
from deepen.meters.energy_counter import CounterMeter, guard_counter_monotonic
from deepen.meters.onboard.polling import measure_poll_period_s, parse_names
from deepen.meters.onboard.timestamped_counter import TimestampedCounterMeter
from deepen.meters.sensor_files import SensorFiles, read_text_or_empty
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec
from deepen.records import TraceWarning

__all__ = ["DRIVER", "OdpmReading", "parse_energy_value", "parse_hal_dump", "parse_powerstats"]

_POLL_S = 1.0
"""Time between two polls, seconds: Perfetto's default; counters lose nothing in between."""

_UPDATE_S = 0.1
"""Shortest time between polls, seconds: that of Perfetto, as the monitor updates no faster
(``android_power_data_source.cc``)."""

_HAL = "android.hardware.power.stats.IPowerStats/default"

_FED_BY_ANOTHER = re.compile(r"L\d+[A-Z]?(_|$)")
_HOLDS_OTHERS = re.compile(r"VBAT")


@dataclass(frozen=True, slots=True)
class OdpmReading:
    """Counter of a rail at one moment.

    Attributes:
        name: Name of the rail.
        subsystem: The subsystem it feeds, for example ``CPU(BIG)``; empty if not reported.
        energy_j: Energy since boot, joules.
        device_s: Time since boot of that energy, seconds; ``nan`` if not reported.
    """

    name: str
    subsystem: str
    energy_j: float
    device_s: float = math.nan


def parse_energy_value(content: str, enabled_rails: str = "") -> list[OdpmReading]:
    """Parse an ``energy_value`` file, with the subsystems from ``enabled_rails`` (``CH0[S10M_VDD_TPU]:TPU``)."""
    named = re.findall(r"^CH\d+\[([^\]]+)\]:(.+)$", enabled_rails, re.MULTILINE)
    subsystems = {rail: subsystem.strip() for rail, subsystem in named}
    found = re.findall(r"^CH\d+\(T=(\d+)\)\[([^\]]+)\],\s*(\d+)\s*$", content, re.MULTILINE)
    return [OdpmReading(name, subsystems.get(name, ""), int(uws) / 1e6, int(ms) / 1e3) for ms, name, uws in found]


def parse_powerstats(output: str) -> list[OdpmReading]:
    """Parse the output of ``dumpsys powerstats``; empty if it names channels without their energy.

    If a channel is printed more than once (a log), the latest counts.
    """
    infos = {
        number: (name, subsystem.strip())
        for number, name, subsystem in re.findall(
            r"ChannelId: (\d+), ChannelName: ([^,\n]+), ChannelSubsystem: ([^\n]*)$", output, re.MULTILINE
        )
    }
    latest: dict[str, tuple[int, int]] = {}
    for number, ms, uws in re.findall(
        r"(?<!Energy)ChannelId: (\d+), Timestamp \(ms\): (\d+),(?: Duration \(ms\): -?\d+,)? Energy \(uWs\): (\d+)",
        output,
    ):
        latest[number] = max(latest.get(number, (0, 0)), (int(ms), int(uws)))
    return [
        OdpmReading(*infos.get(number, (f"channel {number}", "")), uws / 1e6, ms / 1e3)
        for number, (ms, uws) in latest.items()
    ]


def parse_hal_dump(output: str) -> list[OdpmReading]:
    """Parse the table "energy meter" of the power statistics service's own dump."""
    start = re.search(r"PowerStats HAL [\d.]+ energy meter =+\n", output)
    section = output[start.end() :].partition("= End of")[0] if start else ""
    found = []
    for line in section.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        value = next((k for k, cell in enumerate(cells) if k and re.match(r"\d+\.\d+ mWs", cell)), 0)
        if not value:
            continue
        name = "  ".join(cells[:value])
        tagged = re.fullmatch(r"\[([^\]]+)\]:(.*)", name)
        rail, subsystem = (tagged[1], tagged[2]) if tagged else (name, "")
        found.append(OdpmReading(rail, subsystem, float(cells[value].partition(" ")[0]) / 1e3))
    return found


def _run_dumpsys(files: SensorFiles, service: str) -> str:
    try:
        return files.run(["dumpsys", service]).stdout
    except OSError:
        return ""


def _list_readers(files: SensorFiles) -> list[tuple[str, Callable[[], list[OdpmReading]]]]:
    """List the ways to read the counters, the best first; files without read permission are left out."""
    ways: list[tuple[str, Callable[[], list[OdpmReading]]]] = []
    paths = files.glob("/sys/bus/iio/devices/iio:device*/energy_value")
    if paths:
        rails = [read_text_or_empty(files, path.rpartition("/")[0] + "/enabled_rails") for path in paths]

        def read_files() -> list[OdpmReading]:
            contents = files.read_all(paths)
            return [c for content, r in zip(contents, rails, strict=True) for c in parse_energy_value(content, r)]

        ways.append(("energy_value", read_files))
    ways.append(("power statistics service", lambda: parse_hal_dump(_run_dumpsys(files, _HAL))))
    ways.append(("dumpsys powerstats", lambda: parse_powerstats(_run_dumpsys(files, "powerstats"))))
    return ways


def _find_reader(files: SensorFiles) -> tuple[str, Callable[[], list[OdpmReading]], list[OdpmReading]]:
    for way, read in _list_readers(files):
        try:
            found = read()
        except OSError:
            continue  # not for this user; the services may be
        if found:
            return way, read, found
    if read_text_or_empty(files, "/system/build.prop") or "Channel" in _run_dumpsys(files, "powerstats"):
        raise MeterError(
            "this phone reports no energy of its rails (Pixel 6 and later do)",
            subject="odpm",
            cure="use --meter battery, or an external meter",
        )
    raise MeterError("no power rails here: this is no Android device with an on-device power monitor", subject="odpm")


def choose_rail_names(channels: Sequence[OdpmReading], wanted: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Choose the channels to add up; return their names, and those left out because they feed or are fed by others.

    Args:
        channels: Channels of the device.
        wanted: Rails or subsystems the user named; empty for all parallel ones.

    Raises:
        ConfigError: If a named one does not exist.
    """
    names = [c.name for c in channels]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise MeterError(
            f"there are two rails '{twice}', which cannot be told apart", subject="odpm", cure="use another meter"
        )
    if not wanted:
        left_out = [n for n in names if _FED_BY_ANOTHER.match(n) or _HOLDS_OTHERS.search(n)]
        return [n for n in names if n not in left_out], left_out
    for want in wanted:
        if not any(want in (c.name, c.subsystem) for c in channels):
            known = ", ".join(f"{c.name} ({c.subsystem})" if c.subsystem else c.name for c in channels)
            raise ConfigError(
                f"meter 'odpm:{','.join(wanted)}': there is no rail or subsystem '{want}'", cure=f"found: {known}"
            )
    return [c.name for c in channels if {c.name, c.subsystem} & set(wanted)], []


def _read_selected_rails(read: Callable[[], list[OdpmReading]], names: Sequence[str]) -> list[OdpmReading]:
    try:
        found = {c.name: c for c in read()}
    except OSError as error:
        raise MeterError(
            f"the counters cannot be read any more ({error.strerror or error})", subject="odpm", cure="try again"
        ) from error
    missing = [n for n in names if n not in found]
    if missing:
        raise MeterError(
            f"rail {missing[0]} is missing from the reading",
            subject="odpm",
            cure="see that the device is awake, try again",
        )
    return [found[n] for n in names]


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    way, read, channels = _find_reader(context.files)
    names, left_out = choose_rail_names(channels, parse_names(spec))
    warnings = []
    if not spec.port:
        warnings.append(TraceWarning("trace", f"partial sum: {len(names)} monitored rails, not the whole device"))
    if left_out:
        text = f"rails left out, as they are part of others or hold others: {', '.join(left_out)}"
        warnings.append(TraceWarning("trace", text))
    what = spec.port or f"{len(names)} rails: {'+'.join(names)}"
    poll_s = max(_POLL_S, measure_poll_period_s(lambda: _read_selected_rails(read, names)))
    first = _read_selected_rails(read, names)
    if all(math.isfinite(c.device_s) for c in first):
        return TimestampedCounterMeter(
            "odpm",
            f"odpm {what} ({way})",
            lambda: [(c.device_s, c.energy_j) for c in _read_selected_rails(read, names)],
            update_s=_UPDATE_S,
            resolution_j=1e-6 * math.sqrt(len(names)),
            poll_s=poll_s,
            warnings=warnings,
        )
    # The service prints microwatt-seconds as a float of 24 bits, in steps of 10 microjoules.
    steps_j = [max(1e-5, float(np.spacing(np.float32(c.energy_j * 1e6))) * 1e-6) for c in first]
    step_j = math.hypot(*steps_j)
    return CounterMeter(
        "odpm",
        f"odpm {what} ({way})",
        guard_counter_monotonic(
            lambda: sum(c.energy_j for c in _read_selected_rails(read, names)), "odpm", "the device restarted", step_j
        ),
        update_s=_UPDATE_S,
        resolution_j=step_j,
        poll_s=poll_s,
        warnings=warnings,
    )


def _probe(context: MeterContext) -> Availability:
    try:
        way, _, channels = _find_reader(context.files)
        names, left_out = choose_rail_names(channels)
    except MeterError as error:
        return Availability("odpm", False, "", "measured", error.cause, error.cure)
    detail = f"{len(names)} rails from {way}; not the whole device"
    return Availability("odpm", True, detail + (f"; left out: {', '.join(left_out)}" if left_out else ""), "measured")


DRIVER = Driver("odpm", "power rails of an Android phone (ODPM)", _probe, _open, automatic=True)
