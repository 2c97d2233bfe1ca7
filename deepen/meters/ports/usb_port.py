"""USB instruments without a serial port, as a stream of bytes: control requests out, answers and bulk packets in.

Bytes written are a sequence of USB setup packets (8 bytes: bmRequestType, bRequest, wValue, wIndex, wLength, little
endian; USB 2.0 specification, 9.3), each followed by its data if it goes out. Bytes read are a sequence of frames:
kind, length, payload, and a CRC of 16 bits (CRC-CCITT) over all of that, as USB itself protects every packet; a frame
of kind 0x81 is one packet of the bulk endpoint 0x81, one of kind 0x80 the answer to a control request. Everything that
works on a port (emulators, a socket to another machine, the guard) therefore works on a USB instrument too.

pyusb's exceptions are translated here.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from deepen.errors import MeterError
from deepen.meters.ports import usb_guard
from deepen.meters.ports.guard import PortGuard
from deepen.meters.ports.locks import InstrumentLock
from deepen.meters.ports.serial_port import describe_udev_fix
from deepen.meters.ports.usb_guard import CONTROL_TIMEOUT_MS, split_control_requests

__all__ = ["ANSWER", "BULK", "UsbFrameDecoder", "UsbPort", "find_usb_instruments", "frame_usb_packet", "import_pyusb"]

BULK, ANSWER = 0x81, 0x80
PACKET = 64
"""Largest bulk packet of a full-speed device."""

_BULK_TIMEOUT_MS = 100
_END_S = 2.0
_QUEUE = 1 << 16


def import_pyusb() -> Any:
    """Import pyusb.

    Raises:
        MeterError: If it is not installed.
    """
    try:
        import usb.core
        import usb.util
    except ImportError as error:
        raise MeterError("USB instruments need pyusb", cure="pip install 'deepen[hvpm]'") from error
    return usb


def frame_usb_packet(kind: int, payload: bytes) -> bytes:
    """Frame a packet or an answer of up to 255 bytes."""
    data = bytes((kind, len(payload))) + payload
    return data + _compute_crc(data)


def _compute_crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "little")


class UsbFrameDecoder:
    """Decoder of frames in a stream of bytes; after damage it finds the next frame.

    Attributes:
        corrupt: Number of times that a frame was expected and none found.
        skipped: Number of bytes discarded.
    """

    def __init__(self) -> None:
        """Start at a frame."""
        self.corrupt = 0
        self.skipped = 0
        self._buffer = b""
        self._locked = True

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Parse the next bytes, split anywhere, and return (kind, payload) of every frame they complete."""
        view = self._buffer + data
        found: list[tuple[int, bytes]] = []
        at = 0
        while at < len(view):
            plausible = view[at] in (BULK, ANSWER)
            if plausible and at + 1 == len(view):
                break
            end = at + 4 + view[at + 1] if plausible else 0
            if end > len(view):
                break
            if plausible and _compute_crc(view[at : end - 2]) == view[end - 2 : end]:
                found.append((view[at], view[at + 2 : end - 2]))
                self._locked = True
                at = end
                continue
            self.corrupt += self._locked
            self._locked = False
            self.skipped += 1
            at += 1
        self._buffer = view[at:]
        return found


def find_usb_instruments(ids: Sequence[tuple[int, int]]) -> list[Any]:
    """Find devices by vendor and product id, without those that have a serial port (class CDC), as pyusb's ``Device``.

    Raises:
        MeterError: If pyusb or libusb is not installed.
    """
    usb = import_pyusb()
    found: list[Any] = []
    try:
        for vid, pid in ids:
            found += usb.core.find(find_all=True, idVendor=vid, idProduct=pid)
    except usb.core.NoBackendError as error:
        raise MeterError(
            "pyusb finds no libusb", cure="sudo apt install libusb-1.0-0 (macOS: brew install libusb)"
        ) from error
    return [
        d for d in found if not any(i.bInterfaceClass in (0x02, 0x0A) for configuration in d for i in configuration)
    ]


