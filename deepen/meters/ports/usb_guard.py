"""A script that carries out USB control requests when the process that had the device open has died (see ``guard``).

It imports nothing from deepen. The requests come on standard input, as setup packets followed by their data, and are
carried out once it is closed; without requests it does nothing.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator

__all__ = ["CONTROL_TIMEOUT_MS", "SETUP", "split_control_requests"]

SETUP = struct.Struct("<BBHHH")
"""bmRequestType, bRequest, wValue, wIndex, wLength (USB 2.0 specification, 9.3)."""

CONTROL_TIMEOUT_MS = 2000


def split_control_requests(data: bytes) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Split written bytes into (bmRequestType, bRequest, wValue, wIndex, wLength, data) of every request.

    An incomplete request is left out.
    """
    at = 0
    while at + SETUP.size <= len(data):
        kind, request, value, index, length = SETUP.unpack_from(data, at)
        at += SETUP.size
        body = b"" if kind & 0x80 else data[at : at + length]
        if not kind & 0x80 and len(body) < length:
            return
        at += len(body)
        yield kind, request, value, index, length, body


def main() -> None:
    """Wait for requests and carry them out; the arguments are the bus and the address of the device."""
    left = sys.stdin.buffer.read()
    if not left:
        return
    import usb.core

    device = usb.core.find(bus=int(sys.argv[1]), address=int(sys.argv[2]))
    for kind, request, value, index, length, body in split_control_requests(left):
        with contextlib.suppress(usb.core.USBError):
            device.ctrl_transfer(kind, request, value, index, length if kind & 0x80 else body, CONTROL_TIMEOUT_MS)


if __name__ == "__main__":
    main()
