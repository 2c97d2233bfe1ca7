"""A transport to this machine's own shell, with faults, for tests of links without a daemon."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deepen.clock.host_clock import Deadline
from deepen.devices.links.remote import RemoteLink
from deepen.devices.links.transport import Transport
from deepen.errors import LinkError

__all__ = ["ShellLinkFaults", "ShellStream", "ShellTransport", "make_shell_link"]


@dataclass(slots=True)
class ShellLinkFaults:
    """Faults of the transport.

    Attributes:
        write_bytes: The link is cut after this many bytes have been sent over one stream; ``None`` for never.
        read_bytes: The link is cut after this many bytes have come over one stream; ``None`` for never.
        mute: True if no more bytes come although the connection is up.
        refuse: Number of connections that fail before one succeeds.
        largest_read: Largest size of one read, bytes.
        connections: Number of connections made.
    """

    write_bytes: int | None = None
    read_bytes: int | None = None
    mute: bool = False
    refuse: int = 0
    largest_read: int = 1 << 16
    connections: int = 0


class ShellStream:
    """A shell command as a child process, with output and errors in one stream, as in ADB."""

    def __init__(self, transport: ShellTransport, command: str, shell: str, env: Mapping[str, str]) -> None:
        """Start it."""
        self._transport = transport
        self._process = subprocess.Popen(
            [*shell.split(), "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            bufsize=0,
            start_new_session=True,
        )
        self._sent = self._received = 0
        self._open = True

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all bytes, or as many as the faults let through."""
        faults, deadline = self._transport.faults, Deadline(timeout_s)
        cut = faults.write_bytes is not None and self._sent + len(data) > faults.write_bytes
        if cut:
            data = data[: max(0, (faults.write_bytes or 0) - self._sent)]
        stdin = self._process.stdin
        if not self._open or stdin is None:
            raise LinkError("the link is cut")
        view = memoryview(data)
        try:
            while view:
                if not select.select([], [stdin], [], deadline.remaining_s)[1]:
                    raise LinkError("the device takes nothing")
                written = os.write(stdin.fileno(), view[:4096])
                self._sent += written
                view = view[written:]
        except OSError as error:
            raise LinkError(f"the command is gone ({error.strerror})") from error
        if cut:
            self._transport.cut()
            raise LinkError("the link is cut")

    def read(self, timeout_s: float) -> bytes | None:
        """Read the bytes available."""
        faults, stdout = self._transport.faults, self._process.stdout
        if not self._open or stdout is None:
            raise LinkError("the link is cut")
        if faults.mute:
            time.sleep(timeout_s)
            return None
        if not select.select([stdout], [], [], timeout_s)[0]:
            return None
        data = os.read(stdout.fileno(), faults.largest_read)
        if faults.read_bytes is not None and self._received + len(data) > faults.read_bytes:
            self._transport.cut()
            raise LinkError("the link is cut")
        self._received += len(data)
        return data

    def close(self) -> None:
        """Close the stream."""
        self._open = False
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._transport.streams.discard(self)
        self._transport.left.append(self._process)


@dataclass(slots=True)
class ShellTransport:
    """A connection to this machine's shell.

    Attributes:
        faults: Faults to inject.
        shell: The shell that runs commands.
        env: Variables added to its environment, ``HOME`` for the work folder.
        streams: Open streams.
        left: Processes of closed streams; their watchdogs clean up after them.
    """

    faults: ShellLinkFaults = field(default_factory=ShellLinkFaults)
    shell: str = "sh"
    env: Mapping[str, str] = field(default_factory=dict)
    streams: set[ShellStream] = field(default_factory=set)
    left: list[subprocess.Popen[bytes]] = field(default_factory=list)
    connected: bool = True
    description: str = "through a shell"

    def open(self, command: str, timeout_s: float) -> ShellStream:
        """Start a command."""
        if not self.connected:
            raise LinkError("the link is cut")
        stream = ShellStream(self, command, self.shell, self.env)
        self.streams.add(stream)
        return stream

    def cut(self) -> None:
        """Cut the connection: streams end on both sides, without any clean-up."""
        self.connected = False
        for stream in list(self.streams):
            stream.close()

    def close(self) -> None:
        """Close everything, and wait for the watchdogs."""
        self.cut()
        for process in self.left:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


def make_shell_link(
    home: str, faults: ShellLinkFaults | None = None, *, shell: str = "sh", call_s: float = 30.0, stall_s: float = 30.0
) -> RemoteLink:
    """Make a link to this machine's own shell, with its work folder below ``home``."""
    chosen = faults or ShellLinkFaults()

    def connect(timeout_s: float) -> Transport:
        chosen.connections += 1
        if chosen.refuse > 0:
            chosen.refuse -= 1
            raise LinkError("nobody answers")
        return ShellTransport(chosen, shell, {"HOME": home})

    return RemoteLink(connect, "shell", call_s=call_s, stall_s=stall_s)
