"""Devices: the machines workloads run on, the links that reach them, and the state they report."""

from __future__ import annotations

from deepen.devices.profiles import detect_power, list_profile_names, load_profile
from deepen.devices.protocols import Device, Link, LoadedModel, ProcessChannel, Runtime
from deepen.devices.registry import list_device_names, open_device
from deepen.devices.types import CpuPower, DeviceProfile, DeviceState, SettingStatus

__all__ = [
    "CpuPower",
    "Device",
    "DeviceProfile",
    "DeviceState",
    "Link",
    "LoadedModel",
    "ProcessChannel",
    "Runtime",
    "SettingStatus",
    "detect_power",
    "list_device_names",
    "list_profile_names",
    "load_profile",
    "open_device",
]
