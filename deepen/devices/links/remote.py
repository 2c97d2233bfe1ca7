"""A link over any transport that can start a shell command: ADB with or without a server, and SSH.

Every failure of the connection is a ``LinkError``; the next call connects again. Commands that ran when the connection
was lost are ended by their watchdog on the device (see :mod:`deepen.devices.links.jobs`), and once more from the host
as soon as the device can be reached.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepen.clock.host_clock import Deadline
from deepen.devices.links.channel import RemoteChannel
from deepen.devices.links.jobs import JobOutputParser, make_job_argv, make_kill_argv, make_script_argv
from deepen.devices.links.quoting import check_argv, format_env_arguments, shell_join
from deepen.devices.links.transfer import pull_file, push_file
from deepen.devices.links.transport import CommandStream, Transport
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError

__all__ = ["MOST_OUTPUT", "RemoteLink"]

MOST_OUTPUT = 64 << 20
"""Largest output of a command that ``run`` accepts, bytes; more belongs in a file that is pulled."""

_KILL_S = 20.0

_PROBE = r"""
for tool in cat chmod grep head mkdir mv rm setsid sha256sum sleep tail wc; do
    command -v "$tool" >/dev/null 2>&1 || { echo "the program $tool is missing there"; exit 3; }
done
if [ -n "$1" ]; then
    w=$1
elif [ -d /data/local/tmp ] && [ -w /data/local/tmp ]; then
    w=/data/local/tmp/deepen
elif [ -n "$HOME" ] && [ -w "$HOME" ]; then
    w=$HOME/.cache/deepen
else
    w=/tmp/deepen-$(id -u)
fi
umask 077
mkdir -p "$w/jobs" "$w/files" && chmod 700 "$w" && [ -w "$w" ] && [ -w "$w/jobs" ] && [ -w "$w/files" ] &&
    { [ -O "$w" ] || [ "$(id -u)" = 0 ]; } || { echo "cannot write the folder $w there"; exit 4; }
