"""Discovery of instruments by their USB descriptors, without opening a port."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepen.errors import MeterError
from deepen.meters.ports.serial_port import describe_udev_fix, list_serial_ports
from deepen.meters.types import Availability, DetectedInstrument

__all__ = ["UsbId", "check_availability", "choose_port", "find_instruments"]


@dataclass(frozen=True, slots=True)
class UsbId:
    """USB identity of a kind of instrument.

    Attributes:
        vid: Vendor id.
        pid: Product id.
        product: Regular expression that the port's product or description must contain, for chips that other devices
            use as well; empty for any.
        interface: For an instrument with several ports, the number of the USB interface (the last figure of the port's
            location) that measures; ``None`` for the first.
    """

    vid: int
    pid: int
    product: str = ""
    interface: int | None = None

    def matches(self, port: Any) -> bool:
        """Return whether a port (pyserial's ``ListPortInfo``) is of this kind."""
        if (port.vid, port.pid) != (self.vid, self.pid):
            return False
        names = f"{port.product or ''} {port.description or ''}"
        return not self.product or re.search(self.product, names, re.IGNORECASE) is not None


def find_instruments(usb_ids: Sequence[UsbId]) -> tuple[DetectedInstrument, ...]:
    """Find the instruments that are plugged in, by port.

    Raises:
        MeterError: If pyserial is not installed.
    """
    groups: dict[tuple[UsbId, str], list[Any]] = {}
    for port in list_serial_ports():
        usb_id = next((known for known in usb_ids if known.matches(port)), None)
        if usb_id is not None:
            same = port.serial_number or (port.location or port.device).partition(":")[0]
            groups.setdefault((usb_id, same), []).append(port)
    found = []
    for (usb_id, _), ports in groups.items():
        ports.sort(key=lambda port: (port.location or "", port.device))
        chosen = next((p for p in ports if _parse_interface_number(p) == usb_id.interface), ports[0])
        found.append(
            DetectedInstrument(chosen.device, chosen.serial_number or "", chosen.product or chosen.description or "")
        )
    return tuple(sorted(found, key=lambda one: one.port))


def check_availability(name: str, usb_ids: Sequence[UsbId]) -> Availability:
    """Return the availability of a driver for ``meter list``.

    Args:
        name: Name of the driver.
        usb_ids: USB ids of its instruments; empty if they cannot be distinguished from other devices.
    """
    try:
        found = find_instruments(usb_ids)
    except MeterError as error:
        return Availability(name, False, "", "measured", error.cause, error.cure)
    if not usb_ids:
        cause, cure = "it cannot be recognised by itself", f"name its port: --meter {name}:/dev/ttyUSB0"
        return Availability(name, False, "", "measured", cause, cure)
    if not found:
        return Availability(
            name, False, "", "measured", "none is plugged in", f"plug it in, or name a port: {name}:PORT"
        )
    detail = ", ".join(f"{one.port}" + (f" (serial {one.serial})" if one.serial else "") for one in found)
    if not any(os.access(one.port, os.R_OK | os.W_OK) for one in found):
        return Availability(
            name, False, detail, "measured", f"no permission to open {detail}", describe_udev_fix(), found
        )
    return Availability(name, True, detail, "measured", found=found)


def choose_port(name: str, wanted: str, usb_ids: Sequence[UsbId]) -> str:
    """Resolve the user's text after the driver's name to a port.

    Args:
        name: Name of the driver.
        wanted: A device file, a URL, a serial number, or nothing.
        usb_ids: USB ids of its instruments.

    Returns:
        A device file or URL; without a text, that of the only instrument plugged in.

    Raises:
        MeterError: If there is none, there are several to choose from, or none has that serial number.
    """
    if "/" in wanted or wanted.startswith("loop:"):
        return wanted
    if wanted and Path("/dev", wanted).exists():
        return f"/dev/{wanted}"
    found = find_instruments(usb_ids) if usb_ids else ()
    if not wanted:
        if len(found) == 1:
            return found[0].port
        if not found:
            raise MeterError(
                "none is plugged in that can be recognised", subject=name, cure=f"name its port: {name}:/dev/ttyACM0"
            )
        raise MeterError(
            f"there are {len(found)} here, {_format_instruments(found)}",
            subject=name,
            cure=f"name one: {name}:{_get_instrument_name(found[0])}",
        )
    same = [one for one in found if one.serial.casefold() == wanted.casefold()]
    if len(same) == 1:
        return same[0].port
    here = f"here: {_format_instruments(found)}" if found else "none is plugged in"
    raise MeterError(f"no port and no instrument with serial number '{wanted}'", subject=name, cure=here)


def _parse_interface_number(port: Any) -> int | None:
    """Parse the number of the USB interface a port belongs to: ``1-4:1.2`` is interface 2."""
    _, _, last = (port.location or "").rpartition(".")
    return int(last) if ":" in (port.location or "") and last.isdigit() else None


def _get_instrument_name(one: DetectedInstrument) -> str:
    return one.serial or one.port


def _format_instruments(found: Sequence[DetectedInstrument]) -> str:
    return ", ".join(f"{one.port} (serial {one.serial or 'unknown'})" for one in found)
