"""Devices: what workloads run on, how it is reached, and what it reports about itself."""

from __future__ import annotations

from deepen.devices.profiles import detect_power, load_profile, profile_names
from deepen.devices.protocols import Channel, Device, Link, Loaded, Runtime
from deepen.devices.registry import device_names, open_device
from deepen.devices.types import CpuPower, DeviceProfile, DeviceState, Setting

__all__ = [
    "Channel",
    "CpuPower",
    "Device",
    "DeviceProfile",
    "DeviceState",
    "Link",
    "Loaded",
    "Runtime",
    "Setting",
    "detect_power",
    "device_names",
    "load_profile",
    "open_device",
    "profile_names",
]
