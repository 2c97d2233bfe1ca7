"""RAPL: the processor's own energy counters, through the Linux powercap interface.

Package domains only (``intel-rapl:N`` named ``package-*``; AMD processors appear under the same name): core, uncore and
dram lie inside or beside a package and ``psys`` contains it, so adding them would count energy twice. The counters
are in microjoules, advance about every millisecond, and wrap at ``max_energy_range_uj``
(Linux ``Documentation/power/powercap/powercap.rst``; Intel SDM vol. 3, 15.10). Since the fix of CVE-2020-8694 they
are readable by root alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from deepen.errors import MeterError
from deepen.meters.counter import CounterMeter, unwrap
from deepen.meters.types import Availability, Context, Driver, Meter, MeterSpec

__all__ = ["DRIVER", "Rapl", "packages"]

_UPDATE_S = 1e-3
_POLL_S = 20.0  # far below the fastest wrap: 65 kJ at 1 kW take a minute
_CURE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next boot), or run as root"


def _folder(root: Path) -> Path:
    return root / "sys/class/powercap"


def packages(root: Path = Path("/")) -> list[Path]:
    """Folders of the package domains, one per socket."""
    found: dict[str, Path] = {}
    for zone in sorted(_folder(root).glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue  # nested: core, uncore, dram
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if name.startswith("package"):
            found.setdefault(name, zone)
    return list(found.values())


def _read(zone: Path, name: str) -> int:
    try:
        return int((zone / name).read_text(encoding="ascii"))
    except PermissionError as error:
        raise MeterError(f"rapl: no permission to read {zone / name}; {_CURE}") from error
    except (OSError, ValueError) as error:
        raise MeterError(f"rapl: cannot read {zone / name} ({error}); try again") from error


class Rapl(CounterMeter):
    """Sum of the package counters."""

    def __init__(self, zones: list[Path]) -> None:
        """Open the counters.

        Args:
            zones: Package domains.

        Raises:
            MeterError: If a counter cannot be read.
        """
        self._zones = zones
        self._limits = [_read(z, "max_energy_range_uj") for z in zones]
        self._last = [_read(z, "energy_uj") for z in zones]
        self._total_uj = 0
        names = ",".join(z.name for z in zones)
        super().__init__(
            "rapl",
            f"powercap {names} {hashlib.sha256(names.encode()).hexdigest()[:8]}",
            self._unwrapped_j,
            update_s=_UPDATE_S,
            resolution_j=61e-6 * len(zones),  # the default energy unit, 2^-14 J (Intel SDM vol. 3, 15.10.1)
            poll_s=_POLL_S,
        )

    def _unwrapped_j(self) -> float:
        for i, zone in enumerate(self._zones):
            value = _read(zone, "energy_uj")
            self._total_uj += unwrap(self._last[i], value, self._limits[i])
            self._last[i] = value
        return self._total_uj / 1e6


def _probe(context: Context) -> Availability:
    folder = _folder(context.root)
    if not folder.is_dir():
        cause = "no powercap interface in /sys (a virtual machine, or a processor without RAPL)"
        return Availability(
            "rapl", False, "", "measured", cause, "run on the machine itself; sudo modprobe intel_rapl_msr"
        )
    zones = packages(context.root)
    if not zones:
        cause = "powercap lists no package domain"
        return Availability("rapl", False, "", "measured", cause, "sudo modprobe intel_rapl_msr intel_rapl_common")
    try:
        for zone in zones:
            _read(zone, "energy_uj")
    except MeterError as error:
        return Availability("rapl", False, f"{len(zones)} packages", "measured", str(error).split(";", 1)[0], _CURE)
    return Availability("rapl", True, f"{len(zones)} package domain(s)", "measured")


def _open(spec: MeterSpec, context: Context) -> Meter:
    spec.only()
    found = _probe(context)
    if not found.available:
        raise MeterError(f"rapl: {found.cause}; {found.cure}")
    return Rapl(packages(context.root))


DRIVER = Driver("rapl", "processor energy counters (powercap)", _probe, _open, automatic=True)
