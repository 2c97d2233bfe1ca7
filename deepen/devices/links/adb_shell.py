"""ADB without a server: the protocol over TCP or USB, with the transports and keys of the package ``adb-shell``.

The package's own calls cannot send input to a command and run one command at a time; here its transports carry any
number of streams at once. Messages are described in ADB's ``protocol.txt`` (system/core/adb): six little-endian words,
then data; ``OPEN`` a service, ``WRTE`` data, ``OKAY`` before the next piece, ``CLSE``. Commands use the service
``exec:`` (Android 5 and later): no terminal, bytes unchanged.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections import deque
from pathlib import Path
from typing import Any

from deepen.clock.host_clock import Deadline
from deepen.errors import ConfigError, LinkError

__all__ = ["AdbSession", "connect_tcp", "connect_usb", "find_adb_keys", "load_signers"]

_VERSION = 0x01000000  # with checksums; spoken by every daemon
_MAX_DATA = 1 << 18
_POLL_S = 0.5


def _import_module(name: str) -> Any:
    import importlib

    usb = name.endswith("usb_transport")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the package is installed, the system's libusb is not
        also = ", and the system's libusb-1.0" if usb else ""
        raise ConfigError(
            f"the package adb-shell is needed to reach a device without an adb server ({error}); start one (adb "
            f"start-server), or install it: pip install 'deepen[adb]'{also}"
        ) from error


def find_adb_keys() -> list[Path]:
    """Find this user's private ADB keys: ``$ADB_VENDOR_KEYS`` (separated by colons), then ``~/.android/adbkey``."""
    import os

    named = [Path(p) for p in os.environ.get("ADB_VENDOR_KEYS", "").split(os.pathsep) if p]
    return [p for p in [*named, Path.home() / ".android" / "adbkey"] if p.is_file()]


def load_signers(files: list[Path]) -> list[Any]:
    """Load the signers of private keys.

    Raises:
        ConfigError: If a key or its public half cannot be read.
    """
    sign = _import_module("adb_shell.auth.sign_pythonrsa")
    signers = []
    for path in files:
        public = path.with_name(f"{path.name}.pub")
        try:
            signers.append(sign.PythonRSASigner(public.read_text(encoding="ascii"), path.read_text(encoding="ascii")))
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(
                f"cannot read the ADB key {path} with {public.name} ({error}); make a new pair: adb keygen {path}"
            ) from error
    return signers


