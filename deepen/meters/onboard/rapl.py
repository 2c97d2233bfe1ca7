"""RAPL: the processor's own energy counters, through the Linux powercap interface.

Package domains only (``intel-rapl:N`` named ``package-*``; AMD processors appear under the same name): core, uncore and
dram are inside or beside a package and ``psys`` contains it, so adding them would count energy twice. The counters
are in microjoules, advance about every millisecond, and wrap at ``max_energy_range_uj``
(Linux ``Documentation/power/powercap/powercap.rst``; Intel SDM vol. 3, 15.10). Since the fix of CVE-2020-8694 they
are readable by root alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.meters.energy_counter import CounterMeter, unwrap_counter
from deepen.meters.sensor_files import SensorFiles, read_numbers, read_text_or_empty
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec

__all__ = ["DRIVER", "RaplMeter", "find_packages"]

_UPDATE_S = 1e-3
_POLL_S = 20.0  # far below the fastest wrap: 65 kJ at 1 kW take a minute
_CURE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next boot), or run as root"


_MOST_W = 1500.0
"""Power above that of any processor, watts (the largest are rated at 500 to 600 W); a step implying more was no
wrap."""

_SLACK_J = 20.0
"""Allowance on top of that between two readings in quick succession, joules."""


def find_packages(files: SensorFiles) -> list[str]:
    """Find the folders of the package domains, one per socket."""
    found: dict[str, str] = {}
    for path in files.glob("/sys/class/powercap/intel-rapl:*/name"):
        zone = path.rpartition("/")[0]
        if zone.count(":") != 1:
            continue  # nested: core, uncore, dram
        name = read_text_or_empty(files, path)
        if name.startswith("package"):
            found.setdefault(name, zone)
    return list(found.values())


def _read_zones(files: SensorFiles, zones: Sequence[str], name: str) -> list[int]:
    return [int(value) for value in read_numbers(files, [f"{zone}/{name}" for zone in zones], "rapl", _CURE)]


class RaplMeter(CounterMeter):
    """Sum of the package counters."""

    def __init__(self, files: SensorFiles, zones: Sequence[str]) -> None:
        """Open the counters.

        Args:
            files: The machine.
            zones: Folders of the package domains.

        Raises:
            MeterError: If a counter cannot be read.
        """
        self._files = files
        self._zones = list(zones)
        self._limits = _read_zones(files, zones, "max_energy_range_uj")
        self._last = _read_zones(files, zones, "energy_uj")
        self._last_s = monotonic_s()
        self._total_uj = 0
        names = ",".join(zone.rpartition("/")[2] for zone in zones)
        super().__init__(
            "rapl",
            f"powercap {names} {hashlib.sha256(names.encode()).hexdigest()[:8]}",
            self._unwrapped_j,
            update_s=_UPDATE_S,
            resolution_j=61e-6 * len(zones),  # the default energy unit, 2^-14 J (Intel SDM vol. 3, 15.10.1)
            poll_s=_POLL_S,
        )

    def _unwrapped_j(self) -> float:
        values = _read_zones(self._files, self._zones, "energy_uj")
        now_s = monotonic_s()
        passed_s, self._last_s = now_s - self._last_s, now_s
        before, self._last = self._last, values
        for zone, last, value, limit in zip(self._zones, before, values, self._limits, strict=True):
            used_uj = unwrap_counter(last, value, limit)
            if used_uj > (_MOST_W * passed_s + _SLACK_J) * 1e6:
                raise MeterError(
                    f"{zone} went from {last} to {value} uJ in {passed_s:.3g} s, which is no wrap (the "
                    "counter was reset, as by suspend)",
                    subject="rapl",
                    cure="measure again",
                )
            self._total_uj += used_uj
        return self._total_uj / 1e6

    def start(self) -> None:
        """Begin a trace; changes of the counters since the last one are ignored."""
        self.close()
        self._last = _read_zones(self._files, self._zones, "energy_uj")
        self._last_s = monotonic_s()
        super().start()


def _probe(context: MeterContext) -> Availability:
    files = context.files
    if not files.glob("/sys/class/powercap"):
        cause = "no powercap interface in /sys (a virtual machine, or a processor without RAPL)"
        return Availability(
            "rapl", False, "", "measured", cause, "run on the machine itself; sudo modprobe intel_rapl_msr"
        )
    zones = find_packages(files)
    if not zones:
        cause = "powercap lists no package domain"
        return Availability("rapl", False, "", "measured", cause, "sudo modprobe intel_rapl_msr intel_rapl_common")
    try:
        _read_zones(files, zones, "energy_uj")
    except MeterError as error:
        return Availability("rapl", False, f"{len(zones)} packages", "measured", error.cause, _CURE)
    return Availability("rapl", True, f"{len(zones)} package domain(s)", "measured")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    found = _probe(context)
    if not found.available:
        raise MeterError(f"{found.cause}", subject="rapl", cure=found.cure)
    return RaplMeter(context.files, find_packages(context.files))


DRIVER = Driver("rapl", "processor energy counters (powercap)", _probe, _open, automatic=True)
