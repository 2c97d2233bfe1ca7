"""Serial ports: opened by name or URL through pyserial, locked, and read in as large pieces as available.

``/dev/ttyACM0``, ``COM``-like names, ``socket://HOST:PORT``, ``loop://``, ``spy:///dev/ttyACM0`` and every other URL
pyserial knows. Inside a meter specification a question mark ends the port, so one that belongs to the URL is written
``%3F``. pyserial's exceptions are translated here.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import os
import re
import select
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepen import catalog
from deepen.errors import ConfigError, MeterError
from deepen.meters.ports.locks import InstrumentLock, find_device_users, read_command_line
from deepen.meters.ports.protocol import Port
from deepen.meters.types import MeterSpec
from deepen.records import Source

__all__ = ["SerialPort", "describe_udev_fix", "get_source_label", "import_pyserial", "list_serial_ports", "open_port"]

_READ_LIMIT = 1 << 20
_CHUNK = 1 << 16
_WRITE_TIMEOUT_S = 2.0
_WRAPPERS = ("spy", "alt")
"""URL schemes of pyserial around a device file: ``spy:///dev/ttyACM0?file=log``."""


def import_pyserial() -> Any:
    """Import pyserial.

    Raises:
        MeterError: If it is not installed.
    """
    try:
        import serial
    except ImportError as error:
        raise MeterError("serial ports need pyserial", cure="pip install 'deepen[serial]'") from error
    return serial


def list_serial_ports() -> list[Any]:
    """List the serial ports of this machine as pyserial's ``ListPortInfo``, USB ones first.

    Raises:
        MeterError: If pyserial is not installed.
    """
    import_pyserial()
    from serial.tools import list_ports

    return sorted(list_ports.comports(), key=lambda port: (port.vid is None, port.device))


def describe_udev_fix() -> str:
    """Describe the cure for a missing permission, with the path of the rule file shipped with deepen."""
    rule = catalog.find_root() / "devices" / "udev" / "60-deepen-meters.rules"
    return (
        f"sudo cp {rule} /etc/udev/rules.d/ && sudo udevadm control --reload && sudo udevadm trigger, then plug it in "
        'again; or sudo usermod -aG dialout "$USER" and log in again'
    )


class SerialPort:
    """A port opened by :func:`open_port`.

    Attributes:
        name: Name the user gave it.
        pseudo: True if only software can be at the other end: a pseudo-terminal, ``loop://``, or a socket on this
            machine. Its samples are labelled ``simulated`` unless the user states that an instrument is forwarded to
            it.
        lock: Lock of the instrument; ``None`` if it cannot be shared.
    """

    def __init__(self, name: str, raw: Any, *, pseudo: bool, lock: InstrumentLock | None = None) -> None:
        """Wrap an open pyserial object; :func:`open_port` makes one."""
        self.name = name
        self.pseudo = pseudo
        self.lock = lock
        self._raw = raw
        self._fd = _get_file_descriptor(raw)
        self._poll: select.poll | None = None
        # Wrappers such as spy:// must see the bytes pass, so they are read through pyserial, all others directly.
        if self._fd is not None and type(raw).__module__ in ("serial.serialposix", "serial.urlhandler.protocol_socket"):
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes and return all that have come; empty if none came in time.

        Raises:
            MeterError: If the port is gone.
        """
        try:
            if self._poll is None:
                return self._read_wrapped(timeout_s)
            if not self._poll.poll(max(0, math.ceil(timeout_s * 1000))):
                return b""
            return self._drain()
        except (OSError, import_pyserial().SerialException) as error:
            raise self._gone(error) from error

    def _drain(self) -> bytes:
        """Read the bytes available; a terminal returns at most 4 KiB per call."""
        assert self._fd is not None
        chunks: list[bytes] = []
        size = 0
        while size < _READ_LIMIT:
            try:
                chunk = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                break
            except OSError:
                if chunks:  # received before it was unplugged, which the next call reports
                    break
                raise
            if not chunk:
                if not chunks:  # ready, but nothing to read: the other end has hung up
                    raise OSError(errno.EIO, "the other end has closed the connection")
                break
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)

    def _read_wrapped(self, timeout_s: float) -> bytes:
        if self._raw.timeout != timeout_s:
            self._raw.timeout = timeout_s
        data = bytes(self._raw.read(1))
        waiting = self._raw.in_waiting if data else 0
        return data + bytes(self._raw.read(waiting)) if waiting else data

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            MeterError: If the port is gone or does not accept them.
        """
        serial = import_pyserial()
        try:
            self._raw.write(data)
        except serial.SerialTimeoutException as error:
            raise MeterError(
                f"{self.name} has taken no command for {_WRITE_TIMEOUT_S:g} s", cure="unplug it and plug it in again"
            ) from error
        except (OSError, serial.SerialException) as error:
            raise self._gone(error) from error

    def flush_input(self) -> None:
        """Discard the bytes received.

        Raises:
            MeterError: If the port is gone.
        """
        while self.read(0.0):
            pass

    def fileno(self) -> int | None:
        """Return a file descriptor that a guard process can write to; ``None`` if there is none."""
        return self._fd

    def close(self) -> None:
        """Release the port and its lock; harmless when closed."""
        self._poll = None
        self._fd = None
        try:
            with contextlib.suppress(OSError, import_pyserial().SerialException), warnings.catch_warnings():
                # pyserial 3.5 leaves a socket to the garbage collector if its peer closed first.
                warnings.simplefilter("ignore", ResourceWarning)
                self._raw.close()
                _close_log(self._raw)
        finally:
            if self.lock is not None:
                self.lock.release()

    def _gone(self, error: Exception) -> MeterError:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return MeterError(f"{self.name} is gone ({text})", cure="check the cable and plug the instrument in again")


