"""Devices by their address: what ``adb:...`` and ``ssh:...`` open."""

from __future__ import annotations

from deepen.devices.remote import RemoteDevice
from deepen.errors import ConfigError

__all__ = ["adb_device", "ssh_device"]


def adb_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over ADB.

    Args:
        address: As :func:`deepen.devices.links.adb.adb_link` has it; empty for the only device there is.
        profile: Profile that describes it; empty to find it by what the device says.

    Raises:
        ConfigError: If the address is malformed, or a package or key is missing.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.adb import adb_link

    return RemoteDevice(adb_link(address), profile)


def ssh_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over SSH.

    Args:
        address: As :func:`deepen.devices.links.ssh.ssh_link` has it.
        profile: Profile that describes it; empty to find it by what the device says.

    Raises:
        ConfigError: If the address is malformed, a package is missing, or the host key or the login is refused.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.ssh import ssh_link

    if not address:
        raise ConfigError(f"profile '{profile}' does not say where its device is; name it: ssh:USER@HOST")
    return RemoteDevice(ssh_link(address), profile)
