"""Types that describe a device: its profile, its power figures, its state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepen.errors import ConfigError

__all__ = [
    "SENSOR_KINDS",
    "CompletedCommand",
    "CoreCluster",
    "CpuPolicy",
    "CpuPower",
    "DeviceFact",
    "DeviceProfile",
    "DeviceState",
    "PowerRail",
    "RecognitionRule",
    "SettingStatus",
    "TemperatureReading",
    "ThermalState",
]


@dataclass(frozen=True, slots=True)
class CpuPower:
    """Idle and full-load power of a whole machine, from which the power source ``cpu-model`` computes.

    Attributes:
        id: Class the figures belong to, for example ``x86-server-amd``.
        idle_w: Power with every core idle, watts.
        full_w: Power with every core busy, watts.
        cores: Number of logical processors these figures stand for.
        source: Publication of the figures, and their assumptions.
    """

    id: str
    idle_w: float
    full_w: float
    cores: int
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.full_w) and 0 <= self.idle_w < self.full_w):
            raise ConfigError(f"power figures of '{self.id}' need 0 <= idle_w < full_w; correct its profile")
        if self.cores < 1 or not self.source:
            raise ConfigError(f"power figures of '{self.id}' need cores >= 1 and a source; correct its profile")

    @property
    def per_core_w(self) -> float:
        """Power that one busy core adds, watts."""
        return (self.full_w - self.idle_w) / self.cores

    @property
    def calibration_id(self) -> str:
        """Readable identifier of the figures, for ``PowerTrace.calibration_id``."""
        return f"{self.id}: idle {self.idle_w:g} W, full load {self.full_w:g} W, {self.cores} cores"

    def scaled(self, cores: int) -> CpuPower:
        """Scale the figures in proportion to a number of logical processors."""
        share = cores / self.cores
        return CpuPower(self.id, self.idle_w * share, self.full_w * share, cores, self.source)


@dataclass(frozen=True, slots=True)
class DeviceFact:
    """A fact about a device, with its source.

    Attributes:
        name: Its subject, for example ``soc`` or ``quirk``.
        value: The fact itself.
        source: Paper, data sheet, page or file that states it.
    """

    name: str
    value: str
    source: str

    def __post_init__(self) -> None:
        if not (self.name.strip() and self.value.strip() and self.source.strip()):
            raise ConfigError(
                f"the fact '{self.name}' needs a name, a value and a source; nothing is known without one"
            )


@dataclass(frozen=True, slots=True)
class CoreCluster:
    """Cores of one kind.

    Attributes:
        core: Core design, for example ``Cortex-A76``.
        count: Number of cores.
        max_hz: Highest clock, hertz; 0 if no source states it.
        source: Its source.
    """

    core: str
    count: int
    max_hz: float
    source: str

    def __post_init__(self) -> None:
        if not (self.core and self.source and self.count > 0 and (self.max_hz == 0 or 1e8 <= self.max_hz < 1e10)):
            raise ConfigError(f"cluster '{self.core}' needs a core, a count, max_hz in hertz and a source")


@dataclass(frozen=True, slots=True)
class PowerRail:
    """A supply rail whose power the device measures itself.

    Attributes:
        name: Its name on the device.
        what: The parts it feeds.
        source: Its source.
    """

    name: str
    what: str
    source: str

    def __post_init__(self) -> None:
        if not (self.name and self.what and self.source):
            raise ConfigError(f"rail '{self.name}' needs a name, what it feeds, and a source")


@dataclass(frozen=True, slots=True)
class RecognitionRule:
    """A rule by which a connected device is recognised as the one a profile describes.

    Attributes:
        models: Its model names: ``ro.product.model`` of Android.
        codenames: Its board names: ``ro.product.device`` of Android.
        device_tree: Regular expression for the device tree's ``model``; empty for none.
    """

    models: tuple[str, ...] = ()
    codenames: tuple[str, ...] = ()
    device_tree: str = ""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device as described in ``devices/profiles``.

    Attributes:
        id: Its name, and the value of ``device`` in records.
        title: A description in one line.
        soc: Processor.
        link: Link that reaches it: ``local``, ``adb`` or ``ssh``.
        meter: Power source to prefer; empty for the best one found.
        runtimes: Runtimes it can run.
        supply_v: Supply voltage for external meters, volts; 0 where not applicable.
        cpu_mask: Cores to run on, one per thread; empty for the last ones.
        governor: CPU governor wanted; empty for any.
        max_temperature_c: Highest temperature at which results count, degrees Celsius.
        power: Idle and full-load power; ``None`` where unknown.
        address: Serial number or host it is reached at; empty for the only one that is connected.
        prepare: Settings to measure under, by name (see ``deepen.devices.settings.catalogue``); empty changes nothing.
        cool_to_c: Temperature at which a measurement may begin, by kind of sensor, degrees Celsius.
        clusters: Its cores.
        rails: Supply rails it measures itself.
        facts: Further facts, each with its source.
        identify: Rule by which it is recognised.
    """

    id: str
    title: str = ""
    soc: str = ""
    link: str = "local"
    meter: str = ""
    runtimes: tuple[str, ...] = ("onnxruntime",)
    supply_v: float = 0.0
    cpu_mask: tuple[int, ...] = ()
    governor: str = ""
    max_temperature_c: float = math.inf
    power: CpuPower | None = None
    address: str = ""
    prepare: Mapping[str, Any] = field(default_factory=dict)
    cool_to_c: Mapping[str, float] = field(default_factory=dict)
    clusters: tuple[CoreCluster, ...] = ()
    rails: tuple[PowerRail, ...] = ()
    facts: tuple[DeviceFact, ...] = ()
    identify: RecognitionRule = RecognitionRule()

    @property
    def wanted(self) -> dict[str, Any]:
        """Settings to measure under: ``prepare``, and the governor where it names none."""
        return {**({"governor": self.governor} if self.governor else {}), **self.prepare}

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("a device profile needs an id")
        for kind, limit in self.cool_to_c.items():
            if kind not in SENSOR_KINDS or not 0 < limit < 150:
                known = ", ".join(SENSOR_KINDS)
                raise ConfigError(
                    f"device profile '{self.id}': cool_to_c needs 0 to 150 for {known}, not {kind} = {limit}"
                )
        if any(c < 0 for c in self.cpu_mask) or len(set(self.cpu_mask)) != len(self.cpu_mask):
            raise ConfigError(f"device profile '{self.id}': cpu_mask must list different cores, not {self.cpu_mask}")


