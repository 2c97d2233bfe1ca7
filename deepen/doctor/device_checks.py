"""Checks of phones and boards: the reachable ones, the obstacles to the others, and leftovers of earlier runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepen.devices.links.adb_server import AdbServer, ServerDevice, describe_state_cure, describe_usb_access_cure
from deepen.devices.settings.restore_journal import list_open_journals
from deepen.errors import DeepenError
from deepen.measure.detached.store import list_pending_runs

__all__ = ["DoctorCheck", "UsbPhone", "check_devices", "find_usb_phones"]

_ADB = ("ff", "42", "01")
"""USB interface of a phone with USB debugging: class, subclass and protocol (AOSP ``adb.h``)."""


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One line of the doctor's report.

    Attributes:
        name: Subject of the check.
        status: ``ok``; ``note`` if something is less than ideal; ``fail`` if measuring does not work.
        found: Description of the state found.
        cause: Why it is not ok.
        cure: What to do about it.
    """

    name: str
    status: Literal["ok", "note", "fail"]
    found: str
    cause: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class UsbPhone:
    """A phone on a USB port of this machine, with USB debugging switched on.

    Attributes:
        serial: Its serial number; empty if it has none.
        product: Its product name.
        node: Its file below ``/dev/bus/usb``.
    """

    serial: str
    product: str
    node: Path


def find_usb_phones(root: Path = Path("/")) -> list[UsbPhone]:
    """Find the phones with USB debugging that the kernel sees, including those without permission to use (Linux).

    Args:
        root: Root of ``/sys`` and ``/dev``; another root is for tests.
    """
    found = []
    for folder in sorted((root / "sys/bus/usb/devices").glob("*")):
        interfaces = folder.glob(f"{folder.name}:*")
        if any(
            tuple(_read_text(i / f"bInterface{n}") for n in ("Class", "SubClass", "Protocol")) == _ADB
            for i in interfaces
        ):
            bus, number = _read_text(folder / "busnum"), _read_text(folder / "devnum")
            if bus.isdecimal() and number.isdecimal():
                node = root / f"dev/bus/usb/{int(bus):03d}/{int(number):03d}"
                found.append(UsbPhone(_read_text(folder / "serial"), _read_text(folder / "product"), node))
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def check_devices(root: Path = Path("/"), server: AdbServer | None = None) -> Iterator[DoctorCheck]:
    """Check phones and boards, and look for leftovers of interrupted runs.

    Args:
        root: Root of ``/sys`` and ``/dev``; another root is for tests.
        server: The adb server to query; ``None`` for this machine's.
    """
    yield from _check_link_packages()
    phones = find_usb_phones(root)
    asked = server or AdbServer()
    if asked.running():
        yield from _check_server_phones(asked, phones)
    else:
        yield from _check_usb_phones(phones)
    yield from _check_leftovers()


def _check_link_packages() -> Iterator[DoctorCheck]:
    links = {"adb_shell": ("adb", "phones without an adb server"), "asyncssh": ("ssh", "boards over SSH")}
    for module, (extra, what) in links.items():
        if importlib.util.find_spec(module) is None:
            yield DoctorCheck(f"link {extra}", "note", "", f"{what} need a package", f"pip install 'deepen[{extra}]'")
        else:
            yield DoctorCheck(f"link {extra}", "ok", f"{what} can be reached")


def _check_server_phones(server: AdbServer, phones: list[UsbPhone]) -> Iterator[DoctorCheck]:
    """Check the phones an adb server has; it holds the USB devices, so phones it does not have are unusable."""
    try:
        known = server.devices(5.0)
    except DeepenError as error:
        yield DoctorCheck("adb server", "note", "", str(error), "'adb kill-server', then 'adb devices'")
        return
    for device in known:
        yield _check_phone_state(device)
    serials = {device.serial for device in known}
    for phone in phones:
        if phone.serial not in serials:
            yield _describe_unseen_phone(phone, f"the adb server on port {server.port} does not see it")
    if not known and not phones:
        cause = "no phone is connected, or USB debugging is off on it"
        cure = "plug it in; on it: developer options, USB debugging on (tap the build number seven times to get them)"
        yield DoctorCheck("phones", "note", "none", cause, cure)


def _check_phone_state(device: ServerDevice) -> DoctorCheck:
    name = f"phone adb:{device.serial}"
    if device.state == "device":
        return DoctorCheck(name, "ok", f"can be used; 'deepen device probe adb:{device.serial}' tells what it is")
    return DoctorCheck(name, "note", device.state, "it cannot be used yet", describe_state_cure(device.state))


def _check_usb_phones(phones: list[UsbPhone]) -> Iterator[DoctorCheck]:
    """Check the phones the kernel sees; without an adb server, deepen speaks to them itself."""
    for phone in phones:
        if not os.access(phone.node, os.R_OK | os.W_OK):
            yield _describe_unseen_phone(phone, "")
        else:
            yield DoctorCheck(f"phone adb:{phone.serial}", "ok", f"{phone.product or 'a phone'} on USB")
    if not phones:
        how = "'adb devices' starts one" if shutil.which("adb") else "sudo apt install adb, then 'adb devices'"
        cause = "no phone with USB debugging is on USB, and no adb server runs that could know one over the network"
        yield DoctorCheck("phones", "note", "none", cause, f"plug one in; for one over the network: {how}")


def _describe_unseen_phone(phone: UsbPhone, cause: str) -> DoctorCheck:
    found = phone.product or "on USB"
    if os.access(phone.node, os.R_OK | os.W_OK):
        return DoctorCheck(f"phone adb:{phone.serial}", "note", found, cause, "'adb kill-server', then 'adb devices'")
    cause = f"{cause}{': ' if cause else ''}no permission to open {phone.node}"
    return DoctorCheck(f"phone adb:{phone.serial}", "note", found, cause, describe_usb_access_cure())


def _check_leftovers() -> Iterator[DoctorCheck]:
    try:
        for path, layer, count in list_open_journals():
            why = "held since 'device prepare'" if layer.hold else "left by a run that was interrupted"
            cure = "deepen device prepare DEVICE --restore"
            yield DoctorCheck(f"settings of {layer.device}", "note", f"{count} are changed", f"{why} ({path})", cure)
        for run in list_pending_runs():
            if run.in_progress:
                continue
            name = f"detached run of {run.model} on {f'{run.device} {run.serial}'.strip()}"
            cure = f"deepen profile {run.model} --device DEVICE --collect, or remove {run.folder}"
            yield DoctorCheck(name, "note", f"started {run.started_at}", "it has not been collected", cure)
    except DeepenError as error:
        yield DoctorCheck("what was left behind", "note", "", str(error), "correct what the message names")
