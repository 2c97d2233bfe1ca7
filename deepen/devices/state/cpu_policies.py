"""Groups of cores that share a clock (kernel ``admin-guide/pm/cpufreq``: kilohertz)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from deepen.devices.state.shell_files import FileContents
from deepen.devices.types import CpuPolicy

__all__ = ["POLICY_FILES", "average_clock_hz", "get_policy_path", "parse_core_list", "parse_cpu_policies"]

_FOLDER = "/sys/devices/system/cpu/cpufreq"
_NAMES = (
    "related_cpus",
    "scaling_governor",
    "scaling_available_governors",
    "scaling_available_frequencies",
    "scaling_boost_frequencies",
    "scaling_cur_freq",
    "scaling_min_freq",
    "scaling_max_freq",
    "cpuinfo_min_freq",
    "cpuinfo_max_freq",
)

POLICY_FILES = tuple(f"{_FOLDER}/policy*/{name}" for name in _NAMES)
"""Files that :func:`parse_cpu_policies` reads."""


def get_policy_path(policy: str, name: str) -> str:
    """Return the path of a policy's file.

    Args:
        policy: ``policy4``.
        name: For example ``scaling_governor``.
    """
    return f"{_FOLDER}/{policy}/{name}"


def parse_core_list(text: str) -> tuple[int, ...]:
    """Parse a list of cores as the kernel writes it, ``0-3,6`` or ``0 1 2``; empty if it is not one."""
    found: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match:
            found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(found)


def parse_cpu_policies(files: FileContents) -> tuple[CpuPolicy, ...]:
    """Parse the policies from files read with ``POLICY_FILES``, in the order of their numbers."""
    found = []
    for path in files.matching(f"{_FOLDER}/policy*/scaling_governor"):
        folder = path.rpartition("/")[0]

        def hz(name: str, folder: str = folder) -> float:
            return _hz(files.text(f"{folder}/{name}"))

        words = [files.text(f"{folder}/scaling_{name}_frequencies").split() for name in ("available", "boost")]
        steps = sorted({f for f in map(_hz, [*words[0], *words[1]]) if math.isfinite(f)})
        found.append(
            CpuPolicy(
                name=folder.rpartition("/")[2],
                cores=parse_core_list(files.text(f"{folder}/related_cpus")),
                governor=files.text(path),
                governors=tuple(files.text(f"{folder}/scaling_available_governors").split()),
                current_hz=hz("scaling_cur_freq"),
                min_hz=hz("scaling_min_freq"),
                max_hz=hz("scaling_max_freq"),
                hardware_min_hz=hz("cpuinfo_min_freq"),
                hardware_max_hz=hz("cpuinfo_max_freq"),
                steps_hz=tuple(steps),
            )
        )
    return tuple(found)


def _hz(khz: str) -> float:
    return 1e3 * int(khz) if khz.isdecimal() else math.nan


def average_clock_hz(policies: Sequence[CpuPolicy], cores: Sequence[int]) -> float:
    """Return the mean clock of cores, hertz; ``nan`` if none is known."""
    known = [p.current_hz for p in policies for c in p.cores if c in cores and math.isfinite(p.current_hz)]
    return sum(known) / len(known) if known else math.nan
