"""Devices by their address: what ``adb:...`` and ``ssh:...`` open."""

from __future__ import annotations

from deepen.devices.remote import RemoteDevice
from deepen.errors import ConfigError

__all__ = ["open_adb_device", "open_ssh_device"]


def open_adb_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over ADB.

    Args:
        address: As :func:`deepen.devices.links.adb.open_adb_link` has it; empty for the only device there is.
        profile: Profile that describes it; empty to find it by what the device says.

    Raises:
        ConfigError: If the address is malformed, or a package or key is missing.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.adb import open_adb_link

    return RemoteDevice(open_adb_link(address), profile)


def open_ssh_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over SSH.

    Args:
        address: As :func:`deepen.devices.links.ssh.open_ssh_link` has it.
        profile: Profile that describes it; empty to find it by what the device says.

    Raises:
        ConfigError: If the address is malformed, a package is missing, or the host key or the login is refused.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.ssh import open_ssh_link

    if not address:
        raise ConfigError(f"profile '{profile}' does not say where its device is; name it: ssh:USER@HOST")
    return RemoteDevice(open_ssh_link(address), profile)
