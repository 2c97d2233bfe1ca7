"""The local link: processes on the host itself, connected by pipes."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from deepen.clock.host_clock import Deadline
from deepen.devices.links.files import open_atomic_file, require_readable_file
from deepen.devices.links.quoting import check_argv, format_env_arguments
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError

__all__ = ["LocalLink", "PipeChannel"]

_LAST_WORDS = 2000
_REAP_S = 10.0


class _ChildProcess:
    """A process in a session of its own: Ctrl-C in the terminal does not reach it, and its whole group can be killed.

    It is not reaped before :meth:`end`: until then its process id, which is also that of its group, cannot be reused,
    so that killing the group cannot hit another process.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, stdin: int, stdout: int | IO[bytes], stderr: IO[bytes]
    ) -> None:
        """Start it; raises what ``subprocess.Popen`` raises."""
        format_env_arguments(env)
        self.process = subprocess.Popen(
            check_argv(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **env},
            bufsize=0,
            start_new_session=True,
        )

    def status(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        if self.process.returncode is not None or not hasattr(os, "waitid"):  # macOS has none before Python 3.13
            return self.process.poll()
        try:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it has been reaped elsewhere
            return self.process.poll()
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit status; ``None`` if it still runs after ``timeout_s``."""
        deadline = Deadline(timeout_s)
        pause_s = 0.0005
        while (found := self.status()) is None and not deadline.expired:
            time.sleep(min(pause_s, deadline.remaining_s))
            pause_s = min(2 * pause_s, 0.02)
        return found

    def end(self) -> None:
        """Kill the rest of the group, and reap the process."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process in the kernel cannot be killed now
            self.process.wait(_REAP_S)


class PipeChannel:
    """A child process that answers lines with lines.

    Its standard error goes to an unnamed file, which unlike a pipe cannot fill up and block the child.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the process.

        Raises:
            LinkError: If it cannot be started.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in kill()
        try:
            self._child = _ChildProcess(argv, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr)
        except OSError as error:
            self._stderr.close()
            raise LinkError(
                f"cannot start {argv[0]}: {error.strerror}", cure="is it installed and executable?"
            ) from error
        except ConfigError:
            self._stderr.close()
            raise
        self._process = self._child.process
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
        """Read one line; ``None`` if none came in time.

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
        return self._child.status()

    def kill(self) -> None:
        """Kill the process and its group, reap it, and keep the end of its standard error."""
        self._child.end()
        self._words = self.last_words()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def last_words(self) -> str:
        """Return the end of its standard error."""
        if self._stderr.closed:
            return self._words
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_WORDS))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def _settle(self) -> None:
        """Wait briefly for a process whose pipes are closed, so that its exit status is known."""
        self._child.wait(2.0)


class LocalLink:
    """Runs processes on the host."""

    description = "this machine"

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Run a command to its end, without input; processes left in its group are killed with it.

        Raises:
            LinkError: If it did not end in time; it has been killed.
            ConfigError: If an argument cannot be passed on.
        """
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                child = _ChildProcess(argv, env or {}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            except (FileNotFoundError, NotADirectoryError) as error:
                return CompletedCommand(127, b"", f"{argv[0]}: {error.strerror}\n".encode())
            except PermissionError as error:
                return CompletedCommand(126, b"", f"{argv[0]}: {error.strerror}\n".encode())
            except OSError as error:
                raise LinkError(f"cannot start {argv[0]}: {error.strerror}", cure="try again") from error
            try:
                status = child.wait(timeout_s)
            finally:
                child.end()
            if status is None:
                raise LinkError(
                    f"{argv[0]} did not end within {timeout_s:g} s and was killed", cure="allow it more time"
                )
            stdout.seek(0)
            stderr.seek(0)
            return CompletedCommand(status, stdout.read(), stderr.read())

    def push(self, path: Path, *, name: str | None = None) -> str:
        """Return the absolute path: the file is already here, and keeps its name.

        Raises:
            ConfigError: If there is no such file.
        """
        return str(require_readable_file(path).resolve())

    def pull(self, remote: str, path: Path) -> None:
        """Copy a file; ``path`` holds all of it or what it held before.

        Raises:
            ConfigError: If there is no such file.
            StorageError: If the disk refuses it.
        """
        source = require_readable_file(Path(remote))
        with contextlib.suppress(OSError):  # there is no such file yet
            if path.samefile(source):
                return
        with source.open("rb") as content, open_atomic_file(path) as target:
            shutil.copyfileobj(content, target)

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> PipeChannel:
        """Start a process.

        Raises:
            LinkError: If it cannot be started.
        """
        return PipeChannel(argv, env)

    def alive(self) -> bool:
        """Return True: it is this machine."""
        return True

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def is_main_thread() -> bool:
    """Return whether the caller is the main thread (a parent-death signal follows the thread, not the process)."""
    return threading.current_thread() is threading.main_thread()