def _close_log(raw: Any) -> None:
    """Close the file that ``spy://...?file=NAME`` writes, which pyserial leaves open."""
    output = getattr(getattr(raw, "formatter", None), "output", None)
    if output is not None and output not in (sys.stdout, sys.stderr):
        output.close()


def _get_file_descriptor(raw: Any) -> int | None:
    try:
        return int(raw.fileno())
    except (OSError, AttributeError, TypeError):  # loop:// and rfc2217:// have none
        return None


def open_port(name: str, *, baud: int = 115200, exclusive: bool = True) -> SerialPort:
    """Open a serial port.

    Args:
        name: Device file or pyserial URL, with ``%3F`` for a question mark in it.
        baud: Bits per second; USB instruments ignore it.
        exclusive: True to lock the instrument, and to refuse a port that another process has open.

    Raises:
        ConfigError: If the name cannot be a port.
        MeterError: If there is no such port, no permission, or another user; the message has the cure.
    """
    if not name:
        raise ConfigError("no port was named", cure="write NAME:/dev/ttyACM0 (see 'deepen meter list')")
    serial = import_pyserial()
    url = re.sub("%3f", "?", name, flags=re.IGNORECASE) if "://" in name else name
    device = _get_device_file(url)
    pseudo = _is_pseudo(url, device)
    if device:
        _check_device(name, device)
    lock = None
    if exclusive and not url.lower().startswith("loop:"):
        lock = InstrumentLock(_identify_instrument(url, device), name)
    try:
        if exclusive and device and not pseudo:
            _refuse_other_holders(name, device)
        raw = serial.serial_for_url(
            url,
            baudrate=baud,
            timeout=0,
            write_timeout=_WRITE_TIMEOUT_S,
            exclusive=True if exclusive and device else None,
        )
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, OSError | ValueError | serial.SerialException):
            raise _translate_open_error(name, baud, error) from error
        raise
    return SerialPort(name, raw, pseudo=pseudo, lock=lock)


def get_source_label(port: Port, spec: MeterSpec) -> Source:
    """Return the label of a port's data: the option ``source``, else ``simulated`` if only software can answer.

    Raises:
        ConfigError: If the option is neither ``measured`` nor ``simulated``.
    """
    given = spec.options.get("source", "")
    if given == "measured":
        return "measured"
    if given == "simulated":
        return "simulated"
    if given:
        raise ConfigError(f"meter '{spec.name}': source is 'measured' or 'simulated', not '{given}'")
    return "simulated" if getattr(port, "pseudo", False) else "measured"


def _get_device_file(url: str) -> str:
    """Return the device file behind a name or URL; empty if there is none."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return parts.netloc + parts.path if parts.scheme in _WRAPPERS else ""


def _is_pseudo(url: str, device: str) -> bool:
    if device:
        real = os.path.realpath(device)
        return real.startswith("/dev/pts/") or bool(re.match(r"/dev/ttys\d", real))  # Linux; macOS
    parts = urlsplit(url)
    if parts.scheme == "loop":
        return True
    host = parts.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _identify_instrument(url: str, device: str) -> str:
    """Return the unique identity of the instrument behind a port: its USB serial number, else the port's real path."""
    if not device:
        return url
    real = os.path.realpath(device)
    for port in list_serial_ports():
        if port.serial_number and os.path.realpath(port.device) == real:
            return f"usb {port.vid:04x}:{port.pid:04x} {port.serial_number}"
    return real


def _check_device(name: str, device: str) -> None:
    path = Path(device)
    try:
        there, special = path.exists(), path.is_char_device()
    except OSError:
        there, special = True, True  # opening it will show
    if not there:
        raise MeterError(f"there is no port {name}", cure=_describe_known_ports())
    if not special:
        raise MeterError(
            f"{name} is not a serial port but a {'folder' if path.is_dir() else 'file'}",
            cure=_describe_known_ports(),
        )


def _describe_known_ports() -> str:
    found = [f"{p.device} ({p.description})" if p.vid is not None else p.device for p in list_serial_ports()]
    return f"ports here: {', '.join(found)}" if found else "there are no serial ports here: plug the instrument in"


def _refuse_other_holders(name: str, device: str) -> None:
    pids = find_device_users(device)
    if pids:
        who = ", ".join(f"process {pid} ({read_command_line(pid) or 'unknown'})" for pid in pids)
        raise MeterError(f"{name} is in use by {who}", cure=f"end that first (kill {pids[0]})")


def _translate_open_error(name: str, baud: int, error: Exception) -> MeterError:
    """Translate a failure to open a port to an error with cause and cure."""
    inner = error.__context__ if getattr(error, "errno", None) is None else error
    code = getattr(inner, "errno", None)
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return MeterError(f"there is no port {name}", cure=_describe_known_ports())
    if code in (errno.EACCES, errno.EPERM):
        return MeterError(f"no permission to open {name}", cure=describe_udev_fix())
    if code in (errno.EBUSY, errno.EAGAIN):
        return MeterError(f"{name} is in use by another program", cure=f"end it ('fuser -v {name}' names it)")
    if code in (errno.ENOTTY, errno.EINVAL):
        return MeterError(f"{name} is not a serial port, or cannot do {baud} baud", cure=_describe_known_ports())
    if code == errno.ECONNREFUSED or isinstance(inner, TimeoutError):
        return MeterError(f"nothing answers at {name}", cure="start the server there, or correct host and port")
    if isinstance(error, ValueError):
        return MeterError(
            f"{name} is not a port ({error})", cure="write a device file or a pyserial URL such as socket://HOST:PORT"
        )
    return MeterError(f"cannot open {name} ({' '.join(str(error).split())})", cure="check the port")