for j in "$w"/jobs/*; do
    [ -d "$j" ] || continue
    t=${j##*/}
    # Brackets keep the pattern from matching the command line of grep itself.
    grep -qs "[${t%"${t#?}"}]${t#?}" /proc/[0-9]*/cmdline /proc/[0-9]*/environ || rm -rf "$j"
done
echo "$w"
"""
"""Argument: the wanted work folder, or nothing. Prints the folder chosen.

Removes the folders of abandoned jobs, left behind when the device restarted. The shell of a live job has the job's
token in its command line until it has removed the folder itself.
"""


class RemoteLink:
    """Runs processes on a device behind a transport."""

    def __init__(
        self,
        connect: Callable[[float], Transport],
        name: str,
        *,
        work: str = "",
        connect_s: float = 20.0,
        call_s: float = 30.0,
        stall_s: float = 30.0,
    ) -> None:
        """Set up the link; the first call connects.

        Args:
            connect: Makes a connection within a number of seconds.
            name: Name of the device for messages: ``adb 0A1B2C``.
            work: Folder on the device for files and running commands, an absolute path; empty for
                ``/data/local/tmp/deepen`` where that is possible, else ``~/.cache/deepen``.
            connect_s: Time a connection may take, seconds.
            call_s: Time a short script may take on the device, seconds.
            stall_s: Time after which a transfer without progress counts as stuck, seconds.
        """
        if work and not work.startswith("/"):
            raise ConfigError(f"{name}: the work folder {work!r} is no absolute path")
        self.name = name
        self.stall_s = stall_s
        self.call_s = call_s
        self._connect = connect
        self._connect_s = connect_s
        self._lock = threading.RLock()
        self.transfer_lock = threading.Lock()
        self.digests: dict[Path, tuple[tuple[int, ...], str, int]] = {}  # of local files, valid while unchanged
        self.pushed: set[tuple[str, str]] = set()  # hash and name of files known to be complete on the device
        self._transport: Transport | None = None
        self._wanted = work
        self._work = ""
        self._channels: set[RemoteChannel] = set()
        self._unsure: set[str] = set()
        self._closed = False

    @property
    def description(self) -> str:
        """Name of the device, and the route of the link."""
        transport = self._transport
        return self.name if transport is None else f"{self.name} {transport.description}"

    @property
    def work(self) -> str:
        """The link's folder on the device; known once it has connected."""
        return self._work

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Run a command to its end, without input; processes left in its group are killed with it.

        Raises:
            LinkError: If it did not end in time, wrote more than 64 MiB, or the device is gone.
            ConfigError: If an argument cannot be passed on.
        """
        with self._job(argv, env or {}, timeout_s) as (token, stream, output, deadline):
            while not output.done:
                data = self._read(stream, deadline, token)
                if data is None:
                    self.end_job(token)
                    raise LinkError(
                        f"{self.name}: {argv[0]} did not end within {timeout_s:g} s and was killed; allow it more time"
                    )
                if not data:
                    self._doubt(token)
                    raise LinkError(self._cut(argv[0], output))
                output.feed(data)
                if len(output.stdout) > MOST_OUTPUT:
                    self.end_job(token)
                    raise LinkError(f"{self.name}: {argv[0]} wrote more than {MOST_OUTPUT >> 20} MiB; use a file")
            assert output.status is not None  # it has ended
            return CompletedCommand(output.status, output.take(), output.stderr)

    def push(self, path: Path, *, name: str | None = None) -> str:
        """Copy a file to the device's work folder; skipped if the same content is there, resumed after a cut.

        Raises:
            ConfigError: If there is no such file or the name is not the name of a file.
            LinkError: If it could not be copied; the next call resumes where this one ended.
        """
        return push_file(self, path, path.name if name is None else name)

    def pull(self, remote: str, path: Path) -> None:
        """Fetch a file; ``path`` then holds all of it (its hash checked), or on error its previous content.

        Raises:
            ConfigError: If there is no such file on the device.
            LinkError: If it could not be copied.
            StorageError: If the host's disk refuses it.
        """
        pull_file(self, remote, path)

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> RemoteChannel:
        """Start a process that exchanges lines; it ends when its channel is killed or the link is cut, if not before.

        Raises:
            LinkError: If it cannot be started.
            ConfigError: If an argument cannot be passed on.
        """
        token, stream, output, deadline = self._start(argv, env, self.call_s, reads=True)
        channel = RemoteChannel(self, token, stream, output, argv[0])
        try:
            while output.pid is None:
                data = self._read(stream, deadline, token)
                if not data:
                    raise LinkError(self._cut(argv[0], output))
                output.feed(data)
            if output.missing:
                raise LinkError(f"{self.name}: cannot start {argv[0]}: no such program there; is it installed?")
        except BaseException:
            channel.kill()
            raise
        channel.pid = output.pid
        with self._lock:
            self._channels.add(channel)
        return channel

    def alive(self) -> bool:
        """Return whether the device answers now; reconnects if necessary and possible."""
        if self._closed:
            return False
        try:
            return self.script(":", timeout_s=min(5.0, self.call_s)).status == 0
        except (LinkError, ConfigError):  # a refused key is not an answer either
            return False

    def disconnect(self) -> None:
        """Drop the connection as a cut would: commands running over it end on the device; the next call reconnects."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def close(self) -> None:
        """End everything started over the link and release it; harmless when repeated."""
        with self._lock:
            channels, self._channels = set(self._channels), set()
        if channels and not self.alive():
            self._closed = True  # the watchdogs on the device end running commands; no need to try one by one
        for channel in channels:
            channel.kill()
        with self._lock:
            self._closed = True
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # ---- for the parts of a link ----------------------------------------------------------------------------------

    def script(self, body: str, *arguments: str, timeout_s: float | None = None) -> CompletedCommand:
        """Run a short script that needs no watching.

        Raises:
            LinkError: If it did not end in time or the device is gone.
        """
        transport = self._session()
        return self._script_on(transport, body, arguments, Deadline(self.call_s if timeout_s is None else timeout_s))

    @contextmanager
    def script_stream(self, body: str, *arguments: str) -> Iterator[tuple[CommandStream, JobOutputParser]]:
        """Run a script that reads or writes a stream of bytes; the stream is closed at the end of the block."""
        marker = _make_marker()
        stream = self._session().open(shell_join(make_script_argv(marker, body, *arguments)), self.call_s)
        try:
            yield stream, JobOutputParser(marker)
        finally:
            stream.close()

    def end_job(self, token: str) -> str:
        """End a job and return the end of its standard error. Never raises.

        A job that cannot be reached now is ended as soon as the device can be reached.
        """
        try:
            transport = self._session()
            self._doubt(token)
            done = self._kill_on(transport, token)
        except (LinkError, ConfigError):
            self._doubt(token)
            return ""
        return done.stdout.decode("utf-8", "replace").strip()

    def read_job_stderr(self, token: str) -> str:
        """Return the end of a running job's standard error so far; empty while the link is cut."""
        try:
            done = self.script('tail -c 2000 "$1/jobs/$2/err" 2>/dev/null', self._work, token)
        except (LinkError, ConfigError):
            return ""
        return done.stdout.decode("utf-8", "replace").strip()

    def forget(self, channel: RemoteChannel) -> None:
        """Drop a channel that has ended."""
        with self._lock:
            self._channels.discard(channel)

    # ---- helpers --------------------------------------------------------------------------------------------------

    def _session(self) -> Transport:
        """Return the connection, renewed if it was cut."""
        if not self._lock.acquire(timeout=self._connect_s + self.call_s + _KILL_S):
            raise LinkError(f"{self.name}: somebody else is still connecting to it; try again")
        try:
            if self._closed:
                raise LinkError(f"{self.name}: the link is closed; open the device again")
            if self._transport is not None and self._transport.connected:
                return self._transport
            if self._transport is not None:
                self._transport.close()
                self._transport = None
            transport = self._connect(self._connect_s)
            try:
                self._work = self._probe(transport)
                for token in sorted(self._unsure):
                    self._kill_on(transport, token)
            except BaseException:
                transport.close()
                raise
            self._transport = transport
            return transport
        finally:
            self._lock.release()

    def _probe(self, transport: Transport) -> str:
        done = self._script_on(transport, _PROBE, (self._wanted,), Deadline(self.call_s))
        answer = done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")
        if done.status == 3:
            raise LinkError(f"{self.name}: {answer[-200:]}; it comes with coreutils, BusyBox and Android's toybox")
        if done.status != 0 or not answer.startswith("/") or "\n" in answer:
            raise LinkError(f"{self.name}: {answer[-200:] or 'no work folder'}; free some space, or remove that folder")
        return answer

    def _kill_on(self, transport: Transport, token: str) -> CompletedCommand:
        marker = _make_marker()
        done = self._exchange(transport, make_kill_argv(self._work, token, marker), marker, Deadline(_KILL_S))
        if done.status == 0:
            with self._lock:
                self._unsure.discard(token)
        return done

    def _script_on(
        self, transport: Transport, body: str, arguments: Sequence[str], deadline: Deadline
    ) -> CompletedCommand:
        marker = _make_marker()
        return self._exchange(transport, make_script_argv(marker, body, *arguments), marker, deadline)

    def _exchange(self, transport: Transport, argv: Sequence[str], marker: str, deadline: Deadline) -> CompletedCommand:
        output = JobOutputParser(marker)
        stream = transport.open(shell_join(argv), deadline.remaining_s)
        try:
            while not output.done:
                data = stream.read(deadline.remaining_s)
                if data is None:
                    transport.close()  # a silent connection counts as cut: the next call reconnects
                    raise LinkError(f"{self.name} did not answer within {deadline.duration_s:g} s; is it still there?")
                if not data:
                    raise LinkError(self._cut("a script", output))
                output.feed(data)
        finally:
            stream.close()
        assert output.status is not None  # it has ended
        return CompletedCommand(output.status, output.take(), b"")

    def _start(
        self, argv: Sequence[str], env: Mapping[str, str], timeout_s: float, *, reads: bool
    ) -> tuple[str, CommandStream, JobOutputParser, Deadline]:
        """Start a job; its deadline counts from here, not from before the connection was made."""
        check_argv(argv)
        format_env_arguments(env)
        transport = self._session()
        token, marker = secrets.token_hex(16), _make_marker()
        command = shell_join(make_job_argv(self._work, token, marker, argv, env, reads=reads))
        deadline = Deadline(timeout_s)
        try:
            return token, transport.open(command, max(timeout_s, 1.0)), JobOutputParser(marker), deadline
        except LinkError:
            self._doubt(token)  # it may have been started all the same
            raise

    @contextmanager
    def _job(
        self, argv: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> Iterator[tuple[str, CommandStream, JobOutputParser, Deadline]]:
        token, stream, output, deadline = self._start(argv, env, timeout_s, reads=False)
        try:
            yield token, stream, output, deadline
        except LinkError:
            raise
        except BaseException:  # Ctrl-C: nothing may keep running on the device
            self.end_job(token)
            raise
        finally:
            stream.close()

    def _read(self, stream: CommandStream, deadline: Deadline, token: str) -> bytes | None:
        try:
            return stream.read(deadline.remaining_s)
        except LinkError:
            self._doubt(token)
            raise

    def _doubt(self, token: str) -> None:
        with self._lock:
            self._unsure.add(token)

    def _cut(self, what: str, output: JobOutputParser) -> str:
        if output.failure:
            return f"{self.name}: {output.failure}; free some space there"
        noise = output.noise.decode("utf-8", "replace").strip().splitlines()
        last = f" (its last output: {noise[-1][:120]})" if noise else ""
        return f"{self.name}: the link was cut while {what} ran{last}; check cable and power, then try again"


def _make_marker() -> str:
    return f"@{secrets.token_hex(16)}"
