"""Registry of links, and opening of the device that ``--device`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepen.devices.profiles import list_profile_names, load_profile
from deepen.errors import ConfigError, make_unknown_name_error
from deepen.registry import Registry

if TYPE_CHECKING:
    from deepen.devices.protocols import Device
    from deepen.devices.remote import RemoteDevice

__all__ = ["LINKS", "list_device_names", "open_adb_device", "open_device", "open_ssh_device"]

LINKS: Registry[Any] = Registry(
    "link",
    {
        "adb": "deepen.devices.registry:open_adb_device",
        "local": "deepen.devices.local:LocalDevice",
        "ssh": "deepen.devices.registry:open_ssh_device",
    },
    group="deepen.links",
)
"""Link name -> ``module:callable``, which makes a device of an address and, as ``profile=NAME``, of the profile that
names the link; the local one takes the profile's name alone."""


def open_adb_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over ADB.

    Args:
        address: An address for :func:`deepen.devices.links.adb.open_adb_link`; empty for the only device connected.
        profile: Name of its profile; empty to recognise the device.

    Raises:
        ConfigError: If the address is malformed, or a package or key is missing.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.adb import open_adb_link
    from deepen.devices.remote import RemoteDevice

    return RemoteDevice(open_adb_link(address), profile)


def open_ssh_device(address: str, profile: str = "") -> RemoteDevice:
    """Open a device over SSH.

    Args:
        address: An address for :func:`deepen.devices.links.ssh.open_ssh_link`.
        profile: Name of its profile; empty to recognise the device.

    Raises:
        ConfigError: If the address is malformed, a package is missing, or the host key or the login is refused.
        LinkError: If the device cannot be reached.
    """
    from deepen.devices.links.ssh import open_ssh_link
    from deepen.devices.remote import RemoteDevice

    if not address:
        raise ConfigError(f"profile '{profile}' does not say where its device is; name it: ssh:USER@HOST")
    return RemoteDevice(open_ssh_link(address), profile)


def list_device_names() -> list[str]:
    """List the names that :func:`open_device` accepts."""
    return list_profile_names()


def _open_link(name: str, *arguments: str, **options: str) -> Device:
    device: Device = LINKS.load(name)(*arguments, **options)
    return device


def open_device(spec: str = "local") -> Device:
    """Open a device.

    Args:
        spec: ``local``, ``adb:SERIAL``, ``adb:HOST:PORT``, ``ssh:USER@HOST[:PORT]``, the name of a profile in
            ``devices/profiles``, or ``LINK:ADDRESS`` for a link added by an entry point.

    Raises:
        ConfigError: If the name is unknown (with the nearest names), an address is malformed, or a package is missing.
        LinkError: If the device cannot be reached.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme in LINKS and scheme != "local" and (not colon or not rest):
        raise ConfigError(f"device '{spec}': say which one, '{scheme}:ADDRESS'; 'deepen device list' shows those here")
    if colon and scheme in LINKS:
        if scheme == "local":
            raise ConfigError(f"device '{spec}': 'local' is this machine and takes no address")
        return _open_link(scheme, rest)
    if spec not in list_profile_names():
        others = [f"{name}:ADDRESS" for name in LINKS if name != "local"]
        raise make_unknown_name_error("device", spec, [*list_profile_names(), *others])
    profile = load_profile(spec)
    if profile.link not in LINKS:
        known = ", ".join(sorted(LINKS))
        raise ConfigError(f"device '{spec}' is reached over '{profile.link}', which is not here; links: {known}")
    if profile.link == "local":
        return _open_link("local", spec)
    return _open_link(profile.link, profile.address, profile=spec)
