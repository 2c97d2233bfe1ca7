"""ADB through a running adb server, over the server's own socket protocol (ADB's ``SERVICES.TXT``).

A request is four hexadecimal digits with its length, then its text; the answer is ``OKAY``, or ``FAIL`` with a reason.
After ``host:transport:SERIAL`` the same socket belongs to the device, and ``exec:COMMAND`` makes it the command's input
and output. The program ``adb`` is never run, so none is left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from dataclasses import dataclass

from deepen import catalog
from deepen.clock.host_clock import Deadline
from deepen.errors import ConfigError, LinkError

__all__ = ["AdbServer", "AdbServerTransport", "ServerDevice", "describe_state_cure", "describe_usb_access_cure"]

_PORT = 5037


@dataclass(frozen=True, slots=True)
class ServerDevice:
    """A device known to an adb server.

    Attributes:
        serial: Its serial number, or ``HOST:PORT``.
        state: ``device`` when it can be used; ``unauthorized``, ``offline``, ``no permissions`` and so on when not.
    """

    serial: str
    state: str


class AdbServer:
    """An adb server on this machine.

    Args:
        port: Its port; ``None`` for ``$ANDROID_ADB_SERVER_PORT``, else 5037.
    """

    def __init__(self, port: int | None = None) -> None:
        text = os.environ.get("ANDROID_ADB_SERVER_PORT", "") or str(_PORT)
        if port is None and not text.isdigit():
            raise ConfigError(f"ANDROID_ADB_SERVER_PORT is '{text}', not the number of a port; correct or unset it")
        self.port = int(text) if port is None else port

    def devices(self, timeout_s: float = 5.0) -> list[ServerDevice]:
        """List the devices it knows.

        Raises:
            LinkError: If there is no server or it does not answer.
        """
        deadline = Deadline(timeout_s)
        with self._request("host:devices", deadline) as connection:
            text = _receive_exactly(connection, _receive_length(connection, deadline), deadline)
        found = (line.split("\t", 1) for line in text.decode("utf-8", "replace").splitlines() if "\t" in line)
        return [ServerDevice(serial, state) for serial, state in found]

    def running(self) -> bool:
        """Return whether a server answers; never starts one."""
        try:
            with self._request("host:version", Deadline(2.0)):
                return True
        except LinkError:
            return False

    def open(self, serial: str, command: str, timeout_s: float) -> SocketStream:
        """Start a command on a device.

        Raises:
            LinkError: If the device is not there, does not allow it, or does not answer.
        """
        deadline = Deadline(timeout_s)
        connection = self._request(f"host:transport:{serial}", deadline)
        try:
            _request_service(connection, f"exec:{command}", deadline)
        except BaseException:
            connection.close()
            raise
        return SocketStream(connection)

    def _request(self, text: str, deadline: Deadline) -> socket.socket:
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), max(deadline.remaining_s, 0.1))
        except OSError as error:
            raise LinkError(f"no adb server on port {self.port} ({error}); start it: adb start-server") from error
        try:
            connection.setblocking(False)
            _request_service(connection, text, deadline)
        except BaseException:
            connection.close()
            raise
        return connection


class SocketStream:
    """A command behind a socket."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected, non-blocking socket."""
        self._socket = connection

    def write(self, data: bytes, timeout_s: float) -> None:
        """Write all bytes."""
        _send_all(self._socket, data, Deadline(timeout_s))

    def read(self, timeout_s: float) -> bytes | None:
        """Read the bytes available; ``None`` if none came in time, empty at the end."""
        try:
            if not _wait_ready(self._socket, Deadline(timeout_s), reading=True):
                return None
            return self._socket.recv(1 << 16)
        except (OSError, ValueError) as error:  # ValueError: it was closed by another thread
            raise LinkError(f"the connection to the adb server was cut ({error})") from error

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def describe_usb_access_cure() -> str:
    """Describe the cure for missing access to phones on USB, with the command to copy."""
    rules = catalog.find_path("devices", "udev", "60-deepen-phones.rules")
    return (
        f"sudo cp {rules} /etc/udev/rules.d/ && sudo udevadm control --reload && sudo udevadm trigger, then "
        "'adb kill-server' and plug it in again"
    )


