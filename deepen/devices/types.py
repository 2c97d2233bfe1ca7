"""What is known about a device: its profile, its power facts, its state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepen.errors import ConfigError

__all__ = ["Completed", "CpuPower", "DeviceProfile", "DeviceState", "Setting"]


@dataclass(frozen=True, slots=True)
class CpuPower:
    """Idle and full-load power of a whole machine: what the ``cpu-model`` power source computes with.

    Attributes:
        id: Class the figures belong to, for example ``x86-server-amd``.
        idle_w: Power with every core idle, watts.
        full_w: Power with every core busy, watts.
        cores: Logical processors these figures stand for.
        source: Where they were published, and what they assume.
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
        """Power one busy core adds, watts."""
        return (self.full_w - self.idle_w) / self.cores

    @property
    def calibration_id(self) -> str:
        """Readable identity of the figures, for ``PowerTrace.calibration_id``."""
        return f"{self.id}: idle {self.idle_w:g} W, full load {self.full_w:g} W, {self.cores} cores"

    def scaled(self, cores: int) -> CpuPower:
        """Scale the figures in proportion to a number of logical processors."""
        share = cores / self.cores
        return CpuPower(self.id, self.idle_w * share, self.full_w * share, cores, self.source)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device as described in ``devices/profiles``.

    Attributes:
        id: Name, and what records carry as ``device``.
        title: One readable line.
        soc: Processor.
        link: How it is reached: ``local`` (others come later).
        meter: Power source to prefer; empty for the best one found.
        runtimes: Runtimes it can run.
        supply_v: Supply voltage for external meters, volts; 0 where not applicable.
        cpu_mask: Cores to run on, one per thread; empty for the last ones.
        governor: CPU governor wanted; empty for any.
        max_temperature_c: Hottest temperature at which results count, degrees Celsius.
        power: Idle and full-load power; ``None`` where unknown.
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

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("a device profile needs an id")
        if any(c < 0 for c in self.cpu_mask) or len(set(self.cpu_mask)) != len(self.cpu_mask):
            raise ConfigError(f"device profile '{self.id}': cpu_mask must list different cores, not {self.cpu_mask}")


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device reports about itself now.

    Attributes:
        cpu_model: Processor as the system names it; empty where unknown.
        machine: Architecture, for example ``x86_64``.
        cores: Logical processors present.
        usable_cores: Cores this process may use.
        governor: CPU governor of the first usable core; empty where unknown.
        frequency_hz: Mean frequency over the usable cores; ``nan`` where unknown.
        temperature_c: Hottest processor sensor; ``nan`` where unknown.
        load: One-minute load average; ``nan`` where unknown.
    """

    cpu_model: str
    machine: str
    cores: int
    usable_cores: tuple[int, ...]
    governor: str = ""
    frequency_hz: float = math.nan
    temperature_c: float = math.nan
    load: float = math.nan


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing ``prepare`` looked at.

    Attributes:
        name: What, for example ``governor``.
        wanted: Value that gives repeatable results.
        actual: Value found; empty where it cannot be read.
        ok: Whether it is as wanted.
        cause: Why not; empty when it is.
        cure: What the user can do; empty when nothing is needed.
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
class Completed:
    """What a command that has ended on a device left.

    Attributes:
        status: Exit status, negative for the signal that ended it; 127 where there is no such program and 126 where it
            may not be run, as shells say it.
        stdout: Standard output.
        stderr: Standard error.
    """

    status: int
    stdout: bytes
    stderr: bytes
