"""What a power source must be able to do, and how one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from deepen.errors import ConfigError
from deepen.meters.sensor_files import LocalFiles, SensorFiles
from deepen.records import Interval, PowerTrace, Source

__all__ = [
    "Availability",
    "DetectedInstrument",
    "Driver",
    "MachinePower",
    "Meter",
    "MeterContext",
    "MeterSpec",
    "Scope",
]

Scope = Literal["machine", "process"]
"""What a meter sees: the whole machine with everything that runs on it, or the worker process alone."""


@runtime_checkable
class Meter(Protocol):
    """A power source.

    Attributes:
        id: Name, and what records carry as ``meter``.
        source: measured, modelled or simulated.
        calibration_id: Which calibration or power figures apply.
        scope: ``machine``, or ``process`` where only the worker's activity counts.
        update_s: Time between two updates of the sensor, seconds; 0 where every sample is fresh.
        resolution_j: Smallest step of energy the sensor tells, joules; 0 where it has none.
    """

    id: str
    source: Source
    calibration_id: str
    scope: Scope
    update_s: float
    resolution_j: float

    def start(self) -> None:
        """Begin a trace and take its first sample.

        Raises:
            MeterError: If the source does not answer.
        """

    def mark(self) -> None:
        """Take a sample now; called at both edges of every block, so that counters are read where it matters."""

    def observe(self, interval: Interval) -> None:
        """Tell the meter what ran between the last two marks; a modelled source uses it, a sensor ignores it."""

    def stop(self) -> PowerTrace:
        """Take the last sample and return the trace since :meth:`start`.

        Raises:
            MeterError: If samples are missing.
        """

    def close(self) -> None:
        """Release the source."""


@runtime_checkable
class MachinePower(Protocol):
    """Idle and full-load power of a machine (``deepen.devices.CpuPower`` is one)."""

    @property
    def idle_w(self) -> float: ...  # noqa: D102

    @property
    def per_core_w(self) -> float: ...  # noqa: D102

    @property
    def calibration_id(self) -> str: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class MeterSpec:
    """A parsed ``NAME[:PORT][?key=value]``.

    Attributes:
        name: Driver.
        port: Where it is connected; empty where there is nothing to choose.
        options: Options after the question mark.
    """

    name: str
    port: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> MeterSpec:
        """Parse a specification.

        Raises:
            ConfigError: If it has no name or an option has no value.
        """
        head, _, query = text.partition("?")
        name, _, port = head.partition(":")
        if not name:
            raise ConfigError(f"meter '{text}' has no name; write NAME[:PORT][?key=value]")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError as error:
            raise ConfigError(f"meter '{text}': options are written ?key=value&key=value") from error
        return cls(name, port, dict(pairs))

    def only(self, *allowed: str) -> None:
        """Refuse options a driver does not know.

        Raises:
            ConfigError: Naming the first unknown option.
        """
        for key in self.options:
            if key not in allowed:
                known = ", ".join(allowed) or "none"
                raise ConfigError(f"meter '{self.name}' has no option '{key}'; it takes: {known}")


@dataclass(frozen=True, slots=True)
class MeterContext:
    """What drivers may need from their surroundings.

    Attributes:
        power: Power figures of the machine, for the modelled source.
        pid: Tells the worker's process id (``None`` while there is none); without it the whole machine counts.
        root: Where ``/sys`` and ``/proc`` are; another root is for tests.
        link: Files and commands of the device where it is not this machine; ``None`` where it is.
    """

    power: MachinePower | None = None
    pid: Callable[[], int | None] | None = None
    root: Path = Path("/")
    link: SensorFiles | None = None

    @property
    def files(self) -> SensorFiles:
        """Files and commands of the machine the on-board sensors sit in."""
        return self.link or LocalFiles(self.root)


@dataclass(frozen=True, slots=True)
class DetectedInstrument:
    """An instrument that is plugged in.

    Attributes:
        port: Where: what can be written after the driver's name.
        serial: Its serial number, which can be written there as well; empty where it tells none.
        product: What it calls itself.
    """

    port: str
    serial: str
    product: str = ""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a source exists here.

    Attributes:
        name: Driver.
        available: Whether it can be opened now.
        detail: What was found.
        source: Label its numbers will carry.
        cause: Why it is not available; empty if it is.
        cure: What to do about it; empty if nothing helps or is needed.
        found: The instruments plugged in, where there can be several.
    """

    name: str
    available: bool
    detail: str
    source: Source
    cause: str = ""
    cure: str = ""
    found: tuple[DetectedInstrument, ...] = ()


@dataclass(frozen=True, slots=True)
class Driver:
    """One kind of power source; every driver module exports one as ``DRIVER``.

    Attributes:
        name: What ``--meter`` takes.
        title: One readable line.
        probe: Looks whether the source exists here.
        open: Opens it; raises ``MeterError`` with cause and cure when it does not answer.
        automatic: Whether it is chosen without being asked for (in the registry's order).
    """

    name: str
    title: str
    probe: Callable[[MeterContext], Availability]
    open: Callable[[MeterSpec, MeterContext], Meter]
    automatic: bool = False
