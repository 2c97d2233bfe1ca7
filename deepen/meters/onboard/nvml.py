"""NVML: energy counters of NVIDIA GPUs, through libnvidia-ml.

``nvmlDeviceGetTotalEnergyConsumption`` counts millijoules since the driver was loaded (Volta and later); it advances
about ten times a second (NVML API reference; arXiv 2312.02741 on its duty cycle). It measures the GPU alone, so it is
never chosen automatically for work on the processor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from deepen.errors import ConfigError, MeterError
from deepen.meters.energy_counter import CounterMeter, guard_counter_monotonic
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec

__all__ = ["DRIVER", "NvmlLibrary", "NvmlMeter", "load_library"]

_UPDATE_S = 0.1
_HERE_ONLY = "it reads the GPUs of this machine, not those of a device across a link"
_MESSAGES = {
    2: "invalid argument",
    3: "this GPU has no energy counter (Volta or later is needed; a Jetson has ina3221 instead)",
    4: "no permission",
    9: "the driver is not loaded",
    15: "the GPU was lost",
    18: "library and driver versions differ; reboot",
}
"""Return codes of ``nvmlReturn_t``."""


class NvmlLibrary:
    """The calls of libnvidia-ml used here, with errors translated."""

    def __init__(self, raw: Any) -> None:
        """Initialise NVML.

        Args:
            raw: The loaded library (``ctypes.CDLL`` or a stand-in).

        Raises:
            MeterError: If it cannot be initialised.
        """
        self._raw = raw
        self._call("nvmlInit_v2")

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._raw, name)(*arguments))
        if code != 0:
            raise MeterError(
                f"{name} failed: {_MESSAGES.get(code, f'code {code}')}", subject="nvml", cure="see nvidia-smi"
            )

    def handles(self) -> list[ctypes.c_void_p]:
        """Return the handles of all GPUs."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        found = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            found.append(handle)
        return found

    def name(self, handle: ctypes.c_void_p) -> str:
        """Return the name of a GPU."""
        text = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", handle, text, ctypes.c_uint(96))
        return text.value.decode("utf-8", "replace")

    def energy_mj(self, handle: ctypes.c_void_p) -> int:
        """Read the energy counter of a GPU, millijoules."""
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(value))
        return value.value


def load_library() -> Any:
    """Load libnvidia-ml.

    Raises:
        MeterError: If it is not installed.
    """
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise MeterError(
            "libnvidia-ml.so.1 is not installed", subject="nvml", cure="install the NVIDIA driver"
        ) from error


class NvmlMeter(CounterMeter):
    """Sum of the energy counters of some GPUs."""

    def __init__(self, library: NvmlLibrary, handles: list[ctypes.c_void_p]) -> None:
        """Open the counters.

        Raises:
            MeterError: If a GPU has none.
        """

        def read_j() -> float:
            return sum(library.energy_mj(handle) for handle in handles) / 1e3

        read_j()
        names = ", ".join(library.name(handle) for handle in handles)
        guarded_j = guard_counter_monotonic(read_j, "nvml", "the driver was loaded anew")
        super().__init__("nvml", f"nvml {names}", guarded_j, update_s=_UPDATE_S, resolution_j=1e-3, poll_s=_UPDATE_S)


def _probe(context: MeterContext, loader: Callable[[], Any] = load_library) -> Availability:
    if context.link is not None:
        return Availability("nvml", False, "", "measured", _HERE_ONLY, "")
    try:
        library = NvmlLibrary(loader())
        handles = library.handles()
        for handle in handles:
            library.energy_mj(handle)
    except MeterError as error:
        return Availability("nvml", False, "", "measured", error.cause, error.cure)
    if not handles:
        return Availability("nvml", False, "", "measured", "no NVIDIA GPU", "")
    detail = f"{len(handles)} GPU(s); sees the GPU alone, so it is never chosen for work on the processor"
    return Availability("nvml", True, detail, "measured")


def _open(spec: MeterSpec, context: MeterContext, loader: Callable[[], Any] = load_library) -> Meter:
    spec.only()
    if context.link is not None:
        raise MeterError(
            f"{_HERE_ONLY}", subject="nvml", cure="use a meter of the device, such as ina3221, hwmon or rapl"
        )
    library = NvmlLibrary(loader())
    handles = library.handles()
    if not handles:
        raise MeterError("no NVIDIA GPU found", subject="nvml", cure="see nvidia-smi")
    if spec.port:
        if not spec.port.isdigit() or int(spec.port) >= len(handles):
            raise ConfigError(f"meter 'nvml:{spec.port}': there are GPUs 0 to {len(handles) - 1}")
        handles = [handles[int(spec.port)]]
    return NvmlMeter(library, handles)


DRIVER = Driver("nvml", "NVIDIA GPU energy counters", _probe, _open)
