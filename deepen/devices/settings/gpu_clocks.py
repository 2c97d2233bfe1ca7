"""Clocks of GPUs under the kernel's devfreq: Jetsons, Mali, Adreno.

Sources: kernel ``Documentation/ABI/testing/sysfs-class-devfreq`` (``governor``, ``available_governors``, ``min_freq``,
``max_freq``, ``available_frequencies``, in hertz); Qualcomm's ``kgsl`` driver keeps the same folder below
``/sys/class/kgsl/kgsl-3d0/devfreq``. A devfreq device is recognised as a GPU by its name: Tegra ``57000000.gpu``,
``17000000.gv11b``, ``17000000.ga10b``; ``13000000.mali``; ``3d00000.qcom,kgsl-3d0``. GPUs whose driver has its own
clock control (Google Tensor, MediaTek's ``/proc/gpufreq``) have no such folder, which the settings report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepen.devices.settings.access import SettingLocation
from deepen.devices.settings.setting_plan import PlanningContext, SettingPlan, SettingStep

__all__ = ["GpuClock", "list_gpu_clock_files", "plan_gpu_clock", "plan_gpu_governor", "read_gpus"]

_CLASS = "/sys/class/devfreq"
_KGSL = "/sys/class/kgsl/kgsl-3d0/devfreq"
_FILES = ("governor", "available_governors", "cur_freq", "min_freq", "max_freq", "available_frequencies")
_SET = ("governor", "min_freq", "max_freq")
_GPU = re.compile(r"gpu|mali|kgsl|gp10b|gv11b|ga10b|gb10b", re.IGNORECASE)
_NEAR = 0.05
_NONE = "the device shows no GPU clock (no /sys/class/devfreq with a GPU in it, and no kgsl)"


@dataclass(frozen=True, slots=True)
class GpuClock:
    """A GPU's clock.

    Attributes:
        folder: Its folder in ``/sys``.
        governor: Governor that chooses the clock; empty if unreadable.
        governors: Governors available.
        current_hz: Clock now, hertz; ``nan`` where unknown, as for the limits.
        min_hz: Lowest clock allowed now, hertz.
        max_hz: Highest clock allowed now, hertz.
        steps_hz: Clocks available, ascending, hertz; empty where the kernel does not list them.
    """

    folder: str
    governor: str
    governors: tuple[str, ...]
    current_hz: float
    min_hz: float
    max_hz: float
    steps_hz: tuple[float, ...]


def read_gpus(context: PlanningContext) -> list[GpuClock]:
    """Read the clocks of the device's GPUs.

    Raises:
        LinkError: If the device is gone.
    """
    patterns = [f"{folder}/{name}" for folder in (f"{_CLASS}/*", _KGSL) for name in _FILES]
    content = context.shell.read(*patterns, root=True).content
    texts: dict[str, dict[str, str]] = {}
    for path, text in content.items():
        folder, _, name = path.rpartition("/")
        if folder == _KGSL or _GPU.search(folder.rpartition("/")[2]):
            texts.setdefault(folder, {})[name] = text.strip()
    if any(folder != _KGSL for folder in texts):  # the same one under another name
        texts.pop(_KGSL, None)
    return [_parse_gpu_clock(folder, found) for folder, found in sorted(texts.items())]


def _parse_gpu_clock(folder: str, texts: Mapping[str, str]) -> GpuClock:
    steps = sorted(
        {hz for word in texts.get("available_frequencies", "").split() if math.isfinite(hz := _parse_hertz(word))}
    )
    return GpuClock(
        folder,
        texts.get("governor", ""),
        tuple(texts.get("available_governors", "").split()),
        _parse_hertz(texts.get("cur_freq", "")),
        _parse_hertz(texts.get("min_freq", "")),
        _parse_hertz(texts.get("max_freq", "")),
        tuple(steps),
    )


def _parse_hertz(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,12}", text) and int(text) > 0 else math.nan


def list_gpu_clock_files(context: PlanningContext) -> list[str]:
    """List the files that a power mode may change, so that they are restored with it."""
    return [f"{gpu.folder}/{name}" for gpu in read_gpus(context) for name in _SET]


def plan_gpu_governor(context: PlanningContext, wanted: str) -> SettingPlan:
    """Plan the steps that set the GPU governor."""
    gpus = read_gpus(context)
    lacking = [g for g in gpus if g.governors and wanted not in g.governors]
    if not gpus:
        return SettingPlan(cause=_NONE)
    if lacking:
        return SettingPlan(
            cause=f"{_gpu_name(lacking[0])} has no governor {wanted}; it has {', '.join(lacking[0].governors)}"
        )
    return SettingPlan(tuple(SettingStep(SettingLocation("file", f"{g.folder}/governor"), wanted) for g in gpus))


def plan_gpu_clock(context: PlanningContext, wanted: Any) -> SettingPlan:
    """Plan the steps that set both limits to one clock."""
    gpus = read_gpus(context)
    if not gpus:
        return SettingPlan(cause=_NONE)
    steps: list[SettingStep] = []
    for gpu in gpus:
        hz = _target_hz(gpu, wanted)
        if not math.isfinite(hz):
            return SettingPlan(cause=f"{_gpu_name(gpu)} does not list its clocks", cure="name one in hertz")
        if isinstance(wanted, float) and abs(hz / wanted - 1) > _NEAR:
            steps_mhz = ", ".join(f"{step / 1e6:g}" for step in gpu.steps_hz)
            return SettingPlan(cause=f"{_gpu_name(gpu)} has no clock near {wanted / 1e6:g} MHz; it has {steps_mhz} MHz")
        # A lower limit above the upper one is refused, so the limit that makes room is set first.
        order = ("max_freq", "min_freq") if not hz < gpu.min_hz else ("min_freq", "max_freq")
        steps += [SettingStep(SettingLocation("file", f"{gpu.folder}/{name}"), str(round(hz))) for name in order]
    return SettingPlan(tuple(steps))


def _target_hz(gpu: GpuClock, wanted: Any) -> float:
    if wanted == "max":
        return max(gpu.steps_hz, default=math.nan)
    if wanted == "min":
        return min(gpu.steps_hz, default=math.nan)
    return min(gpu.steps_hz, key=lambda hz: abs(hz - wanted), default=float(wanted))


def _gpu_name(gpu: GpuClock) -> str:
    return gpu.folder.removesuffix("/devfreq").rpartition("/")[2]
