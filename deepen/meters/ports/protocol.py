"""The protocol of a port: serial, USB, a socket, or an emulator."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = ["Port"]


@runtime_checkable
class Port(Protocol):
    """Bytes to and from an instrument.

    Attributes:
        name: Name the user gave it.
    """

    name: str

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes and return all that have come; empty if none came in time.

        Raises:
            MeterError: If the port is gone.
        """

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            MeterError: If the port is gone or does not accept them.
        """

    def flush_input(self) -> None:
        """Discard the bytes received."""

    def fileno(self) -> int | None:
        """Return a file descriptor that a guard process can write to; ``None`` if there is none."""

    def close(self) -> None:
        """Release the port."""
