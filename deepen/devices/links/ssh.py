"""SSH through the package ``asyncssh``: an event loop in a thread of its own, behind blocking calls.

Host keys are verified against the user's ``known_hosts`` and never accepted on first use. Keys come from the agent, the
key files in ``~/.ssh`` and ``~/.ssh/config``, and so does a jump host (``ProxyJump``) unless one is named.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deepen.clock.host_clock import Deadline
from deepen.devices.links.address import parse_host_and_port, split_options
from deepen.devices.links.remote import RemoteLink
from deepen.errors import ConfigError, LinkError

__all__ = ["SshAddress", "SshTransport", "open_ssh_link"]

_KEEPALIVE_S = 5
_KEEPALIVES = 3
_GRACE_S = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SshAddress:
    """Address and credentials of an SSH login.

    Attributes:
        host: Name, address, or an alias of ``~/.ssh/config``.
        user: Login name; empty for the one configured, else this user's.
        port: Port; 0 for the one configured, else 22.
        keys: Private key files; empty for the agent and the usual ones.
        known_hosts: File of verified host keys; ``None`` for the one configured, else ``~/.ssh/known_hosts``.
        jump: Host to go through.
    """

    host: str
    user: str = ""
    port: int = 0
    keys: tuple[Path, ...] = ()
    known_hosts: Path | None = None
    jump: SshAddress | None = None

    def __str__(self) -> str:
        at = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{at}{host}{f':{self.port}' if self.port else ''}"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for ``asyncssh.connect``."""
        chosen: dict[str, Any] = {
            "keepalive_interval": _KEEPALIVE_S,
            "keepalive_count_max": _KEEPALIVES,
            "encoding": None,
        }
        if self.user:
            chosen["username"] = self.user
        if self.port:
            chosen["port"] = self.port
        if self.keys:
            chosen["client_keys"] = [str(k) for k in self.keys]
        if self.known_hosts is not None:
            chosen["known_hosts"] = str(self.known_hosts)
        return chosen


def _parse_ssh_address(text: str, **options: Any) -> SshAddress:
    user, at, place = text.rpartition("@")
    where = parse_host_and_port(place)
    host, port = (place, 0) if where is None else where
    host = host.removeprefix("[").removesuffix("]")
    if not host or host.startswith("-") or (at and not user) or not host.isprintable() or " " in host or "/" in host:
        raise ConfigError(f"'{text}' is not USER@HOST or USER@HOST:PORT")
    return SshAddress(host, user, port, **options)


def open_ssh_link(spec: str) -> RemoteLink:
    """Open a link.

    Args:
        spec: ``USER@HOST`` or ``USER@HOST:PORT`` (``[ADDRESS]:PORT`` for IPv6); then, after ``?``, ``key=FILE``,
            ``known_hosts=FILE``, ``jump=USER@HOST:PORT`` and ``work=FOLDER`` on the device.

    Raises:
        ConfigError: If it is not an address, an option is unknown or a file is missing.
    """
    text, options = split_options(spec, ("jump", "key", "known_hosts", "work"))
    login: dict[str, Any] = {}
    for name in ("key", "known_hosts"):
        if name in options:
            file = Path(options[name]).expanduser()
            if not file.is_file():
                raise ConfigError(f"'{spec}': no such file: {file}")
            login["keys" if name == "key" else name] = (file,) if name == "key" else file
    jump = _parse_ssh_address(options["jump"], **login) if "jump" in options else None
    address = _parse_ssh_address(text, jump=jump, **login)
    return RemoteLink(
        lambda timeout_s: SshTransport(address, timeout_s), f"ssh {address}", work=options.get("work", "")
    )