def describe_state_cure(state: str) -> str:
    """Describe the cure for a device state other than ``device``; an empty state means the server does not see it."""
    if state.startswith("no permissions"):
        return describe_usb_access_cure()
    cures = {
        "": "the adb server does not see it; plug it in and switch USB debugging on, or 'adb connect HOST:PORT'",
        "unauthorized": "unlock its screen and allow USB debugging in the dialog",
        "authorizing": "unlock its screen and allow USB debugging in the dialog",
        "offline": "unplug it and plug it in again, or 'adb reconnect offline'",
        "recovery": "start its system: 'adb reboot'",
        "sideload": "start its system: 'adb reboot'",
        "bootloader": "start its system: 'fastboot reboot'",
    }
    return cures.get(state, "wait until it is ready")


class AdbServerTransport:
    """One device behind an adb server."""

    def __init__(self, server: AdbServer, serial: str, timeout_s: float) -> None:
        """Make sure the device can be used.

        Raises:
            LinkError: If it is not there or cannot be used now, with the cure.
        """
        self.description = f"through the adb server on port {server.port}"
        self.connected = True
        self._server = server
        self._serial = serial
        state = next((d.state for d in server.devices(timeout_s) if d.serial == serial), "")
        if state == "device":
            return
        raise LinkError(f"the device is {state or 'not there'}; {describe_state_cure(state)}")

    def open(self, command: str, timeout_s: float) -> SocketStream:
        """Start a command."""
        try:
            return self._server.open(self._serial, command, timeout_s)
        except LinkError:
            self.connected = False
            raise

    def close(self) -> None:
        """Do nothing: no connection is kept open between commands."""
        self.connected = False


def _wait_ready(connection: socket.socket, deadline: Deadline, *, reading: bool) -> bool:
    ready = select.select([connection] if reading else [], [] if reading else [connection], [], deadline.remaining_s)
    return bool(ready[0] or ready[1])


def _send_all(connection: socket.socket, data: bytes, deadline: Deadline) -> None:
    view = memoryview(data)
    try:
        while view:
            if not _wait_ready(connection, deadline, reading=False):
                raise LinkError(f"the device took nothing within {deadline.duration_s:g} s; check the cable, try again")
            view = view[connection.send(view) :]
    except (OSError, ValueError) as error:
        raise LinkError(f"the connection to the adb server was cut ({error})") from error


def _receive_exactly(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    data = b""
    try:
        while len(data) < size:
            if not _wait_ready(connection, deadline, reading=True):
                raise LinkError(f"the adb server did not answer within {deadline.duration_s:g} s; is the device there?")
            got = connection.recv(size - len(data))
            if not got:
                raise LinkError("the adb server hung up; try again")
            data += got
    except OSError as error:
        raise LinkError(f"the connection to the adb server was cut ({error})") from error
    return data


def _receive_length(connection: socket.socket, deadline: Deadline) -> int:
    text = _receive_exactly(connection, 4, deadline)
    try:
        return int(text, 16)
    except ValueError as error:
        raise LinkError(f"what answers on the adb server's port is none ({text!r})") from error


def _request_service(connection: socket.socket, text: str, deadline: Deadline) -> None:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > 0xFFFF:
        raise ConfigError("the command is longer than an adb server takes; push a file instead")
    _send_all(connection, b"%04x" % len(data) + data, deadline)
    answer = _receive_exactly(connection, 4, deadline)
    if answer == b"OKAY":
        return
    if answer != b"FAIL":
        raise LinkError(f"what answers on the adb server's port is none ({answer!r})")
    reason = _receive_exactly(connection, _receive_length(connection, deadline), deadline).decode("utf-8", "replace")
    raise LinkError(f"the adb server says: {reason.splitlines()[0] if reason else 'no'}; see 'adb devices'")
