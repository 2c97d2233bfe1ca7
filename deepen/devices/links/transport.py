"""What a link needs of the way to a device: start a shell command, with its bytes going in and coming out."""

from __future__ import annotations

from typing import Protocol

__all__ = ["CommandStream", "Transport"]


class CommandStream(Protocol):
    """A shell command that runs on the device: its standard input, and its output and errors in one."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all of it.

        Raises:
            LinkError: If it was not taken in time or the command or the device is gone.
        """

    def read(self, timeout_s: float) -> bytes | None:
        """Read what there is; ``None`` when nothing came in time, empty at the end.

        Raises:
            LinkError: If the device is gone.
        """

    def close(self) -> None:
        """Let go of it: the command sees the end of its input. Never raises."""


class Transport(Protocol):
    """A connection to a device. It may be used by several threads at once.

    Attributes:
        description: Which way it takes, for example ``through the adb server``.
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
        """Close the connection and everything that goes over it. Never raises."""
