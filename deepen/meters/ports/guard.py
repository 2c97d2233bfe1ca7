"""A guard: a small process that makes an instrument safe when the program that uses it dies.

A supply that keeps a phone at 4.2 V, or a streaming instrument without a reader, must not outlive the program that set
it up, whatever ends that program: ``kill -9``, the kernel running out of memory, a crash of an extension. The guard
inherits the open port and the reading end of a pipe. While the program lives it only waits. When the pipe closes
without a message, or its parent is gone (a forked child may keep the other end of the pipe open), it writes the
instrument's safe bytes and ends. After an orderly close it has nothing left to write.

The guard runs this file as a script, in a session of its own (Ctrl-C does not reach it), with the standard library
alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

__all__ = ["PortGuard"]

_POLL_S = 0.5
_WRITE_S = 2.0
_END_S = 5.0


class PortGuard:
    """Watches over one port from construction to :meth:`close`."""

    def __init__(self, fd: int, safe_bytes: bytes, *, keep: Sequence[int] = ()) -> None:
        """Start the guard.

        Args:
            fd: Descriptor of the open port.
            safe_bytes: Bytes that make the instrument safe; empty for none yet (see :meth:`arm`).
            keep: Further descriptors for the guard to hold, such as that of the instrument's lock, so that the
                instrument is not taken over before it is safe.
        """
        reader, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(fd), str(reader), str(os.getpid())],
                pass_fds=(fd, reader, *keep),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reader)
        self.arm(safe_bytes)

    def arm(self, safe_bytes: bytes) -> None:
        """Set the bytes to write if the program dies from now on; empty for none."""
        with contextlib.suppress(BrokenPipeError):  # the guard has been killed
            os.write(self._pipe, safe_bytes.hex().encode() + b"\n")

    def close(self) -> None:
        """End the guard without writing anything; harmless when closed."""
        if self._pipe >= 0:
            self.arm(b"")
            self.fire()

    def fire(self) -> None:
        """Let the guard write the safe bytes now, and end it; harmless when closed."""
        pipe, self._pipe = self._pipe, -1
        if pipe < 0:
            return
        os.close(pipe)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _wait_for_parent_exit(pipe: int, parent: int) -> bytes:
    """Wait until the parent is gone; return the safe bytes it set last."""
    received = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], _POLL_S)
        data = os.read(pipe, 65536) if ready else b""
        received += data
        if (ready and not data) or (not ready and os.getppid() != parent):
            break
        received = received[received.rfind(b"\n", 0, received.rfind(b"\n")) + 1 :]  # the last whole line, and its rest
    lines = received.split(b"\n")
    return bytes.fromhex(lines[-2].decode("ascii")) if len(lines) > 1 else b""


def _write_bounded(fd: int, data: bytes) -> None:
    """Write to a port that may be full or gone, within a bounded time."""
    end = time.monotonic() + _WRITE_S
    os.set_blocking(fd, False)
    while data and time.monotonic() < end:
        _, ready, _ = select.select([], [fd], [], _POLL_S)
        if ready:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                continue
            except OSError:  # unplugged: nothing left to make safe
                return


if __name__ == "__main__":
    _write_bounded(int(sys.argv[1]), _wait_for_parent_exit(int(sys.argv[2]), int(sys.argv[3])))