SENSOR_KINDS = ("cpu", "gpu", "npu", "skin", "battery", "soc", "other")
"""Locations of temperature sensors; ``soc`` is anywhere on the chip."""


@dataclass(frozen=True, slots=True)
class TemperatureReading:
    """A temperature read from one sensor.

    Attributes:
        name: The device's name for the sensor.
        kind: One of ``SENSOR_KINDS``.
        temperature_c: Degrees Celsius.
        origin: Source of the reading: ``thermal zone``, ``hwmon``, ``thermalservice`` or ``vcgencmd``.
    """

    name: str
    kind: str
    temperature_c: float
    origin: str


@dataclass(frozen=True, slots=True)
class ThermalState:
    """Temperatures and throttling of a device.

    Attributes:
        sensors: Every plausible temperature.
        status: Android's thermal status, 0 (none) to 6 (shutdown); ``None`` where there is none.
        throttled: Causes that slow it down now, in words; empty if none.
        counters: Throttling events, counted by the device since it started.
        ignored: Sensors with an implausible value, and the reason.
        unreadable: Sources that could not be read, and the reason: an empty ``throttled`` does not cover these.
    """

    sensors: tuple[TemperatureReading, ...] = ()
    status: int | None = None
    throttled: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def hottest(self, *kinds: str) -> float:
        """Return the highest temperature of these kinds of sensors (default: all), degrees Celsius; ``nan`` if none."""
        return max((s.temperature_c for s in self.sensors if not kinds or s.kind in kinds), default=math.nan)


@dataclass(frozen=True, slots=True)
class CpuPolicy:
    """A group of cores that share a clock, with the clock's limits.

    Attributes:
        name: ``policy`` and the number of its first core, as the kernel names it.
        cores: The cores of the group.
        governor: Governor that chooses the clock.
        governors: Governors available.
        current_hz: Clock now, hertz; ``nan`` where unknown.
        min_hz: Lowest clock allowed now, hertz.
        max_hz: Highest clock allowed now, hertz.
        hardware_min_hz: Lowest clock of the hardware, hertz.
        hardware_max_hz: Highest clock of the hardware, hertz.
        steps_hz: Clocks available, ascending, hertz; empty where the kernel does not list them.
    """

    name: str
    cores: tuple[int, ...]
    governor: str
    governors: tuple[str, ...] = ()
    current_hz: float = math.nan
    min_hz: float = math.nan
    max_hz: float = math.nan
    hardware_min_hz: float = math.nan
    hardware_max_hz: float = math.nan
    steps_hz: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceState:
    """State that a device reports about itself now.

    Attributes:
        cpu_model: Processor as the system names it; empty where unknown.
        machine: Architecture, for example ``x86_64``.
        cores: Logical processors present.
        usable_cores: Cores this process may use.
        governor: CPU governor of the first usable core; empty where unknown.
        frequency_hz: Mean frequency over the usable cores; ``nan`` where unknown.
        temperature_c: Hottest processor sensor; ``nan`` where unknown.
        load: One-minute load average; ``nan`` where unknown.
        policies: Groups of cores that share a clock.
        thermal: Temperatures and throttling; ``None`` if not requested.
    """

    cpu_model: str
    machine: str
    cores: int
    usable_cores: tuple[int, ...]
    governor: str = ""
    frequency_hz: float = math.nan
    temperature_c: float = math.nan
    load: float = math.nan
    policies: tuple[CpuPolicy, ...] = ()
    thermal: ThermalState | None = None


@dataclass(frozen=True, slots=True)
class SettingStatus:
    """One setting that ``prepare`` checked.

    Attributes:
        name: Its name, for example ``governor``.
        wanted: Value that gives repeatable results.
        actual: Value found; empty where it cannot be read.
        ok: True if it is as wanted.
        cause: Reason it is not; empty if it is.
        cure: Action for the user; empty if none is needed.
        details: Further facts.
    """

    name: str
    wanted: str
    actual: str
    ok: bool
    cause: str = ""
    cure: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """Exit status and output of a command that has ended on a device.

    Attributes:
        status: Exit status, negative for the signal that ended it; as in shells, 127 if there is no such program and
            126 if it may not be run.
        stdout: Standard output.
        stderr: Standard error.
    """

    status: int
    stdout: bytes
    stderr: bytes
