from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepen.devices import open_device
from deepen.devices.links.adb import open_adb_link
from deepen.devices.links.adb_server import AdbServer
from deepen.devices.links.adb_shell import connect_usb, find_adb_keys, load_signers
from deepen.devices.links.address import parse_host_and_port, split_options
from deepen.devices.links.ssh import SshAddress, open_ssh_link
from deepen.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.0.7:5555", ("192.168.0.7", 5555)),
        ("phone.local:5555", ("phone.local", 5555)),
        ("[fe80::1%eth0]:5555", ("fe80::1%eth0", 5555)),
        ("0A1B2C3D", None),
        ("emulator-5554", None),
        ("fe80::1", None),
        ("a b:1", None),
        ("host:", None),
        ("", None),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int] | None) -> None:
    assert parse_host_and_port(text) == expected


@pytest.mark.parametrize("text", ["host:0", "host:65536", "host:99999"])
def test_a_port_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="between 1 and 65535"):
        parse_host_and_port(text)


def test_options() -> None:
    assert split_options("a?key=x%20y&work=/z", ("key", "work")) == ("a", {"key": "x y", "work": "/z"})
    assert split_options("a", ("key",)) == ("a", {})
    for text in ("a?", "a?key", "a?key=", "a?key=1&key=2"):
        with pytest.raises(ConfigError):
            split_options(text, ("key",))
    with pytest.raises(ConfigError, match="unknown option of a device 'kye'; did you mean key"):
        split_options("a?kye=1", ("key",))


@pytest.mark.parametrize("spec", ["a b", "$(id)", "a;b", "-s", "x?via=usb", "x?via=direct&via=server", "x?work=rel"])
def test_adb_addresses_that_are_none(spec: str) -> None:
    with pytest.raises(ConfigError):
        open_adb_link(spec)


@pytest.mark.parametrize(
    "spec",
    ["", "@", "user@", "@host", "user@-oProxyCommand=x", "a b@c d", "user@host/x", "u@h?key=/nonexistent", "u@h?x=1"],
)
def test_ssh_addresses_that_are_none(spec: str) -> None:
    with pytest.raises(ConfigError):
        open_ssh_link(spec)


def test_ssh_addresses() -> None:
    assert open_ssh_link("pi@board").description == "ssh pi@board"
    assert open_ssh_link("pi@board:2222").description == "ssh pi@board:2222"
    assert open_ssh_link("pi@[fe80::1]:22").description == "ssh pi@[fe80::1]:22"
    assert open_ssh_link("board").description == "ssh board"
    assert SshAddress("h").options()["keepalive_interval"] > 0
    assert "known_hosts" not in SshAddress("h").options()  # the default verifies; None would not


@pytest.mark.parametrize("spec", ["adb", "ssh", "adb:", "ssh:"])
def test_a_link_without_an_address(spec: str) -> None:
    with pytest.raises(ConfigError, match="say which one"):
        open_device(spec)


def test_local_takes_no_address() -> None:
    with pytest.raises(ConfigError, match="takes no address"):
        open_device("local:here")


def test_packages_that_are_missing_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adb_shell.auth.sign_pythonrsa", None)
    monkeypatch.setitem(sys.modules, "adb_shell.transport.usb_transport", None)
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(ConfigError, match=r"adb start-server.*pip install 'deepen\[adb\]'"):
        load_signers([])
    with pytest.raises(ConfigError, match=r"adb start-server.*pip install 'deepen\[adb\]', and the system's libusb"):
        connect_usb("X", 1.0)
    with pytest.raises(ConfigError, match=r"pip install 'deepen\[ssh\]'"):
        open_ssh_link("u@h").run(["true"], timeout_s=1)


def test_keys_are_taken_from_where_adb_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)
    assert find_adb_keys() == []
    (tmp_path / ".android").mkdir()
    own, other = tmp_path / ".android" / "adbkey", tmp_path / "vendor"
    own.write_text("x")
    other.write_text("x")
    monkeypatch.setenv("ADB_VENDOR_KEYS", f"{other}:/nonexistent:")
    assert find_adb_keys() == [other, own]


def test_the_port_of_the_adb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    assert AdbServer().port == 5037
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "6000")
    assert AdbServer().port == 6000
    assert AdbServer(7000).port == 7000
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "x; rm -rf /")
    with pytest.raises(ConfigError, match="not the number of a port"):
        AdbServer()