class UsbPort:
    """A USB device behind the protocol of a port.

    A thread continuously reads the bulk endpoint, because a full-speed device buffers few packets itself.

    Attributes:
        name: Name the user gave it.
        pseudo: Always false: real USB.
        lock: Lock of the instrument.
    """

    pseudo = False

    def __init__(self, device: Any, name: str, lock: InstrumentLock | None = None) -> None:
        """Take over a device.

        Args:
            device: pyusb's ``Device``.
            name: Its name in messages.
            lock: Lock of the instrument; released with the port.

        Raises:
            MeterError: If it cannot be opened; with the cure.
        """
        usb = import_pyusb()
        self.name = name
        self.lock = lock
        self._device = device
        self._usb_error: type[Exception] = usb.core.USBError
        self._timeout_error: type[Exception] = usb.core.USBTimeoutError
        self._ready = threading.Condition()
        self._frames: deque[bytes] = deque(maxlen=_QUEUE)  # an overflow shows in the packets' counters
        self._error: Exception | None = None
        self._closing = False
        self._helper: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        try:
            with contextlib.suppress(self._usb_error, NotImplementedError):
                if device.is_kernel_driver_active(0):  # Linux takes it for an HID device
                    device.detach_kernel_driver(0)
            device.set_configuration()
            usb.util.claim_interface(device, 0)
        except self._usb_error as error:
            usb.util.dispose_resources(device)
            raise self._translate(error) from error
        self._thread = threading.Thread(target=self._listen, name="deepen-usb", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> bytes:
        """Wait for frames and return all that have come; empty if none came in time.

        Raises:
            MeterError: If the device is gone.
        """
        with self._ready:
            if not self._frames and self._error is None:
                self._ready.wait(timeout_s)
            data = b"".join(self._frames)
            self._frames.clear()
        if not data and self._error is not None:
            raise self._translate(self._error) from self._error
        return data

    def write(self, data: bytes) -> None:
        """Carry out control requests; answers come with :meth:`read`.

        Raises:
            MeterError: If the device is gone or refuses one.
        """
        try:
            for kind, request, value, index, length, body in split_control_requests(data):
                answer = self._device.ctrl_transfer(
                    kind, request, value, index, length if kind & 0x80 else body, CONTROL_TIMEOUT_MS
                )
                if kind & 0x80:
                    self._put(frame_usb_packet(ANSWER, bytes(answer)))
        except self._usb_error as error:
            raise self._translate(error) from error

    def flush_input(self) -> None:
        """Discard the bytes received."""
        with self._ready:
            self._frames.clear()

    def fileno(self) -> int | None:
        """Return the descriptor of a pipe to a helper that carries out requests after this program dies (``guard``)."""
        if self._helper is None:
            reader, self._pipe = os.pipe()
            try:
                self._helper = subprocess.Popen(
                    [sys.executable, usb_guard.__file__, str(self._device.bus), str(self._device.address)],
                    stdin=reader,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(reader)
        return self._pipe

    def guard(self, safe_bytes: bytes) -> PortGuard:
        """Start a process that makes the instrument safe when this program dies."""
        fd = self.fileno()
        assert fd is not None
        return PortGuard(fd, safe_bytes, keep=() if self.lock is None else (self.lock.fileno(),))

    def close(self) -> None:
        """Release the device and its lock; harmless when closed."""
        if self._closing:
            return
        self._closing = True
        self._thread.join()
        if self._helper is not None:
            os.close(self._pipe)
            try:
                self._helper.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._helper.kill()
                self._helper.wait()
        try:
            with contextlib.suppress(self._usb_error):
                import_pyusb().util.dispose_resources(self._device)
        finally:
            if self.lock is not None:
                self.lock.release()

    def _put(self, data: bytes) -> None:
        with self._ready:
            self._frames.append(data)
            self._ready.notify()

    def _listen(self) -> None:
        """Read packets until the port is closed or the device is gone."""
        while not self._closing:
            try:
                packet = self._device.read(BULK, PACKET, _BULK_TIMEOUT_MS)
            except self._timeout_error:
                continue
            except self._usb_error as error:
                with self._ready:
                    self._error = error
                    self._ready.notify()
                return
            self._put(frame_usb_packet(BULK, bytes(packet)))

    def _translate(self, error: Exception) -> MeterError:
        code = getattr(error, "errno", None)
        if code in (errno.EACCES, errno.EPERM):
            return MeterError(f"no permission to open {self.name}", cure=describe_udev_fix())
        if code == errno.EBUSY:
            return MeterError(f"{self.name} is in use by another program", cure="end it")
        if code == errno.EPIPE:
            return MeterError(
                f"{self.name} refuses a request: it is no Monsoon power monitor, or needs a newer firmware"
            )
        if isinstance(error, self._timeout_error):
            return MeterError(f"{self.name} does not answer", cure="switch it off and on")
        return MeterError(f"{self.name} is gone ({error})", cure="check the cable and plug the instrument in again")
