"""Protocol of a transport: a connection over which a link starts shell commands and exchanges bytes with them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["CommandStream", "Transport"]


class CommandStream(Protocol):
    """A running shell command on the device: its standard input, and its merged output and errors."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all bytes.

        Raises:
            LinkError: If they were not accepted in time, or the command or the device is gone.
        """

    def read(self, timeout_s: float) -> bytes | None:
        """Read the bytes available; ``None`` if none came in time, empty at the end.

        Raises:
            LinkError: If the device is gone.
        """

    def close(self) -> None:
        """Close the stream: the command sees the end of its input. Never raises."""


class Transport(Protocol):
    """A connection to a device. It may be used by several threads at once.

    Attributes:
        description: Its route, for example ``through the adb server``.
        connected: True while the connection is up.
    """

    @property
    def description(self) -> str: ...  # noqa: D102

    @property
    def connected(self) -> bool: ...  # noqa: D102

    def open(self, command: str, timeout_s: float) -> CommandStream:
        """Start a command line, made by ``shell_join``, in the device's shell.

        Raises:
            LinkError: If it could not be started in time.
        """

    def close(self) -> None:
        """Close the connection and every stream on it. Never raises."""
