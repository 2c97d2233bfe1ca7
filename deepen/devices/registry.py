"""From ``--device`` to a device."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from deepen.devices.profiles import load_profile, profile_names
from deepen.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from deepen.devices.protocols import Device

__all__ = ["LINKS", "PLANNED_LINKS", "device_names", "link_names", "open_device"]

LINKS: dict[str, str] = {"local": "deepen.devices.local:LocalDevice"}
"""Link name -> ``module:callable``; the callable takes the profile name, or what follows the colon of a spec."""

PLANNED_LINKS = ("adb", "ssh")


def link_names() -> dict[str, str]:
    """Every link known: ours and those of the entry-point group ``deepen.links``."""
    return {**{e.name: e.value for e in entry_points(group="deepen.links")}, **LINKS}


def device_names() -> list[str]:
    """Names ``open_device`` takes."""
    return profile_names()


def _open(target: str, argument: str) -> Device:
    module, _, attribute = target.partition(":")
    device: Device = getattr(importlib.import_module(module), attribute)(argument)
    return device


def open_device(spec: str = "local") -> Device:
    """Open a device.

    Args:
        spec: ``local``, the name of a profile in ``devices/profiles``, or ``LINK:ADDRESS`` for a link added by an
            entry point.

    Raises:
        ConfigError: If the name is unknown (with the nearest names) or its link is not in this version.
    """
    links = link_names()
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in links:
        if not rest or scheme == "local":
            raise ConfigError(f"device '{spec}': write 'local' or '{scheme}:ADDRESS'")
        return _open(links[scheme], rest)
    if scheme in PLANNED_LINKS:
        raise ConfigError(
            f"device '{spec}': this version drives 'local' only; {scheme} is in the README's status table as coming"
        )
    if spec not in profile_names():
        others = [f"{name}:ADDRESS" for name in links if name != "local"]
        raise unknown_name("device", spec, [*profile_names(), *others])
    link = load_profile(spec).link
    if link not in links:
        raise ConfigError(
            f"device '{spec}' is reached over '{link}'; this version drives {', '.join(sorted(links))} (see the README)"
        )
    return _open(links[link], spec)
