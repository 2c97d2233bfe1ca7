"""Identity of the device behind a link: its kind, model and serial number, as it reports them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from deepen.devices.state.shell_files import Shell
from deepen.devices.types import RecognitionRule
from deepen.errors import ConfigError

__all__ = ["DeviceKind", "Identity", "identify_device", "recognise_profile"]

DeviceKind = Literal["android", "jetson", "raspberry-pi", "linux"]

_PROPERTIES = (
    "ro.serialno",
    "ro.boot.serialno",
    "ro.product.model",
    "ro.product.device",
    "ro.build.version.sdk",
    "ro.build.fingerprint",
    "service.adb.tcp.port",
    "service.adb.tls.port",
)
_TREE_MODEL = "/proc/device-tree/model"
_TREE_SERIAL = "/proc/device-tree/serial-number"


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity that a device reports.

    Attributes:
        kind: Kind of device, which determines the tools available.
        model: Its own name for its model; empty where unknown.
        codename: Name of its board (``ro.product.device`` on Android); empty where unknown.
        serial: Serial number, or another text that is unique among devices of its model; empty if it has none.
        system: Operating system and build, readable.
        machine: Architecture, for example ``aarch64``.
        sdk: Android API level; 0 elsewhere.
        boot_id: Identifier of the current boot; empty where unknown.
        facts: Further values it reported.
    """

    kind: DeviceKind
    model: str = ""
    codename: str = ""
    serial: str = ""
    system: str = ""
    machine: str = ""
    sdk: int = 0
    boot_id: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """File name for data about this device: readable, and safe whatever the device reports.

        Raises:
            ConfigError: If it reported neither serial number nor machine id, and is thus indistinguishable from others.
        """
        if not self.serial:
            what = self.model or "the device"
            raise ConfigError(
                f"{what} reports no serial number, so its settings could not be restored; change none of them"
            )
        plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.model}-{self.serial}").strip("-")[:60]
        return f"{plain}-{hashlib.sha256(f'{self.kind}/{self.serial}'.encode()).hexdigest()[:12]}"


def identify_device(shell: Shell) -> Identity:
    """Read the identity of a device.

    Raises:
        LinkError: If the device is gone.
    """
    boot_id = shell.output(["cat", "/proc/sys/kernel/random/boot_id"]) or ""
    machine = shell.output(["uname", "-m"]) or ""
    if shell.output(["getprop", "ro.build.version.sdk"]):
        properties = {name: shell.output(["getprop", name]) or "" for name in _PROPERTIES}
        sdk = properties["ro.build.version.sdk"]
        return Identity(
            kind="android",
            model=properties["ro.product.model"],
            codename=properties["ro.product.device"],
            serial=properties["ro.serialno"] or properties["ro.boot.serialno"],
            system=properties["ro.build.fingerprint"],
            machine=machine,
            sdk=int(sdk) if sdk.isdecimal() else 0,
            boot_id=boot_id,
            facts=properties,
        )
    tree = shell.output(["cat", _TREE_MODEL]) or ""
    machine_id = shell.output(["cat", "/etc/machine-id"]) or ""
    kind: DeviceKind = "linux"
    if "raspberry pi" in tree.lower():
        kind = "raspberry-pi"
    elif "jetson" in tree.lower() or shell.output(["cat", "/etc/nv_tegra_release"]) is not None:
        kind = "jetson"
    return Identity(
        kind=kind,
        model=tree or shell.output(["uname", "-n"]) or "",
        serial=(shell.output(["cat", _TREE_SERIAL]) or "") or machine_id,
        system=shell.output(["uname", "-sr"]) or "",
        machine=machine,
        boot_id=boot_id,
        facts={"device_tree": tree} if tree else {},
    )


def recognise_profile(identity: Identity, profiles: Iterable[tuple[str, RecognitionRule]]) -> str:
    """Find the profile that describes a device.

    Args:
        identity: Identity of the device.
        profiles: Names of profiles with their rules.

    Returns:
        The profile's name; empty if none or more than one describes it.
    """
    found = set()
    tree = identity.facts.get("device_tree", "")
    for name, rule in profiles:
        named = identity.model in rule.models or identity.codename in rule.codenames
        if (identity.kind == "android" and named) or (tree and rule.device_tree and re.search(rule.device_tree, tree)):
            found.add(name)
    return found.pop() if len(found) == 1 else ""
