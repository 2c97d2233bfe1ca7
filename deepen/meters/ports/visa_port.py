"""Instruments on USBTMC, VXI-11 or GPIB as a port, through pyvisa and pyvisa-py (no vendor's VISA is needed)."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Any

from deepen.errors import MeterError

__all__ = ["VisaPort", "is_visa_resource"]

_RESOURCE = re.compile(r"(USB|TCPIP|GPIB|ASRL|VICP|PRLGX\w*)\d*::.+", re.IGNORECASE)


def is_visa_resource(name: str) -> bool:
    """Return whether a name is a VISA resource such as ``USB0::0x0B21::0x0025::C2PC1234::INSTR``."""
    return _RESOURCE.fullmatch(name) is not None


class VisaPort:
    """A :class:`~deepen.meters.stream.types.Port` on a VISA resource: a read returns one message of the instrument.

    Attributes:
        name: Name of the resource.
        pseudo: True if this machine itself answers.
    """

    def __init__(self, name: str, line_end: str) -> None:
        """Open a resource.

        Args:
            name: Name of the resource.
            line_end: End of a message on buses without a message end of their own.

        Raises:
            MeterError: If pyvisa is missing, or nothing answers there; with the cure.
        """
        try:
            import pyvisa
        except ImportError as error:
            raise MeterError(
                f"{name} needs pyvisa and pyvisa-py", cure="install them: pip install 'deepen[visa]'"
            ) from error
        self.name = name
        self.pseudo = _is_local_resource(name)
        self._errors: tuple[type[Exception], ...] = (pyvisa.errors.Error, OSError, ValueError)
        self._timed_out = pyvisa.constants.StatusCode.error_timeout
        self._stale = False
        manager: Any = None
        try:
            manager = pyvisa.ResourceManager("@py")
            self._raw: Any = manager.open_resource(name, read_termination=line_end, open_timeout=3000)
        except self._errors as error:
            with contextlib.suppress(*self._errors):
                if manager is not None:
                    manager.close()
            raise MeterError(
                f"cannot open {name} ({' '.join(str(error).split())})",
                cure="check cable, address and permission (a USB instrument needs pyusb and a udev rule), and "
                "name it as 'pyvisa-shell list' does",
            ) from error
        self._manager = manager

    def read(self, timeout_s: float) -> bytes:
        """Wait for a message; empty when none came in time.

        Raises:
            MeterError: If the instrument is gone.
        """
        try:
            self._raw.timeout = max(1, round(1000 * timeout_s))
            return bytes(self._raw.read_raw())
        except self._errors as error:
            if getattr(error, "error_code", None) == self._timed_out:
                self._stale = True
                return b""
            raise self._gone(error) from error

    def write(self, data: bytes) -> None:
        """Send a message.

        Raises:
            MeterError: If the instrument is gone.
        """
        try:
            self._raw.write_raw(data)
        except self._errors as error:
            raise self._gone(error) from error

    def flush_input(self) -> None:
        """Discard a late answer by a device clear of the instrument, only after a time-out."""
        if self._stale:
            self._stale = False
            with contextlib.suppress(*self._errors):
                self._raw.clear()

    def fileno(self) -> None:
        """Return None: there is no file."""

    def close(self) -> None:
        """Release the instrument; harmless when closed."""
        for part in (self._raw, self._manager):
            with contextlib.suppress(*self._errors):
                part.close()

    def _gone(self, error: Exception) -> MeterError:
        text = " ".join(str(error).split())
        return MeterError(
            f"{self.name} does not answer ({text})", cure="check its cable and address, and that it is on"
        )


def _is_local_resource(name: str) -> bool:
    parts = name.split("::")
    host = parts[1] if parts[0].upper().startswith("TCPIP") and len(parts) > 1 else ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
