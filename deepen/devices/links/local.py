"""The local link: processes on the host itself, spoken to over pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepen.clock import Deadline
from deepen.errors import LinkError

__all__ = ["LocalLink", "PipeChannel"]

_LAST_WORDS = 2000


class PipeChannel:
    """A child process that answers lines with lines.

    The child runs in a session of its own, so Ctrl-C in the terminal reaches the host alone. Its standard error goes
    to an unnamed file: it can never fill up and stop the child.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the process.

        Raises:
            LinkError: If it cannot be started.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in kill()
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **env},
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise LinkError(f"cannot start {argv[0]}: {error.strerror}; is it installed and executable?") from error
        self.pid: int | None = self._process.pid
        self._pending = b""
        self._words = ""

    def send(self, line: bytes) -> None:
        """Write one line.

        Raises:
            LinkError: If the process is gone.
        """
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise LinkError("the worker has been stopped")
        view = memoryview(line + b"\n")
        try:
            while view:
                view = view[os.write(stdin.fileno(), view) :]
        except OSError as error:
            self._settle()
            raise LinkError(f"the worker is gone ({error.strerror})") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """Read one line; ``None`` when none came in time.

        Raises:
            LinkError: If the process closed its output.
        """
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            raise LinkError("the worker has been stopped")
        deadline = Deadline(timeout_s)
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], deadline.remaining_s)
            if not ready:
                return None
            data = os.read(stdout.fileno(), 1 << 16)
            if not data:
                self._settle()
                raise LinkError("the worker closed its output")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Kill the process and its session, wait for it, and keep its last words."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()
        self._words = self.last_words()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def last_words(self) -> str:
        """The end of what it wrote on its standard error."""
        if self._stderr.closed:
            return self._words
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_WORDS))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def _settle(self) -> None:
        """Give a process whose pipes are closed a moment to be reaped, so that its exit status is known."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)


class LocalLink:
    """Runs processes on the host."""

    def push(self, path: Path) -> str:
        """Return the absolute path: the file is already here."""
        return str(path.resolve())

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> PipeChannel:
        """Start a process.

        Raises:
            LinkError: If it cannot be started.
        """
        return PipeChannel(argv, env)

    def close(self) -> None:
        """Nothing to release."""


def on_main_thread() -> bool:
    """Whether the caller is the main thread (a parent-death signal follows the thread, not the process)."""
    return threading.current_thread() is threading.main_thread()
