"""Read the state of a Linux machine from ``/sys`` and ``/proc``; missing values stay empty or ``nan``.

:func:`read_state` reads the machine this program runs on, :func:`read_device_state` any device behind a link, with two
or three commands.

Files: ``cpufreq`` (kernel ``admin-guide/pm/cpufreq``: kHz), ``thermal`` and ``hwmon`` (millidegrees Celsius),
``/proc/cpuinfo``, the device tree's ``model``.
"""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

from deepen.devices.state.cpu_policies import POLICY_FILES, average_clock_hz, parse_core_list, parse_cpu_policies
from deepen.devices.state.identity import Identity
from deepen.devices.state.shell_files import FileContents, Shell
from deepen.devices.state.temperatures import (
    THERMAL_FILES,
    THROTTLE_FILES,
    find_processor_temperature,
    parse_thermal_files,
    read_thermal,
)
from deepen.devices.types import DeviceState, ThermalState

__all__ = [
    "get_usable_cores",
    "parse_cpu_model",
    "read_cpu_model",
    "read_device_state",
    "read_small_file",
    "read_state",
]

_CPU_SENSORS = re.compile(r"x86_pkg_temp|cpu|soc|coretemp|k10temp|zenpower|tcpu|cluster|acpitz", re.IGNORECASE)


def read_small_file(path: Path) -> str:
    """Read a small file, stripped; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\x00")
    except OSError:
        return ""


def _read_number(path: Path) -> float:
    try:
        return float(read_small_file(path))
    except ValueError:
        return math.nan


def get_usable_cores() -> tuple[int, ...]:
    """Return the cores that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def read_cpu_model(root: Path = Path("/")) -> str:
    """Read the name of the processor: the board's name first if there is one, then the CPU's."""
    return parse_cpu_model(read_small_file(root / "proc/cpuinfo"), read_small_file(root / "proc/device-tree/model"))


def parse_cpu_model(info: str, board: str) -> str:
    """Return the processor named in ``/proc/cpuinfo``, after the board's name if there is one; empty without either."""
    for key in ("model name", "Model", "Hardware"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", info, re.MULTILINE)
        if found:
            name = found.group(1).strip()
            return f"{board}, {name}" if board and name not in board else board or name
    return board


def _read_frequency_hz(root: Path, cores: tuple[int, ...]) -> float:
    cpus = root / "sys/devices/system/cpu"
    khz = [_read_number(cpus / f"cpu{c}/cpufreq/scaling_cur_freq") for c in cores]
    known = [k for k in khz if math.isfinite(k) and k > 0]
    if known:
        return 1e3 * sum(known) / len(known)
    # Without cpufreq (virtual machines) x86 still reports its clock, in MHz.
    mhz = [
        float(m) for m in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read_small_file(root / "proc/cpuinfo"), re.MULTILINE)
    ]
    chosen = [mhz[c] for c in cores if c < len(mhz)]
    return 1e6 * sum(chosen) / len(chosen) if chosen else math.nan


def _read_temperature_c(root: Path) -> float:
    found: list[float] = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if _CPU_SENSORS.search(read_small_file(zone / "type")):
            found.append(_read_number(zone / "temp") / 1e3)
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _CPU_SENSORS.search(read_small_file(chip / "name")):
            found.extend(_read_number(t) / 1e3 for t in sorted(chip.glob("temp*_input")))
    sane = [t for t in found if math.isfinite(t) and 0 < t < 150]  # an absent sensor reads 0
    return max(sane) if sane else math.nan


def _read_throttling(root: Path) -> ThermalState:
    """Read the causes that slow this machine down now, and its counters of throttling events, without temperatures."""
    paths = (path for pattern in THROTTLE_FILES for path in sorted(root.glob(pattern[1:])))
    found = parse_thermal_files(FileContents({f"/{path.relative_to(root)}": read_small_file(path) for path in paths}))
    return ThermalState(throttled=found.throttled, counters=found.counters)


def read_state(root: Path = Path("/")) -> DeviceState:
    """Read the state of the machine below ``root`` (another root is for tests)."""
    cores = get_usable_cores()
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        load = math.nan
    return DeviceState(
        cpu_model=read_cpu_model(root) or platform.processor(),
        machine=platform.machine(),
        cores=os.cpu_count() or len(cores),
        usable_cores=cores,
        governor=read_small_file(root / f"sys/devices/system/cpu/cpu{cores[0]}/cpufreq/scaling_governor"),
        frequency_hz=_read_frequency_hz(root, cores),
        temperature_c=_read_temperature_c(root),
        load=load,
        thermal=_read_throttling(root),
    )


_PRESENT = "/sys/devices/system/cpu/present"
_STATUS = "/proc/self/status"
_DEVICE_FILES = ("/proc/cpuinfo", "/proc/loadavg", _PRESENT, _STATUS, *POLICY_FILES, *THERMAL_FILES)


def read_device_state(shell: Shell, identity: Identity) -> DeviceState:
    """Read the state of a device.

    Args:
        shell: Shell of the device.
        identity: Its identity.

    Raises:
        LinkError: If the device is gone.
    """
    files = shell.read(*_DEVICE_FILES)
    present = parse_core_list(files.text(_PRESENT))
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", files.text(_STATUS), re.MULTILINE)
    usable = parse_core_list(allowed.group(1)) if allowed else present
    policies = parse_cpu_policies(files)
    thermal = read_thermal(shell, identity.kind, files)
    first = [p.governor for p in policies if usable and usable[0] in p.cores]
    words = files.text("/proc/loadavg").split()
    return DeviceState(
        cpu_model=parse_cpu_model(files.text("/proc/cpuinfo"), identity.model),
        machine=identity.machine,
        cores=len(present) or len(usable),
        usable_cores=usable,
        governor=first[0] if first else "",
        frequency_hz=average_clock_hz(policies, usable),
        temperature_c=find_processor_temperature(thermal),
        load=float(words[0]) if words and re.fullmatch(r"[\d.]+", words[0]) else math.nan,
        policies=policies,
        thermal=thermal,
    )
