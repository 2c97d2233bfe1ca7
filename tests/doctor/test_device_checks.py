"""What the doctor says of phones: each that cannot be used, with why and the cure."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepen.devices.links.adb_server import AdbServer, AdbServerTransport, describe_state_cure
from deepen.devices.settings.apply_and_restore import apply_settings
from deepen.doctor.device_checks import DoctorCheck, check_devices, find_usb_phones
from deepen.errors import LinkError
from deepen.testing.fake_boards import make_fake_phone


@contextmanager
def adb_server(*devices: tuple[str, str]) -> Iterator[AdbServer]:
    """A server that answers ``host:version`` and ``host:devices`` (AOSP, adb/OVERVIEW.TXT)."""
    text = "".join(f"{serial}\t{state}\n" for serial, state in devices).encode()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(4096)
                answer = text if asked.endswith(b"host:devices") else b"0029"
                connection.sendall(b"OKAY%04x%s" % (len(answer), answer))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield AdbServer(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def no_server() -> AdbServer:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return AdbServer(listener.getsockname()[1])


def plug(root: Path, name: str, serial: str, *, adb: bool = True, may: bool = True, number: int = 5) -> None:
    """A phone on USB as sysfs shows it."""
    folder = root / "sys/bus/usb/devices" / name
    interface = folder / f"{name}:1.0"
    interface.mkdir(parents=True)
    for key, text in {"busnum": "1", "devnum": str(number), "serial": serial, "product": "Pixel 6"}.items():
        (folder / key).write_text(f"{text}\n")
    for key, text in zip(("Class", "SubClass", "Protocol"), ("ff", "42" if adb else "ff", "01"), strict=True):
        (interface / f"bInterface{key}").write_text(f"{text}\n")
    node = root / f"dev/bus/usb/001/{number:03d}"
    node.parent.mkdir(parents=True, exist_ok=True)
    if may:
        node.touch()


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPEN_STATE", str(tmp_path / "state"))


def phones(checks: Iterator[DoctorCheck]) -> dict[str, DoctorCheck]:
    return {c.name: c for c in checks if c.name.startswith("phone")}


def test_phones_of_a_server_each_with_its_state_and_cure(tmp_path: Path) -> None:
    known = [
        ("GOOD", "device"),
        ("NEW", "unauthorized"),
        ("SICK", "offline"),
        ("RULE", "no permissions"),
        ("B", "bootloader"),
    ]
    with adb_server(*known) as server:
        found = phones(check_devices(tmp_path, server))
    assert found["phone adb:GOOD"].status == "ok"
    assert "deepen device probe adb:GOOD" in found["phone adb:GOOD"].found
    assert (found["phone adb:NEW"].found, found["phone adb:NEW"].status) == ("unauthorized", "note")
    assert "allow USB debugging in the dialog" in found["phone adb:NEW"].cure
    assert "adb reconnect offline" in found["phone adb:SICK"].cure
    assert "fastboot reboot" in found["phone adb:B"].cure
    rule = found["phone adb:RULE"].cure.split()
    assert rule[:2] == ["sudo", "cp"]
    assert Path(rule[2]).is_file()


def test_a_phone_the_server_does_not_see(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "SEEN")
    plug(tmp_path, "1-2", "UNSEEN", number=6)
    plug(tmp_path, "1-3", "CLOSED", number=7, may=False)
    with adb_server(("SEEN", "device")) as server:
        found = phones(check_devices(tmp_path, server))
    assert found["phone adb:SEEN"].status == "ok"
    assert "does not see it" in found["phone adb:UNSEEN"].cause
    assert "adb kill-server" in found["phone adb:UNSEEN"].cure
    assert "no permission to open" in found["phone adb:CLOSED"].cause
    assert "udevadm" in found["phone adb:CLOSED"].cure


def test_phones_without_a_server(tmp_path: Path) -> None:
    plug(tmp_path, "1-1", "MINE")
    plug(tmp_path, "1-2", "CLOSED", number=6, may=False)
    plug(tmp_path, "1-4", "CAMERA", adb=False, number=8)
    assert [p.serial for p in find_usb_phones(tmp_path)] == ["MINE", "CLOSED"]
    found = phones(check_devices(tmp_path, no_server()))
    assert found["phone adb:MINE"].status == "ok"
    assert "udevadm" in found["phone adb:CLOSED"].cure
    assert "phone adb:CAMERA" not in found


def test_no_phone_at_all_is_said_with_what_to_do(tmp_path: Path) -> None:
    found = phones(check_devices(tmp_path, no_server()))
    assert found["phones"].found == "none"
    assert "adb devices" in found["phones"].cure
    with adb_server() as server:
        assert "USB debugging on" in phones(check_devices(tmp_path, server))["phones"].cure


def test_what_was_left_changed_is_said(tmp_path: Path) -> None:
    apply_settings(make_fake_phone(), {"brightness": 0}, hold=True).close()
    (left,) = [c for c in check_devices(tmp_path, no_server()) if c.name.startswith("settings")]
    assert left.name == "settings of Pixel 6 1A2B3C"
    assert "--restore" in left.cure


def test_the_link_says_the_same_cures() -> None:
    with adb_server(("NEW", "unauthorized")) as server:
        with pytest.raises(LinkError, match=r"is unauthorized; unlock its screen"):
            AdbServerTransport(server, "NEW", 5.0)
        with pytest.raises(LinkError, match=r"is not there; the adb server does not see it"):
            AdbServerTransport(server, "OTHER", 5.0)
    assert describe_state_cure("no permissions (user in plugdev group)") == describe_state_cure("no permissions")
    assert describe_state_cure("$(id)") == "wait until it is ready"
