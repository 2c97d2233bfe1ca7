"""A process on a device behind a link that answers lines with lines."""

from __future__ import annotations

from typing import Protocol

from deepen.clock.host_clock import Deadline
from deepen.devices.links.jobs import JobOutputParser
from deepen.devices.links.transport import CommandStream
from deepen.errors import LinkError

__all__ = ["JobOwner", "RemoteChannel"]

_WRITE_S = 30.0
_LAST_WORDS = 2000


class JobOwner(Protocol):
    """The link a job was started on, as far as the job's channel needs it.

    Attributes:
        name: The device, for messages.
    """

    name: str

    def end_job(self, token: str) -> str:
        """End a job; returns the end of what it wrote on its standard error. Never raises."""

    def read_job_stderr(self, token: str) -> str:
        """The end of what a running job has written on its standard error so far; empty while the link is cut."""

    def forget(self, channel: RemoteChannel) -> None:
        """Strike a channel that has ended off the list."""


class RemoteChannel:
    """A job (see :mod:`deepen.devices.links.jobs`) whose input and output are a stream."""

    def __init__(
        self, link: JobOwner, token: str, stream: CommandStream, output: JobOutputParser, program: str
    ) -> None:
        """Take over a started job."""
        self.pid: int | None = None
        self._link = link
        self._token = token
        self._stream = stream
        self._output = output
        self._program = program
        self._lines = bytearray()
        self._cut = False
        self._killed = False
        self._words = ""

    def send(self, line: bytes) -> None:
        """Write one line.

        Raises:
            LinkError: If the process or the link is gone.
        """
        self._check()
        try:
            self._stream.write(line + b"\n", _WRITE_S)
        except LinkError:
            self._pump(2.0)  # so that its exit status is known
            self._cut = self._output.status is None
            raise

    def receive(self, timeout_s: float) -> bytes | None:
        """Read one line; ``None`` if none came in time.

        Raises:
            LinkError: If the process has ended or the link was cut.
        """
        if self._killed:
            raise LinkError("the worker has been stopped")
        deadline = Deadline(timeout_s)
        while True:
            self._lines += self._output.take()
            at = self._lines.find(b"\n")
            if at >= 0:
                line = bytes(self._lines[:at])
                del self._lines[: at + 1]
                return line
            if self._output.status is not None:
                self._pump(2.0)
                raise LinkError(f"{self._program} has ended on the device")
            self._check()
            if not self._read(deadline.remaining_s) and deadline.expired:
                return None

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs. A cut link counts as SIGKILL."""
        while self._output.status is None and not self._cut and not self._killed:
            try:
                if not self._read(0.0):
                    break
            except LinkError:
                break
        if self._output.status is not None:
            return self._output.status
        return -9 if self._killed or self._cut else None

    @property
    def cut(self) -> bool:
        """True if the link was cut while it ran, so that its real exit status is unknown."""
        return self._cut and self._output.status is None

    def kill(self) -> None:
        """End the process and its whole group, on an unreachable device as soon as it can be reached."""
        if self._killed:
            return
        if not self._output.done:
            self._words = self._link.end_job(self._token)
            self._pump(2.0)
        self._killed = True
        self._stream.close()
        self._link.forget(self)

    def last_words(self) -> str:
        """Return the end of its standard error; empty while the link is cut."""
        if self._words:
            return self._words
        if self._output.done:
            return self._output.stderr[-_LAST_WORDS:].decode("utf-8", "replace").strip()
        return "" if self._killed or self._cut else self._link.read_job_stderr(self._token)

    def _check(self) -> None:
        if self._killed:
            raise LinkError("the worker has been stopped")
        if self._cut:
            raise LinkError(f"{self._link.name}: the link to {self._program} was cut", cure="try again")

    def _read(self, timeout_s: float) -> bool:
        """Read available output; return whether any came."""
        try:
            data = self._stream.read(timeout_s)
        except LinkError:
            self._cut = True
            raise
        if data == b"":
            self._cut = True
            raise LinkError(f"{self._link.name}: the link to {self._program} was cut", cure="try again")
        if data is None:
            return False
        self._output.feed(data)
        return True

    def _pump(self, timeout_s: float) -> None:
        """Wait briefly for the exit status of a process that has ended."""
        deadline = Deadline(timeout_s)
        while not self._output.done and not self._cut:
            try:
                if not self._read(deadline.remaining_s) and deadline.expired:
                    return
            except LinkError:
                return