class _AdbStream:
    """The stream of one service on the device."""

    def __init__(self, session: AdbSession, local_id: int) -> None:
        self._session = session
        self.local_id = local_id
        self.remote_id = 0
        self.arrived: deque[bytes] = deque()
        self.ready = 0  # acknowledgements that allow another piece
        self.closed = False

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all bytes; each piece is sent when the one before has been acknowledged."""
        deadline, session = Deadline(timeout_s), self._session
        view = memoryview(data)
        while view:
            piece = bytes(view[: session.max_data])
            with session.changed:
                while not self.ready and not self.closed and session.connected and not deadline.expired:
                    session.changed.wait(deadline.remaining_s)
                if self.closed or not session.connected:
                    raise LinkError(f"the device closed the stream ({session.reason or 'the command has ended'})")
                if not self.ready:
                    raise LinkError(f"the device took nothing within {timeout_s:g} s; check the cable, then try again")
                self.ready -= 1
            session.send("WRTE", self.local_id, self.remote_id, piece, deadline.remaining_s)
            view = view[len(piece) :]

    def read(self, timeout_s: float) -> bytes | None:
        """Read the bytes available; ``None`` if none came in time, empty at the end."""
        deadline, session = Deadline(timeout_s), self._session
        with session.changed:
            while not self.arrived and not self.closed and session.connected and not deadline.expired:
                session.changed.wait(deadline.remaining_s)
            if self.arrived:
                data = b"".join(self.arrived)
                self.arrived.clear()
            elif self.closed:
                return b""
            elif not session.connected:
                raise LinkError(f"the connection was cut ({session.reason})")
            else:
                return None
        # The daemon may send more only now, so that unread data does not pile up here.
        session.acknowledge(self)
        return data

    def close(self) -> None:
        """Close the stream."""
        self._session.forget(self)


class AdbSession:
    """A connection to an ADB daemon."""

    def __init__(
        self, transport: Any, target: str, description: str, signers: list[Any], timeout_s: float, allow_s: float
    ) -> None:
        """Connect and authenticate.

        Args:
            transport: A transport of adb-shell, not yet connected.
            target: Name of the device, for messages.
            description: Route of the connection.
            signers: Keys to try, in order.
            timeout_s: Time the connection may take, seconds.
            allow_s: Time the user has to allow an unknown key on the device, seconds.

        Raises:
            LinkError: If nobody answers, or the device does not (yet) allow the key.
            ConfigError: If the device wants a key and there is none.
        """
        self.description = description
        self.max_data = 4096
        self.reason = ""
        self._shut_down = threading.Event()
        self.changed = threading.Condition()
        self._transport = transport
        self._write_lock = threading.Lock()
        self._streams: dict[int, _AdbStream] = {}
        self._next_id = 1
        self._outbox: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
        self._constants = _import_module("adb_shell.constants")
        self._message = _import_module("adb_shell.adb_message").AdbMessage
        self._names = {wire: name.decode() for name, wire in self._constants.ID_TO_WIRE.items()}
        deadline = Deadline(timeout_s)
        try:
            transport.connect(deadline.remaining_s)
            self._handshake(signers, deadline, allow_s)
        except BaseException as error:
            self._shut(str(error))
            if isinstance(error, LinkError | ConfigError) or not isinstance(error, Exception):
                raise
            raise LinkError(
                f"cannot connect to {target} ({_describe_error(error)}); is the device on, and USB debugging with it?"
            ) from error
        self._threads = [
            threading.Thread(target=self._receive, name="adb-receive", daemon=True),
            threading.Thread(target=self._answer, name="adb-answer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def connected(self) -> bool:
        """True while the connection is up."""
        return not self._shut_down.is_set()

    def open(self, command: str, timeout_s: float) -> _AdbStream:
        """Start a command.

        Raises:
            LinkError: If it could not be started in time.
        """
        deadline = Deadline(timeout_s)
        with self.changed:
            if not self.connected:
                raise LinkError(f"the connection was cut ({self.reason})")
            stream = _AdbStream(self, self._next_id)
            self._streams[self._next_id] = stream
            self._next_id += 1
        try:
            service = b"exec:" + command.encode("utf-8", "surrogateescape") + b"\0"
            if len(service) > self.max_data:
                raise ConfigError(
                    f"the device takes {self.max_data} bytes of a command, not {len(service)} (Android before 7 takes "
                    "4096); shorten it"
                )
            self.send("OPEN", stream.local_id, 0, service, deadline.remaining_s)
            self._await_opening(stream, deadline)
        except BaseException:
            self.forget(stream)
            raise
        return stream

    def _await_opening(self, stream: _AdbStream, deadline: Deadline) -> None:
        with self.changed:
            while not stream.remote_id and not stream.closed and self.connected and not deadline.expired:
                self.changed.wait(deadline.remaining_s)
            if stream.remote_id:
                return
            if stream.closed:
                raise LinkError("the device refused to start a command (Android before 5 knows no 'exec')")
            reason = f"the connection was cut: {self.reason}" if not self.connected else "no answer in time"
        self._shut(reason)  # a silent connection is as good as cut
        raise LinkError(f"could not start a command ({reason}); check the cable, then try again")

    def send(self, command: str, arg0: int, arg1: int, data: bytes, timeout_s: float) -> None:
        """Send one message.

        Raises:
            LinkError: If it was not accepted in time; the connection is closed, because half a message may have gone.
        """
        message = self._message(command.encode(), arg0, arg1, data)
        deadline = Deadline(max(timeout_s, 1.0))
        if not self._write_lock.acquire(timeout=deadline.remaining_s):
            raise LinkError("the device takes nothing; check the cable, then try again")
        try:
            for part in (message.pack(), data):
                view = memoryview(part)
                while view and self.connected:
                    # A transport may accept only part of the bytes.
                    view = view[self._transport.bulk_write(bytes(view), max(deadline.remaining_s, 0.05)) :]
        except Exception as error:
            self._shut(_describe_error(error))
            raise LinkError(
                f"the connection was cut ({_describe_error(error)}); check the cable, then try again"
            ) from error
        finally:
            self._write_lock.release()
        if not self.connected:
            raise LinkError(f"the connection was cut ({self.reason})")

    def acknowledge(self, stream: _AdbStream) -> None:
        """Let the device send another piece; a dead connection is reported by the next read."""
        if not stream.closed and self.connected:
            with contextlib.suppress(LinkError):
                self.send("OKAY", stream.local_id, stream.remote_id, b"", 10.0)

    def forget(self, stream: _AdbStream) -> None:
        """Close a stream; the message to the device is sent by a thread that may block."""
        with self.changed:
            known = self._streams.pop(stream.local_id, None)
            was_closed = stream.closed
            stream.closed = True
            self.changed.notify_all()
        if known is not None and not was_closed and self.connected:
            self._outbox.put(("CLSE", stream.local_id, stream.remote_id))

    def close(self) -> None:
        """Close the connection."""
        self._flush()
        self._shut("closed here")
        self._outbox.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5.0)

    # ---- the protocol ---------------------------------------------------------------------------------------------

    def _handshake(self, signers: list[Any], deadline: Deadline, allow_s: float) -> None:
        self.send("CNXN", _VERSION, _MAX_DATA, b"host::features=\0", deadline.remaining_s)
        name, arg0, arg1, data = self._packet(deadline)
        if name == "AUTH" and not signers:
            raise ConfigError(
                "the device asks for an ADB key and there is none; make one with 'adb keygen ~/.android/adbkey' (or "
                "python -c \"from adb_shell.auth.keygen import keygen; keygen('adbkey')\" there), then allow it"
            )
        tried = iter(signers)
        while name == "AUTH":
            if arg0 != self._constants.AUTH_TOKEN:
                raise LinkError(f"the device sent something that is not ADB (AUTH {arg0})")
            signer = next(tried, None)
            if signer is None:
                public = signers[0].GetPublicKey()
                public = public if isinstance(public, bytes) else public.encode()
                self.send("AUTH", self._constants.AUTH_RSAPUBLICKEY, 0, public + b"\0", deadline.remaining_s)
                waiting = Deadline(allow_s)
                try:
                    name, arg0, arg1, data = self._packet(waiting)
                except LinkError as error:
                    raise self._unknown_key(waiting.expired) from error
                if name == "AUTH":
                    raise self._unknown_key(expired=True)
                break
            signature = signer.Sign(data)
            self.send("AUTH", self._constants.AUTH_SIGNATURE, 0, signature, deadline.remaining_s)
            name, arg0, arg1, data = self._packet(deadline)
        if name != "CNXN":
            raise LinkError(f"the device answered {name} instead of CNXN; try again")
        self.max_data = max(1, min(arg1, _MAX_DATA))

    def _unknown_key(self, expired: bool) -> LinkError:
        how = "and did not allow it in time" if expired else "and hung up"
        return LinkError(
            f"the device does not know this computer's ADB key {how}; unlock its screen, allow USB debugging in the "
            "dialog, then try again"
        )

    def _packet(self, deadline: Deadline) -> tuple[str, int, int, bytes]:
        """Read one message.

        Raises:
            LinkError: If it is incomplete when time is up, or is not an ADB message.
        """
        import struct

        head = self._exactly(self._constants.MESSAGE_SIZE, deadline)
        command, arg0, arg1, length, checksum, magic = struct.unpack(self._constants.MESSAGE_FORMAT, head)
        if command == 0x534C5453:  # STLS
            raise LinkError(
                "the device wants TLS (wireless debugging); pair it with an adb server ('adb pair HOST:PORT', 'adb "
                "connect HOST:PORT') and use that, or switch it to plain TCP: adb tcpip 5555"
            )
        if magic != command ^ 0xFFFFFFFF or length > (1 << 21):
            raise LinkError(f"what came is not ADB ({head[:8]!r}); is this the port of an ADB daemon?")
        data = self._exactly(length, deadline)
        if checksum and sum(data) & 0xFFFFFFFF != checksum:
            raise LinkError("a message arrived damaged; check the cable, then try again")
        return self._names.get(command, hex(command)), arg0, arg1, data

    def _exactly(self, size: int, deadline: Deadline) -> bytes:
        data = b""
        while len(data) < size:
            if not self.connected:
                raise LinkError(f"the connection was cut ({self.reason})")
            if deadline.expired:
                raise LinkError(f"no answer within {deadline.duration_s:g} s")
            try:
                got = self._transport.bulk_read(size - len(data), min(_POLL_S, deadline.remaining_s))
            except Exception as error:
                if _is_timeout(error):
                    continue
                raise
            if not got:
                raise LinkError("the device hung up")
            data += bytes(got)
        return data

    # ---- threads --------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            while self.connected:
                self._dispatch(*self._packet(Deadline(float("inf"))))
        except Exception as error:  # any exception of a transport ends the connection; readers get its reason
            self._shut(_describe_error(error))

    def _dispatch(self, name: str, arg0: int, arg1: int, data: bytes) -> None:
        with self.changed:
            stream = self._streams.get(arg1)
            if stream is None:
                if name == "OKAY" and arg1:  # the stream was abandoned before it was opened
                    self._outbox.put(("CLSE", arg1, arg0))
                return
            if name == "OKAY":
                stream.remote_id = stream.remote_id or arg0
                stream.ready += 1
            elif name == "WRTE":
                stream.arrived.append(data)
            elif name == "CLSE":
                stream.closed = True
                self._streams.pop(arg1)
                self._outbox.put(("CLSE", arg1, arg0))
            self.changed.notify_all()

    def _answer(self) -> None:
        """Send queued messages that no caller waits for."""
        while (item := self._outbox.get()) is not None:
            with contextlib.suppress(LinkError):
                self.send(*item, b"", 10.0)

    def _flush(self) -> None:
        """Wait briefly for queued messages (streams closed) to reach the device."""
        deadline = Deadline(1.0)
        while self.connected and not self._outbox.empty() and not deadline.expired:
            threading.Event().wait(0.01)

    def _shut(self, reason: str) -> None:
        with self.changed:
            if self._shut_down.is_set():
                return
            self._shut_down.set()
            self.reason = reason
            self.changed.notify_all()
        self._outbox.put(None)
        with contextlib.suppress(Exception):  # a transport that is gone may raise anything when it is closed
            self._transport.close()


def _describe_error(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _is_timeout(error: Exception) -> bool:
    """Return whether an exception means that no data came: TCP by its class, USB by LIBUSB_ERROR_TIMEOUT (-7)."""
    if type(error).__name__ == "TcpTimeoutException":
        return True
    return getattr(getattr(error, "usb_error", None), "value", None) == -7


def connect_tcp(
    host: str, port: int, timeout_s: float, *, allow_s: float = 10.0, keys: list[Path] | None = None
) -> AdbSession:
    """Connect to a daemon that listens on a port.

    Raises:
        LinkError: If nobody answers, or the device does not (yet) allow the key.
        ConfigError: If a package or a key is missing.
    """
    base: Any = _import_module("adb_shell.transport.tcp_transport").TcpTransport

    class Prompt(base):  # type: ignore[misc]  # its base is known at run time only
        """A TCP transport without Nagle's delay: data would wait 40 ms for the acknowledgement of its header."""

        def connect(self, transport_timeout_s: float | None) -> None:
            super().connect(transport_timeout_s)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    transport = Prompt(host, port)
    return AdbSession(
        transport,
        f"{host}:{port}",
        "over TCP, without an adb server",
        load_signers(find_adb_keys() if keys is None else keys),
        timeout_s,
        allow_s,
    )


def connect_usb(serial: str, timeout_s: float, *, allow_s: float = 10.0, keys: list[Path] | None = None) -> AdbSession:
    """Connect to a device on USB that no adb server is using.

    Raises:
        LinkError: If there is no such device or another program uses it.
        ConfigError: If a package or a key is missing.
    """
    usb = _import_module("adb_shell.transport.usb_transport").UsbTransport
    exceptions = _import_module("adb_shell.exceptions")
    try:
        transport = usb.find_adb(serial=serial)
    except exceptions.UsbDeviceNotFoundError as error:
        raise LinkError(f"no device {serial} on USB; plug it in and switch USB debugging on") from error
    return AdbSession(
        transport,
        serial,
        "over USB, without an adb server",
        load_signers(find_adb_keys() if keys is None else keys),
        timeout_s,
        allow_s,
    )
