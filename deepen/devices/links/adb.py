"""The ADB link: through an adb server if one runs, since only one program can own a device on USB; else directly.

``HOST:PORT`` is a daemon on the network. It is reached through the server if the server is connected to it, else
directly; anything else is a serial number, reached through the server or, where none runs, on USB.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from deepen.devices.links.adb_server import AdbServer, AdbServerTransport
from deepen.devices.links.adb_shell import connect_tcp, connect_usb
from deepen.devices.links.address import parse_host_and_port, split_options
from deepen.devices.links.remote import RemoteLink
from deepen.devices.links.transport import Transport
from deepen.errors import ConfigError, LinkError

__all__ = ["Via", "connect_adb", "open_adb_link"]

Via = Literal["auto", "server", "direct"]
"""Route of the connection: the server if it has the device, only the server, or never the server."""

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def open_adb_link(spec: str) -> RemoteLink:
    """Open a link.

    Args:
        spec: ``SERIAL``, ``HOST:PORT`` or nothing for the only device connected; then, after ``?``, ``via=server`` or
            ``via=direct``, ``key=FILE`` (a private key in place of the user's own, where no server is used), and
            ``work=FOLDER`` on the device.

    Raises:
        ConfigError: If it is malformed, an option is unknown, or the key file is missing.
    """
    address, options = split_options(spec, ("key", "via", "work"))
    keys = [Path(options["key"]).expanduser()] if "key" in options else None
    if keys and not keys[0].is_file():
        raise ConfigError(f"'{spec}': no such file: {keys[0]}")
    via = options.get("via", "auto")
    if via not in get_args(Via):
        raise ConfigError(f"'{spec}': via is {' or '.join(get_args(Via))}, not '{via}'")
    where = parse_host_and_port(address)
    if where is None and address and not _SERIAL.fullmatch(address):
        raise ConfigError(f"'{address}' is neither a serial number nor HOST:PORT; see 'adb devices'")

    def connect(timeout_s: float) -> Transport:
        return connect_adb(address, where, via, timeout_s, keys)  # type: ignore[arg-type]  # checked above

    return RemoteLink(connect, f"adb {address}".strip(), work=options.get("work", ""))


def connect_adb(
    serial: str, where: tuple[str, int] | None, via: Via, timeout_s: float, keys: list[Path] | None = None
) -> Transport:
    """Choose the route, and connect.

    Raises:
        LinkError: If the device is not there or does not (yet) allow the connection.
        ConfigError: If a package or a key is missing, or no device is named and there are several.
    """
    server = AdbServer()
    if via == "server" or (via == "auto" and server.running()):
        known = {d.serial: d.state for d in server.devices(min(timeout_s, 5.0))}
        chosen = serial or _pick_only_device(known)
        if via == "server" or where is None or known.get(serial) == "device":
            return AdbServerTransport(server, chosen, timeout_s)
    if where is not None:
        return connect_tcp(*where, timeout_s, keys=keys)
    return connect_usb(serial, timeout_s, keys=keys)


def _pick_only_device(known: dict[str, str]) -> str:
    if not known:
        raise LinkError("the adb server sees no device; plug one in and switch USB debugging on")
    if len(known) > 1:
        raise ConfigError(f"several devices are connected; name one: adb:{', adb:'.join(sorted(known))}")
    return next(iter(known))
