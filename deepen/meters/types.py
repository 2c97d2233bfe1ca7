"""Protocol of a power source, its specification, and its driver."""

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
"""Scope of a meter: the whole machine with everything that runs on it, or the worker process alone."""


@runtime_checkable
class Meter(Protocol):
    """A power source.

    Attributes:
        id: Name, and the value of ``meter`` in records.
        source: measured, modelled or simulated.
        calibration_id: Name of the calibration or power figures that apply.
        scope: ``machine``, or ``process`` if only the worker's activity counts.
        update_s: Time between two updates of the sensor, seconds; 0 if every sample is fresh.
        resolution_j: Smallest step of energy of the sensor, joules; 0 if it has none.
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
        """Receive the interval of runs between the last two marks; a modelled source uses it, a sensor ignores it."""

    def stop(self) -> PowerTrace:
        """Take the last sample and return the trace since :meth:`start`.

        Raises:
            MeterError: If samples are missing.
        """

    def close(self) -> None:
        """Release the source."""


@runtime_checkable
class MachinePower(Protocol):
    """Idle and full-load power of a machine (``deepen.devices.CpuPower`` is one).

    Attributes:
        idle_w: Power with every core idle, watts.
        per_core_w: Power that one busy core adds, watts.
        calibration_id: Readable identifier of the figures.
        source: Publication of the figures.
    """

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
        name: Name of the driver.
        port: Port or address of the source; empty for the default.
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
            raise ConfigError(f"meter '{text}' has no name", cure="write NAME[:PORT][?key=value]")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError as error:
            raise ConfigError(f"meter '{text}': options are written ?key=value&key=value") from error
        return cls(name, port, dict(pairs))

    def only(self, *allowed: str) -> None:
        """Refuse options that a driver does not know.

        Raises:
            ConfigError: Naming the first unknown option.
        """
        for key in self.options:
            if key not in allowed:
                known = ", ".join(allowed) or "none"
                raise ConfigError(f"meter '{self.name}' has no option '{key}'", cure=f"it takes: {known}")


@dataclass(frozen=True, slots=True)
class MeterContext:
    """Facts about the machine and the run that drivers may need.

    Attributes:
        power: Power figures of the machine, for the modelled source.
        pid: Returns the worker's process id (``None`` while there is none); without it the whole machine counts.
        root: Folder that holds ``/sys`` and ``/proc``; another root is for tests.
        link: Files and commands of the device if it is not this machine, else ``None``.
    """

    power: MachinePower | None = None
    pid: Callable[[], int | None] | None = None
    root: Path = Path("/")
    link: SensorFiles | None = None

    @property
    def files(self) -> SensorFiles:
        """Files and commands of the machine with the on-board sensors."""
        return self.link or LocalFiles(self.root)


@dataclass(frozen=True, slots=True)
class DetectedInstrument:
    """An instrument that is plugged in.

    Attributes:
        port: Its port, as written after the driver's name.
        serial: Its serial number, which can be written there as well; empty if it reports none.
        product: Its own name of its product.
    """

    port: str
    serial: str
    product: str = ""


@dataclass(frozen=True, slots=True)
class Availability:
    """Availability of a source on this machine.

    Attributes:
        name: Name of the driver.
        available: True if it can be opened now.
        detail: Description of the source found.
        source: Label of its samples.
        cause: Reason it is not available; empty if it is.
        cure: Cure for that; empty if there is none or none is needed.
        found: The instruments plugged in, if there can be several.
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
        name: Its name in ``--meter``.
        title: A description in one line.
        probe: Returns the availability of the source here.
        open: Opens it; raises ``MeterError`` with cause and cure when it does not answer.
        automatic: True if it may be chosen without being named (in the registry's order).
    """

    name: str
    title: str
    probe: Callable[[MeterContext], Availability]
    open: Callable[[MeterSpec, MeterContext], Meter]
    automatic: bool = False
