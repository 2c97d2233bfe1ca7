"""The machine deepen runs on, as a device."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.devices.links.local import LocalLink
from deepen.devices.profiles import load_profile
from deepen.devices.state.read_state import read_state
from deepen.devices.types import DeviceProfile, DeviceState, SettingStatus
from deepen.errors import ConfigError
from deepen.registry import Registry

if TYPE_CHECKING:
    from deepen.devices.protocols import Link, Runtime

__all__ = ["DELEGATES", "RUNTIMES", "LocalDevice", "open_runtime"]

RUNTIMES: Registry[Any] = Registry(
    "runtime",
    {
        "benchmark_model": "deepen.devices.runtimes.benchmark_model:BenchmarkModel",
        "benchmark_model-gpu": "deepen.devices.runtimes.benchmark_model:BenchmarkModelGpu",
        "benchmark_model-hexagon": "deepen.devices.runtimes.benchmark_model:BenchmarkModelHexagon",
        "benchmark_model-nnapi": "deepen.devices.runtimes.benchmark_model:BenchmarkModelNnapi",
        "crunner": "deepen.devices.runtimes.c_runner.runtime:COnnxRuntime",
        "crunner-litert": "deepen.devices.runtimes.c_runner.runtime:CLiteRuntime",
        "litert": "deepen.devices.runtimes.python_runner:LiteRt",
        "onnxruntime": "deepen.devices.runtimes.python_runner:OnnxRuntime",
        "perf_test": "deepen.devices.runtimes.perf_test:PerfTest",
        "perf_test-cuda": "deepen.devices.runtimes.perf_test:PerfTestCuda",
        "perf_test-nnapi": "deepen.devices.runtimes.perf_test:PerfTestNnapi",
        "perf_test-tensorrt": "deepen.devices.runtimes.perf_test:PerfTestTensorrt",
        "perf_test-xnnpack": "deepen.devices.runtimes.perf_test:PerfTestXnnpack",
        "trtexec": "deepen.devices.runtimes.trtexec:TrtExec",
        "trtexec-dla": "deepen.devices.runtimes.trtexec:TrtExecDla",
    },
    group="deepen.runtimes",
)
"""Runtime name -> ``module:class``; the class takes ``(link, cpu_mask=...)``."""

DELEGATES: dict[str, str] = {
    name: name.rpartition("-")[0]
    for name in RUNTIMES.ours
    if name.rpartition("-")[0] in RUNTIMES.ours and name != "crunner-litert"
}
"""Runtime name with an accelerator, for example ``benchmark_model-gpu`` -> the runtime it is a variant of."""

_STEADY = ("performance", "userspace")
_BUSY_LOAD = 0.5


def open_runtime(link: Link, profile: DeviceProfile, name: str, cpu_mask: Sequence[int] | None) -> Runtime:
    """Open a runtime that a profile lists; a variant with an accelerator is listed under its plain runtime.

    Args:
        link: Link to the device.
        profile: Profile of the device.
        name: Name of the runtime.
        cpu_mask: Cores to run on; ``None`` for the profile's.

    Raises:
        ConfigError: If there is no such runtime or the profile does not list it.
    """
    RUNTIMES.check_name(name)
    if name not in profile.runtimes and DELEGATES.get(name, name) not in profile.runtimes:
        raise ConfigError(
            f"device '{profile.id}' has no runtime '{name}'", cure=f"it lists {', '.join(profile.runtimes)}"
        )
    opened: Runtime = RUNTIMES.load(name)(link, cpu_mask=tuple(profile.cpu_mask if cpu_mask is None else cpu_mask))
    return opened


class LocalDevice:
    """The host itself."""

    def __init__(self, profile_name: str = "local", *, root: Path = Path("/")) -> None:
        """Read the profile and the machine.

        Args:
            profile_name: A profile whose link is ``local``.
            root: Folder that holds ``/sys`` and ``/proc``; another root is for tests.

        Raises:
            ConfigError: If the profile is wrong.
        """
        self._root = root
        self._link = LocalLink()
        self._profile = load_profile(profile_name, read_state(root))
        self._runtimes: list[Runtime] = []

    @property
    def profile(self) -> DeviceProfile:
        """Profile of this machine."""
        return self._profile

    @property
    def link(self) -> LocalLink:
        """Link to this machine."""
        return self._link

    def state(self) -> DeviceState:
        """Read temperatures, frequencies and load."""
        return read_state(self._root)

    def prepare(self) -> tuple[SettingStatus, ...]:
        """Check the settings that make results repeatable; nothing is changed, so nothing has to be restored."""
        state = self.state()
        return (
            self._check_affinity(state),
            self._check_governor(state),
            self._check_temperature(state),
            self._check_load(state),
        )

    def runtime(self, name: str = "onnxruntime", cpu_mask: Sequence[int] | None = None) -> Runtime:
        """Open a runtime.

        Args:
            name: Name of the runtime.
            cpu_mask: Cores to run on, one per thread; ``None`` for the profile's, else the last usable ones.

        Raises:
            ConfigError: If there is no such runtime or the profile does not list it.
        """
        if sys.platform == "win32":
            raise ConfigError("measuring on this machine needs Linux or macOS", cure="prediction works on Windows")
        opened = open_runtime(self._link, self._profile, name, cpu_mask)
        self._runtimes.append(opened)
        return opened

    def worker_pid(self) -> int | None:
        """Process id of the worker opened last; ``None`` where none runs."""
        return next((r.pid for r in reversed(self._runtimes) if r.pid is not None), None)

    def close(self) -> None:
        """End every worker."""
        while self._runtimes:
            self._runtimes.pop().close()
        self._link.close()

    def _check_affinity(self, state: DeviceState) -> SettingStatus:
        usable = list(state.usable_cores)
        text = f"{len(usable)} of {state.cores} cores usable"
        if not hasattr(os, "sched_setaffinity"):
            return SettingStatus(
                "affinity", "threads pinned", "not available", False,
                "this system cannot pin a process to cores", "measure on Linux for repeatable results",
            )  # fmt: skip
        return SettingStatus("affinity", "threads pinned", text, True, details={"usable_cores": usable})

    def _check_governor(self, state: DeviceState) -> SettingStatus:
        wanted = self._profile.governor or "performance"
        if not state.governor:
            cause = "no cpufreq in /sys (a virtual machine, or a kernel without it)"
            return SettingStatus(
                "governor", wanted, "", True, cause, "nothing to set; frequency is the host's to decide"
            )
        if state.governor == wanted or (not self._profile.governor and state.governor in _STEADY):
            return SettingStatus("governor", wanted, state.governor, True)
        cure = f"echo {wanted} | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        cause = "the clock follows the load, so short runs are slower than long ones"
        return SettingStatus("governor", wanted, state.governor, False, cause, cure)

    def _check_temperature(self, state: DeviceState) -> SettingStatus:
        limit = self._profile.max_temperature_c
        wanted = f"at most {limit:g} °C"
        if math.isnan(state.temperature_c):
            cause = "no processor sensor in /sys, so throttling cannot be seen"
            return SettingStatus("temperature", wanted, "", True, cause)
        ok = state.temperature_c <= limit
        cause, cure = ("", "") if ok else ("the processor may throttle", "let it cool down, or improve its cooling")
        return SettingStatus("temperature", wanted, f"{state.temperature_c:.1f} °C", ok, cause, cure)

    def _check_load(self, state: DeviceState) -> SettingStatus:
        wanted = f"below {_BUSY_LOAD}"
        if math.isnan(state.load):
            return SettingStatus("load", wanted, "", True, "no load average on this system")
        ok = state.load < _BUSY_LOAD
        cause, cure = ("", "") if ok else ("other programs use the processor", "stop them; see the top of 'top'")
        return SettingStatus("load", wanted, f"{state.load:.2f}", ok, cause, cure)