class _EventLoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """Wait for a coroutine; it is cancelled after ``timeout_s``.

        Raises:
            TimeoutError: If it was cancelled.
        """
        if not self._thread.is_alive():
            work.close()
            raise LinkError("the link is closed")
        future = asyncio.run_coroutine_threadsafe(_within(work, timeout_s), self._loop)
        try:
            # The loop itself enforces the time-out; the margin is for a loop that has stopped.
            return future.result(None if timeout_s == float("inf") else timeout_s + _GRACE_S)
        except concurrent.futures.CancelledError as error:
            raise LinkError("the link was closed meanwhile") from error
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel running coroutines and end the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(Exception):  # errors of cancelled coroutines do not matter
                asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(_GRACE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_GRACE_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _within(work: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
    return await asyncio.wait_for(work, None if timeout_s == float("inf") else timeout_s)


async def _cancel_all() -> None:
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _SshStream:
    """A command behind a channel of the connection."""

    def __init__(self, transport: SshTransport, process: Any) -> None:
        self._transport = transport
        self._process = process
        self._reading: asyncio.Task[bytes] | None = None

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all bytes; waits while the other side accepts none."""
        try:
            self._transport.loop.call(self._write(data), timeout_s)
        except TimeoutError as error:
            raise LinkError(f"the device took nothing within {timeout_s:g} s; check its network") from error
        except Exception as error:
            raise self._transport.failure(error) from error

    async def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    def read(self, timeout_s: float) -> bytes | None:
        """Read the bytes available; ``None`` if none came in time, empty at the end."""
        try:
            return self._transport.loop.call(self._read(timeout_s), float("inf"))
        except LinkError:
            raise
        except Exception as error:
            raise self._transport.failure(error) from error

    async def _read(self, timeout_s: float) -> bytes | None:
        # The task outlives a time-out, so that the bytes it reads are returned by the next call.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._process.stdout.read(1 << 16))
        done, _ = await asyncio.wait([self._reading], timeout=None if timeout_s == float("inf") else timeout_s)
        if not done:
            return None
        task, self._reading = self._reading, None
        return bytes(task.result())

    def close(self) -> None:
        """Close the stream."""
        with contextlib.suppress(Exception):  # a connection that is gone has closed it already
            self._transport.loop.call(self._close(), _GRACE_S)

    async def _close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._process.close()


class SshTransport:
    """An SSH connection."""

    def __init__(self, address: SshAddress, timeout_s: float) -> None:
        """Connect and log in.

        Raises:
            LinkError: If nobody answers in time.
            ConfigError: If the package or a key is missing, the host key is not the one known, or the login is refused.
        """
        try:
            import asyncssh
        except ImportError as error:
            raise ConfigError(
                f"the package asyncssh is needed to reach {address} ({error}); install it: pip install 'deepen[ssh]'"
            ) from error
        self.description = "over SSH" if address.jump is None else f"over SSH through {address.jump}"
        self.loop = _EventLoopThread()
        self._ssh = asyncssh
        self._address = address
        self._connections: list[Any] = []
        self._lost = threading.Event()
        deadline = Deadline(timeout_s)
        try:
            self.loop.call(self._connect(address, deadline), timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise LinkError(f"{address} did not answer within {timeout_s:g} s; is it on, and is sshd?") from error
            if isinstance(error, Exception):
                raise self._refusal(error) from error
            raise

    @property
    def connected(self) -> bool:
        """True while the connection is up."""
        return bool(self._connections) and not self._lost.is_set()

    def open(self, command: str, timeout_s: float) -> _SshStream:
        """Start a command.

        Raises:
            LinkError: If it could not be started in time.
        """
        if not self.connected:
            raise LinkError("the SSH connection was cut")
        try:
            process = self.loop.call(
                self._connections[-1].create_process(
                    command.encode("utf-8", "surrogateescape"), encoding=None, stderr=self._ssh.STDOUT
                ),
                timeout_s,
            )
        except TimeoutError as error:
            self._lost.set()
            raise LinkError(f"{self._address} did not start a command within {timeout_s:g} s; try again") from error
        except Exception as error:
            raise self.failure(error) from error
        return _SshStream(self, process)

    def failure(self, error: Exception) -> LinkError:
        """Return the error for a failure of an established connection."""
        if isinstance(error, LinkError):
            return error
        if not isinstance(error, BrokenPipeError):  # then one command has ended, and the connection may be fine
            self._lost.set()
        reason = str(error) or type(error).__name__
        return LinkError(f"the SSH connection to {self._address} was cut ({reason}); check its network, then try again")

    def close(self) -> None:
        """Close the connection, and the jump connections under it."""
        self._lost.set()
        with contextlib.suppress(Exception):  # a connection that is gone may raise anything when it is closed
            self.loop.call(self._disconnect(), _GRACE_S)
        self.loop.close()

    async def _connect(self, address: SshAddress, deadline: Deadline) -> Any:
        tunnel = None if address.jump is None else await self._connect(address.jump, deadline)
        options = address.options()
        if tunnel is not None:
            options["tunnel"] = tunnel
        connection = await self._ssh.connect(
            address.host, connect_timeout=deadline.remaining_s, login_timeout=deadline.remaining_s, **options
        )
        self._connections.append(connection)
        connection_lost = asyncio.ensure_future(connection.wait_closed())
        connection_lost.add_done_callback(lambda _: self._lost.set())
        return connection

    async def _disconnect(self) -> None:
        for connection in reversed(self._connections):
            connection.close()
        for connection in reversed(self._connections):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), 1.0)
            connection.abort()

    def _refusal(self, error: Exception) -> ConfigError | LinkError:
        """Return the error for a failure to connect: wrong keys are not worth a retry, the network is."""
        address, ssh = self._address, self._ssh
        if isinstance(error, ConfigError | LinkError):
            return error
        if isinstance(error, ssh.HostKeyNotVerifiable):
            where = address.known_hosts or "~/.ssh/known_hosts"
            return ConfigError(
                f"the host key of {address} is not the one in {where} ({error}); if the device is new, compare its "
                f"key and record it with 'ssh {address.host}'; if it was known, find out why it changed"
            )
        if isinstance(error, ssh.PermissionDenied):
            return ConfigError(
                f"{address} refused the login ({error}); install your key there (ssh-copy-id) or name one: "
                f"ssh:{address}?key=FILE"
            )
        if isinstance(error, ssh.KeyImportError | ssh.KeyEncryptionError):
            return ConfigError(f"a key for {address} cannot be read ({error}); add it to the agent: ssh-add FILE")
        reason = str(error) or type(error).__name__
        return LinkError(f"cannot connect to {address} ({reason}); is it on, and is sshd?")
