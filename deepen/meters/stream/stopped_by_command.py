"""Base of the instruments that stream until they are told to stop."""

from __future__ import annotations

import contextlib
from typing import ClassVar

from deepen.errors import MeterError
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import wait_until_silent

__all__ = ["StoppedByCommand"]


class StoppedByCommand:
    """An instrument that streams until it receives a command to stop, and has no marks of its own.

    Attributes:
        title: The instrument, for messages.
        stop_bytes: Command to stop streaming.
        quiet_s: Silence that means it has stopped, seconds.
        safe_bytes: Bytes that make the instrument safe.
    """

    title: ClassVar[str] = ""
    stop_bytes: ClassVar[bytes] = b""
    quiet_s: ClassVar[float] = 0.15
    safe_bytes: bytes
    _port: Port

    def mark(self) -> None:
        """Do nothing: such an instrument takes no marks, or they come in by a wire."""

    def end(self) -> None:
        """Stop streaming and wait until it has.

        Raises:
            MeterError: If it does not fall silent.
        """
        self._quiet()

    def close(self) -> None:
        """Stop the stream and leave the output as requested; harmless when the port is gone."""
        if self.safe_bytes:
            with contextlib.suppress(MeterError):
                self._port.write(self.safe_bytes)

    def _quiet(self) -> None:
        """Stop streaming and wait for silence.

        Raises:
            MeterError: If it does not fall silent.
        """
        self._port.write(self.stop_bytes)
        if not wait_until_silent(self._port, self.quiet_s):
            raise MeterError(
                f"{self._port.name} keeps sending when told to stop: it is no {self.title}", cure="check the port"
            )
