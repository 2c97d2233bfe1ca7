"""From ``--device`` to a device."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from deepen.devices.profiles import list_profile_names, load_profile
from deepen.errors import ConfigError, make_unknown_name_error

if TYPE_CHECKING:
    from deepen.devices.protocols import Device

__all__ = ["LINKS", "collect_links", "list_device_names", "open_device"]

LINKS: dict[str, str] = {
    "adb": "deepen.devices.connect:open_adb_device",
    "local": "deepen.devices.local:LocalDevice",
    "ssh": "deepen.devices.connect:open_ssh_device",
}
"""Link name -> ``module:callable``, which makes a device of an address and, as ``profile=NAME``, of the profile that
names the link; the local one takes the profile's name alone."""


def collect_links() -> dict[str, str]:
    """Every link known: ours and those of the entry-point group ``deepen.links``."""
    return {**{e.name: e.value for e in entry_points(group="deepen.links")}, **LINKS}


def list_device_names() -> list[str]:
    """Names ``open_device`` takes."""
    return list_profile_names()


def _open_target(target: str, *arguments: str, **options: str) -> Device:
    module, _, attribute = target.partition(":")
    device: Device = getattr(importlib.import_module(module), attribute)(*arguments, **options)
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
    links = collect_links()
    scheme, colon, rest = spec.partition(":")
    if scheme in links and scheme != "local" and (not colon or not rest):
        raise ConfigError(f"device '{spec}': say which one, '{scheme}:ADDRESS'; 'deepen device list' shows those here")
    if colon and scheme in links:
        if scheme == "local":
            raise ConfigError(f"device '{spec}': 'local' is this machine and takes no address")
        return _open_target(links[scheme], rest)
    if spec not in list_profile_names():
        others = [f"{name}:ADDRESS" for name in links if name != "local"]
        raise make_unknown_name_error("device", spec, [*list_profile_names(), *others])
    profile = load_profile(spec)
    if profile.link not in links:
        known = ", ".join(sorted(links))
        raise ConfigError(f"device '{spec}' is reached over '{profile.link}', which is not here; links: {known}")
    if profile.link == "local":
        return _open_target(links["local"], spec)
    return _open_target(links[profile.link], profile.address, profile=spec)
